"""Classify or score a text, or a pair of texts.

The head and the loss are those of BertForSequenceClassification (transformers/models/bert/modeling_bert.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.errors import UserError, nearest
from jaxft.models import Model, nn
from jaxft.tasks.base import HEAD_SITE, Host, softmax
from jaxft.types import Array, Batch, Float, Outputs, Params

if TYPE_CHECKING:
    from jaxft.data.features import Features
    from jaxft.data.sources import Split


def cross_entropy(
    logits: Float[Array, "rows slots classes"], batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-log softmax(logits)[label], summed over the examples; and the number of examples."""
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, batch["labels"][..., None], axis=-1)[..., 0]
    return -(batch["weights"] * picked).sum(), batch["weights"].sum()


def squared_error(logits: Float[Array, "rows slots 1"], batch: Batch) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(logit - label)^2, summed over the examples; and the number of examples."""
    return (batch["weights"] * jnp.square(logits[..., 0] - batch["labels"])).sum(), batch["weights"].sum()


@dataclasses.dataclass(frozen=True)
class SequenceClassification:
    """See `jaxft.tasks.base.Task`. Without labels it is a regression with one output."""

    options: config.SequenceClassification
    head: str = "ForSequenceClassification"
    pipeline: str = "text-classification"
    usage: str = """from transformers import pipeline

predict = pipeline("text-classification", model="path/to/this/directory")
print(predict("A text."))"""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.options.labels

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"labels": Target("example", np.int32 if self.labels else np.float32)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "example"}

    @property
    def metric(self) -> str:
        return "accuracy" if self.labels else "pearson"

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(column for column in (self.options.text, self.options.text_pair) if column)

    def param_spec(self, model: Model) -> nn.Spec:
        size, std = model.cfg.hidden_size, model.cfg.initializer_range
        head = nn.dense_spec(size, max(len(self.labels), 1), ("embed", None), std)
        return model.param_spec(pooler=True) | {"classifier": head}

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        pooled = model.pool(params, model.encode(params, batch, run, at=batch["starts"]))
        rate = model.cfg.hidden_dropout_prob if model.cfg.classifier_dropout is None else model.cfg.classifier_dropout
        pooled = run.over(batch["order"]).fold(HEAD_SITE).drop(pooled, rate)
        return {"logits": nn.dense(params["classifier"], pooled).astype(jnp.float32)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        return (cross_entropy if self.labels else squared_error)(outputs["logits"], batch)

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        texts = [split.table.column(column).to_pylist() for column in self.inputs]
        encoded = tokenizer(
            *texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=True
        )
        columns = {name: encoded[name] for name in ("input_ids", "token_type_ids")}
        return columns | ({"labels": self._label_ids(split)} if labelled else {})

    def _label_ids(self, split: Split) -> np.ndarray:
        values = split.table.column(self.options.label).to_pylist()
        if not self.labels:
            return np.asarray(values, np.float32)
        ids = {name: i for i, name in enumerate(self.labels)}
        return np.asarray([ids[_name(value)] for value in values], np.int32)

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        from jaxft import metrics

        labels = features.examples["labels"]
        if not self.labels:
            return metrics.regression(labels, outputs["logits"][:, 0])
        return metrics.classification(labels, softmax(outputs["logits"]), self.labels)

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        if not self.labels:
            yield from ({"score": float(score)} for score in outputs["logits"][:, 0])
            return
        for probabilities in softmax(outputs["logits"]):
            best = int(probabilities.argmax())
            named = {name: float(p) for name, p in zip(self.labels, probabilities, strict=True)}
            yield {"prediction": self.labels[best], "probability": float(probabilities[best]), "probabilities": named}

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        labels = features.examples["labels"]
        if not self.labels:
            return {"labels": labels, "scores": outputs["logits"][:, 0]}
        return {"labels": labels, "probabilities": softmax(outputs["logits"]), "names": self.labels}

    def hf_config(self) -> dict[str, Any]:
        names = self.labels or ("LABEL_0",)
        return {
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
            "problem_type": "single_label_classification" if self.labels else "regression",
        }


def build(options: config.SequenceClassification) -> SequenceClassification:
    return SequenceClassification(options)


def read(options: config.SequenceClassification, split: Split, labelled: bool) -> Split:
    """Checks every text and label."""
    from jaxft.data.sources import check_text, require_columns

    names = ("text", "text_pair", "label") if labelled else ("text", "text_pair")
    require_columns(split, {f"task.{name}": getattr(options, name) for name in names})
    for column in filter(None, (options.text, options.text_pair)):
        check_text(split, column)
    if labelled:
        (_check_scores if options.problem == "regression" else _check_classes)(split, options.label)
    return split


def resolve(options: config.SequenceClassification, splits: Mapping[str, Split]) -> config.SequenceClassification:
    """Lists the label names: those given, or the training data's, sorted."""
    if options.problem == "regression":
        return dataclasses.replace(options, labels=())
    names = options.labels or _names(splits["train"], options.label)
    if len(names) == 1:
        origin = splits["train"].origin
        raise UserError(f"{origin}: all labels in {options.label!r} are {names[0]!r}; there must be two or more")
    known = "config.task.labels" if options.labels else f"those of {splits['train'].origin}"
    for split in splits.values():
        _check_known(split, options.label, names, known)
    return dataclasses.replace(options, labels=names, problem="single_label")


def _name(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _names(split: Split, column: str) -> tuple[str, ...]:
    values = set(split.table.column(column).to_pylist())
    return tuple(_name(value) for value in sorted(values, key=lambda v: (isinstance(v, str), v)))


def _check_classes(split: Split, column: str) -> None:
    for row, value in enumerate(split.table.column(column).to_pylist()):
        if isinstance(value, float):
            hint = "for scores set config.task.problem=regression"
            raise UserError(
                f"{split.where(row)}: label {value} in {column!r} is a number with a point, no class; {hint}"
            )
        if value is None or value == "":
            raise UserError(f"{split.where(row)}: no label in {column!r}; fill it in or remove the row")
        if not isinstance(value, str | int):
            kind = type(value).__name__
            raise UserError(f"{split.where(row)}: label {value} in {column!r} is a {kind}; make it text or an integer")


def _check_known(split: Split, column: str, names: tuple[str, ...], known: str) -> None:
    for row, value in enumerate(split.table.column(column).to_pylist()):
        if _name(value) not in names:
            raise UserError(
                f"{split.where(row)}: label {_name(value)!r} is not among {known}; {nearest(_name(value), names)}"
            )


def _check_scores(split: Split, column: str) -> None:
    for row, value in enumerate(split.table.column(column).to_pylist()):
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise UserError(f"{split.where(row)}: label {value!r} in {column!r} is not a finite number")
