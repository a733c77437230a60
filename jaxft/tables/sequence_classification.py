"""Texts, or pairs of texts, with a label, several labels or a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxft import config, tasks
from jaxft.data.columns import with_text
from jaxft.data.features import Features
from jaxft.data.sources import Split, require_columns
from jaxft.errors import UserError
from jaxft.metrics import classification
from jaxft.metrics.probabilities import sigmoid, softmax
from jaxft.models import Model
from jaxft.sure import disagreement
from jaxft.sure.calibration import Calibration
from jaxft.sure.distance import Distance
from jaxft.tables import labels, means, weighting, windows
from jaxft.tables.base import Host, Published, Table, named

LIKELY = 0.5
"""The probability from which a label is predicted where validation has chosen none."""

USAGE = """from transformers import pipeline

predict = pipeline("text-classification", model="path/to/this/directory")
print(predict("A text."))"""

OF_WINDOWS = """import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

path = "path/to/this/directory"
tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSequenceClassification.from_pretrained(path)
cut = dict(truncation=True, max_length={max_length}, stride={stride}, return_overflowing_tokens=True)
windows = tokenizer("A long text.", **cut, padding=True, return_tensors="pt")
windows.pop("overflow_to_sample_mapping")
with torch.no_grad():
    logits = model(**windows).logits
print({how})  # of the text"""

HOW = {
    "mean": "logits.mean(0)",
    "max": "logits.amax(0)",
    "attention": "logits[:, -1].softmax(0) @ logits[:, :-1]",
}
"""How PyTorch computes what `config.task.windows` names."""


@dataclasses.dataclass(frozen=True)
class SequenceClassification(Table):
    """Without labels it is a regression with one output.

    Attributes:
      calibration: of the probabilities that answers have; what is predicted does not depend on it.
      distance: by which answers say how far a text is from what was learned from; None: they do not.
    """

    options: config.SequenceClassification
    lower: frozenset[str] = frozenset({"mse", "ece"})
    calibration: Calibration | None = None
    distance: Distance | None = None

    @property
    def metric(self) -> str:
        return {"regression": "pearson", "multi_label": "f1_macro"}.get(self.options.problem, "accuracy")

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(column for column in (self.options.text, self.options.text_pair) if column)

    def read(self, split: Split, labelled: bool = True) -> Split:
        options = self.options
        if options.windows and options.text_pair:
            raise UserError(
                "config.task.windows is set, and so is config.task.text_pair: of pairs there are no windows"
            )
        columns = {"task.text": options.text, "task.text_pair": options.text_pair}
        if labelled:
            names = options.label_columns
            columns |= {f"task.label_columns[{i}]": one for i, one in enumerate(names)} or {"task.label": options.label}
            columns["task.weight"] = options.weight
        require_columns(split, columns)
        for column in self.inputs:
            split = with_text(split, column)
        return labels.read(options, weighting.read(options, split)) if labelled else split

    def resolve(self, splits: Mapping[str, Split]) -> config.SequenceClassification:
        return labels.resolve(self.options, splits)

    def check_labels(self, split: Split) -> None:
        if self.options.problem != "regression":
            labels.check_known(split, self.options.label, self.options.labels, "those of the run")

    def assume(self) -> dict[str, Any]:
        """Returns two labels, one a text."""
        options = self.options
        columns = options.label_columns
        known = {"problem": "multi_label" if columns else "single_label"} if options.problem == "auto" else {}
        unnamed = not options.labels and options.problem != "regression"
        return known | ({"labels": columns or ("0", "1")} if unnamed else {})

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        texts = [split.table.column(column).to_pylist() for column in self.inputs]
        if self.options.windows:
            encodings, rows = windows.encode(tokenizer, *texts, max_length=max_length, stride=self.options.stride)
            columns = {"input_ids": [e.ids for e in encodings], "token_type_ids": [e.type_ids for e in encodings]}
            given = self._given(split) if labelled else {}
            return columns | {"row": rows} | {name: column[rows] for name, column in given.items()}
        encoded = tokenizer(
            *texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=True
        )
        columns = {name: encoded[name] for name in ("input_ids", "token_type_ids")}
        return columns | (self._given(split) if labelled else {})

    def _given(self, split: Split) -> dict[str, np.ndarray]:
        """The labels of rows, and how much each counts where a column says so."""
        given = {"labels": labels.ids(self.options, split)}
        if self.options.weight:
            given["weights"] = np.asarray(split.table[self.options.weight], np.float32)
        return given

    def sampling(self, features: Features) -> np.ndarray | None:
        """Returns 1 / (rows of its class), so that an epoch has as much of each."""
        if self.options.sampling != "balanced":
            return None
        labels = _of_rows(features.examples["labels"], features)
        return 1 / np.bincount(labels)[labels]

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        (logits, labels), names = self.rows(outputs, features), self.options.labels
        if not names:
            return classification.regression(labels, logits[:, 0])
        if self.options.problem == "multi_label":
            probabilities = sigmoid(logits)
            thresholds = self.options.thresholds or classification.best_thresholds(labels, probabilities)
            chosen = {f"threshold/{name}": value for name, value in zip(names, thresholds, strict=True)}
            return classification.multi_label(labels, probabilities, thresholds, names) | chosen
        return classification.single_label(labels, self.probabilities(logits), names)

    def rows(self, outputs: Host, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits of each row of a labelled split, `[rows, labels]`, and labels as `labels.ids` gives."""
        return _of_rows(outputs["logits"], features), _of_rows(features.examples["labels"], features)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Computes the probabilities of the labels, `[n, labels]`, at the temperature that was fitted."""
        scaled = logits.astype(np.float64) / (self.calibration.temperature if self.calibration else 1)
        return sigmoid(scaled) if self.options.problem == "multi_label" else softmax(scaled)

    def calibrated(self, calibration: Calibration | None) -> SequenceClassification:
        return dataclasses.replace(self, calibration=calibration, distance=None)

    def placed(self, distance: Distance) -> SequenceClassification:
        """Returns the table whose answers say how far a text is, by the `vectors` of the model's outputs."""
        return dataclasses.replace(self, distance=distance)

    def undecided(self) -> dict[str, float]:
        return {} if self.options.thresholds else self.thresholds()

    def thresholds(self) -> dict[str, float]:
        if self.options.problem != "multi_label":
            return {}
        over = np.asarray(self.options.thresholds or [LIKELY] * len(self.options.labels))
        if self.calibration:
            with np.errstate(divide="ignore"):
                over = sigmoid((np.log(over) - np.log1p(-over)) / self.calibration.temperature)
        return {name: float(one) for name, one in zip(self.options.labels, over, strict=True)}

    def mean(self, several: Sequence[Host], features: Features) -> Host:
        logits = np.stack([outputs["logits"] for outputs in several])
        if not self.options.labels:
            return {"logits": logits.mean(0)}
        of_several = means.of_labels if self.options.problem == "multi_label" else means.of_classes
        return {"logits": of_several(logits)}

    def disagreement(self, several: Sequence[Host]) -> Host:
        logits = np.stack([outputs["logits"] for outputs in several])
        if not self.options.labels:
            return {"disagreement": disagreement.of_scores(logits[..., 0])}
        of_several = disagreement.of_labels if self.options.problem == "multi_label" else disagreement.of_classes
        return {"disagreement": of_several(logits)}

    def decide(self, thresholds: Mapping[str, float]) -> SequenceClassification:
        if self.options.problem != "multi_label" or not thresholds.keys() >= {*self.options.labels}:
            return self
        values = tuple(thresholds[name] for name in self.options.labels)
        return dataclasses.replace(self, options=dataclasses.replace(self.options, thresholds=values))

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        logits = _of_rows(outputs["logits"], features)
        beside = self.calibration.beside(logits, self.options.labels) if self.calibration else [{}] * len(logits)
        if self.distance and "vectors" in outputs:
            told = self.distance.far(_of_rows(outputs["vectors"], features))
            beside = [one | {"far": float(x)} for one, x in zip(beside, told, strict=True)]
        if "disagreement" in outputs:
            told = _of_rows(outputs["disagreement"], features)
            beside = [one | {"disagreement": float(x)} for one, x in zip(beside, told, strict=True)]
        for answer, further in zip(self._answers(logits), beside, strict=True):
            yield answer | further

    def _answers(self, logits: np.ndarray) -> Iterator[dict[str, Any]]:
        if not self.options.labels:
            yield from ({"score": float(score)} for score in logits[:, 0])
            return
        if self.options.problem == "multi_label":
            for held, probabilities in zip(self._over(logits), self.probabilities(logits), strict=True):
                named = {name: float(p) for name, p in zip(self.options.labels, probabilities, strict=True)}
                predicted = [name for name, one in zip(self.options.labels, held, strict=True) if one]
                yield {"prediction": predicted, "probabilities": named}
            return
        for probabilities in self.probabilities(logits):
            best = int(probabilities.argmax())
            named = {name: float(p) for name, p in zip(self.options.labels, probabilities, strict=True)}
            yield {
                "prediction": self.options.labels[best],
                "probability": float(probabilities[best]),
                "probabilities": named,
            }

    def errors(self, outputs: Host, features: Features, split: Split) -> np.ndarray:
        logits, labels = self.rows(outputs, features)
        if not self.options.labels:
            return np.abs(logits[:, 0].astype(np.float64) - labels)
        if self.options.problem == "multi_label":
            return (self._over(logits) != (labels > 0)).any(1)
        return logits.argmax(1) != labels

    def _over(self, logits: np.ndarray) -> np.ndarray:
        """Which of several labels are predicted, `[n, labels]`."""
        return sigmoid(logits) >= np.asarray(self.options.thresholds or [LIKELY] * len(self.options.labels))

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        logits, labels = self.rows(outputs, features)
        if not self.options.labels:
            return {"labels": labels, "scores": logits[:, 0]}
        if self.options.problem == "multi_label":
            return {"names": self.options.labels}
        return {"labels": labels, "probabilities": self.probabilities(logits), "names": self.options.labels}

    def published(self, model: Model, max_length: int) -> Published:
        kinds = {"regression": "regression", "multi_label": "multi_label_classification"}
        kind = kinds.get(self.options.problem, "single_label_classification")
        settings = {**named(tasks.build(self.options).head_outputs), "problem_type": kind}
        if not self.options.windows:
            return Published("text-classification", USAGE, settings)
        cut = {"max_length": max_length, "stride": self.options.stride}
        usage = OF_WINDOWS.format(how=HOW[self.options.windows], **cut)
        return Published("text-classification", usage, settings | {"windows": {"combine": self.options.windows, **cut}})


def _of_rows(column: np.ndarray, features: Features) -> np.ndarray:
    """Of each row of the table the value of its first window; all its windows have the same."""
    return column[features.bounds[:-1]] if "row" in features.examples else column
