"""Classify or score a text, or a pair of texts.

The loss is that of the ...ForSequenceClassification classes (transformers/loss/loss_utils.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.models import Head, Model, nn
from jaxft.tasks import losses
from jaxft.tasks.base import Host, Steady, sigmoid, softmax
from jaxft.types import Array, Batch, Outputs, Params

if TYPE_CHECKING:
    from jaxft.data.features import Features
    from jaxft.data.sources import Split


@dataclasses.dataclass(frozen=True)
class SequenceClassification(Steady):
    """See `jaxft.tasks.base.Task`. Without labels it is a regression with one output."""

    options: config.SequenceClassification
    head: str = "ForSequenceClassification"
    pipeline: str = "text-classification"
    lower: frozenset[str] = frozenset({"mse", "ece"})
    usage: str = """from transformers import pipeline

predict = pipeline("text-classification", model="path/to/this/directory")
print(predict("A text."))"""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.options.labels

    @property
    def targets(self) -> Mapping[str, Target]:
        if self.options.problem == "multi_label":
            return {"labels": Target("example", np.float32, size=(len(self.labels),))}
        return {"labels": Target("example", np.int32 if self.labels else np.float32)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "example"}

    @property
    def metric(self) -> str:
        return {"regression": "pearson", "multi_label": "f1_macro"}.get(self.options.problem, "accuracy")

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(column for column in (self.options.text, self.options.text_pair) if column)

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(self._head(model))

    def _head(self, model: Model) -> Head:
        return model.head("text", outputs=max(len(self.labels), 1))

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        return {"logits": model.of_examples(self._head(model), params, batch, run)}

    @property
    def numbers(self) -> Mapping[str, float]:
        return {"label_smoothing": self.options.label_smoothing} if self.options.label_smoothing else {}

    def with_numbers(self, numbers: Mapping[str, Array]) -> SequenceClassification:
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **numbers))

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        logits, labels, weights = outputs["logits"], batch["labels"], batch["weights"]
        if self.options.problem == "regression":
            return losses.squared_error(logits[..., 0], labels, weights)
        if self.options.problem == "multi_label":
            return losses.binary_cross_entropy(logits, labels, weights, self.options.class_weights)
        return losses.cross_entropy(logits, labels, weights, self.options.class_weights, self.options.label_smoothing)

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        from jaxft.data import labels

        texts = [split.table.column(column).to_pylist() for column in self.inputs]
        encoded = tokenizer(
            *texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=True
        )
        columns = {name: encoded[name] for name in ("input_ids", "token_type_ids")}
        return columns | ({"labels": labels.ids(self.options, split)} if labelled else {})

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        from jaxft.metrics import classification

        labels = features.examples["labels"]
        if not self.labels:
            return classification.regression(labels, outputs["logits"][:, 0])
        if self.options.problem == "multi_label":
            probabilities = sigmoid(outputs["logits"])
            thresholds = self.options.thresholds or classification.best_thresholds(labels, probabilities)
            chosen = {f"threshold/{name}": value for name, value in zip(self.labels, thresholds, strict=True)}
            return classification.multi_label(labels, probabilities, thresholds, self.labels) | chosen
        return classification.single_label(labels, softmax(outputs["logits"]), self.labels)

    def decide(self, thresholds: Mapping[str, float]) -> SequenceClassification:
        if self.options.problem != "multi_label" or not thresholds:
            return self
        values = tuple(thresholds[name] for name in self.labels)
        return dataclasses.replace(self, options=dataclasses.replace(self.options, thresholds=values))

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        if not self.labels:
            yield from ({"score": float(score)} for score in outputs["logits"][:, 0])
            return
        if self.options.problem == "multi_label":
            least = np.asarray(self.options.thresholds or [0.5] * len(self.labels))
            for probabilities in sigmoid(outputs["logits"]):
                named = {name: float(p) for name, p in zip(self.labels, probabilities, strict=True)}
                held = [name for name, over in zip(self.labels, probabilities >= least, strict=True) if over]
                yield {"prediction": held, "probabilities": named}
            return
        for probabilities in softmax(outputs["logits"]):
            best = int(probabilities.argmax())
            named = {name: float(p) for name, p in zip(self.labels, probabilities, strict=True)}
            yield {"prediction": self.labels[best], "probability": float(probabilities[best]), "probabilities": named}

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        labels = features.examples["labels"]
        if not self.labels:
            return {"labels": labels, "scores": outputs["logits"][:, 0]}
        if self.options.problem == "multi_label":
            return {"names": self.labels}
        return {"labels": labels, "probabilities": softmax(outputs["logits"]), "names": self.labels}

    def hf_config(self) -> dict[str, Any]:
        names = self.labels or ("LABEL_0",)
        kinds = {"regression": "regression", "multi_label": "multi_label_classification"}
        return {
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
            "problem_type": kinds.get(self.options.problem, "single_label_classification"),
        }


def build(options: config.SequenceClassification) -> SequenceClassification:
    return SequenceClassification(options)


def read(options: config.SequenceClassification, split: Split, labelled: bool) -> Split:
    """Checks every text and label."""
    from jaxft.data import labels
    from jaxft.data.sources import check_text, require_columns

    columns = {"task.text": options.text, "task.text_pair": options.text_pair}
    if labelled:
        names = options.label_columns
        columns |= {f"task.label_columns[{i}]": one for i, one in enumerate(names)} or {"task.label": options.label}
    require_columns(split, columns)
    for column in filter(None, (options.text, options.text_pair)):
        check_text(split, column)
    return labels.read(options, split) if labelled else split


def resolve(options: config.SequenceClassification, splits: Mapping[str, Split]) -> config.SequenceClassification:
    from jaxft.data import labels

    return labels.resolve(options, splits)


def assume(options: config.SequenceClassification) -> dict[str, Any]:
    """Two labels, one a text."""
    columns = options.label_columns
    known = {"problem": "multi_label" if columns else "single_label"} if options.problem == "auto" else {}
    unnamed = not options.labels and options.problem != "regression"
    return known | ({"labels": columns or ("0", "1")} if unnamed else {})
