"""Classify or score a text, or a pair of texts.

The loss is that of the ...ForSequenceClassification classes (transformers/loss/loss_utils.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.errors import UserError
from jaxft.models import Head, Model, heads, nn
from jaxft.tasks import losses, mixing, windows
from jaxft.tasks.base import Task
from jaxft.types import Array, Batch, Outputs, Params


@dataclasses.dataclass(frozen=True)
class SequenceClassification(Task):
    """Without labels it is a regression with one output.

    An example is a text, or a window of one, which shares its row with the others: each has the logits of their text.
    """

    options: config.SequenceClassification
    hf_class: str = "ForSequenceClassification"

    @property
    def together(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return bool(self.options.windows)

    @property
    def reads(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("row",) if self.options.windows else ()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.options.labels

    @property
    def targets(self) -> Mapping[str, Target]:
        """`row` tells the texts apart that windows are of."""
        several = {"row": Target("example", np.int32, -1)} if self.options.windows else {}
        if self.options.problem == "multi_label":
            return {"labels": Target("example", np.float32, size=(len(self.labels),)), **several}
        return {"labels": Target("example", np.int32 if self.labels else np.float32), **several}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "example"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(self._head(model))

    @property
    def head_outputs(self) -> tuple[str, ...]:
        """Those of the labels, of a score LABEL_0 as Hugging Face has it; and behind them the weight of a window."""
        weighs = (windows.WEIGHT,) if self.options.windows == "attention" else ()
        return (*(self.labels or ("LABEL_0",)), *weighs)

    def _head(self, model: Model) -> Head:
        head = model.head("text", outputs=len(self.head_outputs))
        if self.options.mixup and head.pooling == "late":
            raise UserError(
                f"config.task.mixup mixes what the head is applied to, one vector a text, but {model.cfg.hf_name} "
                "applies its head to each token; unset it"
            )
        return head

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """In training with a contrastive loss also the `vectors` that the head is applied to, of windows their mean."""
        head = self._head(model)
        head = mixing.mixed(head, batch) if mixing.SHARE in batch else head
        beside, count = self._says_vectors(run), len(self.head_outputs)
        found = model.of_examples(heads.beside(head) if beside else head, params, batch, run)
        logits, vectors = found[..., :count], {"vectors": found[..., count:]} if beside else {}
        if self.together:
            logits = windows.combined(logits, batch["row"], self.options.windows)
            vectors = {name: windows.combined(x, batch["row"], "mean") for name, x in vectors.items()}
        return {"logits": logits, **vectors}

    def _says_vectors(self, run: nn.Run) -> bool:
        """Whether outputs have `vectors`."""
        return self.options.contrastive > 0 and run.key is not None

    def padded(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """Of a text's windows each its own, which whoever cut them combines."""
        return {"logits": model.of_examples(self._head(model), params, batch, run).squeeze(1)}

    def unpadded(self, found: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        if not self.together:
            return super().unpadded(found, batch)
        logits, row = jnp.asarray(found["logits"])[None], jnp.asarray(batch["row"]).T
        return {"logits": windows.combined(logits, row, self.options.windows).swapaxes(0, 1)}

    @property
    def numbers(self) -> Mapping[str, float]:
        options, found = self.options, losses.strengths(self.options)
        if options.contrastive:
            found |= {"contrastive": options.contrastive, "contrastive_temperature": options.contrastive_temperature}
        return found

    def with_numbers(self, numbers: Mapping[str, Array]) -> SequenceClassification:
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **numbers))

    def _weights(self, batch: Batch) -> Array:
        """1 where a slot counts: a text does once."""
        return batch["weights"] * windows.is_first(batch["row"]) if self.together else batch["weights"]

    def divergence(self, outputs: Outputs, others: Outputs, batch: Batch) -> Array:
        """Of scores that of normal distributions around them, of variance 1: half the square of their difference."""
        p, q, weights = outputs["logits"], others["logits"], self._weights(batch)
        if self.options.problem == "regression":
            return (weights * jnp.square(p - q).squeeze(-1)).sum() / 2
        if self.options.problem == "multi_label":
            return (weights * losses.binary_divergence(p, q)).sum()
        return (weights * losses.scale_of(self.options, batch["labels"]) * losses.divergence(p, q)).sum()

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Of a batch that is mixed, of both labels of each mixture, by their shares."""
        if mixing.SHARE not in batch:
            return self._loss(outputs, batch)
        share, others = batch[mixing.SHARE], {**batch, "labels": mixing.partners_of(batch["labels"], batch)}
        (one, ones), (other, of_others) = self._loss(outputs, batch), self._loss(outputs, others)
        return share * one + (1 - share) * other, share * ones + (1 - share) * of_others

    def _loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        logits, labels, weights = outputs["logits"], batch["labels"], self._weights(batch)
        if self.options.problem == "regression":
            return losses.squared_error(logits.squeeze(-1), labels, weights)
        if self.options.problem == "multi_label":
            return losses.binary_cross_entropy(logits, labels, weights, self.options.class_weights, self.options.focal)
        total, count = losses.of_classes(self.options, logits, labels, weights)
        if "vectors" not in outputs:
            return total, count
        share, apart = self.options.contrastive, self._contrastive(outputs["vectors"], labels, weights)
        return (1 - share) * total + share * apart, count

    def _contrastive(self, vectors: Array, labels: Array, weights: Array) -> Array:
        """The sum of the contrastive losses, weighed as the others; each text is compared with all of the batch."""
        labels, weights = labels.reshape(-1), weights.reshape(-1)
        flat = vectors.reshape(-1, vectors.shape[-1])
        each = losses.contrastive(flat, labels, weights > 0, self.options.contrastive_temperature)
        return (weights * losses.scale_of(self.options, labels) * each).sum()
