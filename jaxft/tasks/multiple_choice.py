"""Choose the best of several continuations of a text, or answers to a question about it.

Head and loss are those of BertForMultipleChoice (transformers, modeling_bert.py), but that questions may
have different numbers of choices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.models import Model, nn
from jaxft.tasks.base import Task
from jaxft.types import Array, Batch, Outputs, Params


@dataclasses.dataclass(frozen=True)
class MultipleChoice(Task):
    """An example is a choice."""

    options: config.MultipleChoice
    hf_class: str = "ForMultipleChoice"
    together: bool = True
    axes: tuple[str, ...] = ("batch", "choices", "length")

    @property
    def targets(self) -> Mapping[str, Target]:
        """`labels` is 1 for the right choice of its question and 0 for the others; `row` tells questions apart."""
        return {"labels": Target("example", np.float32), "row": Target("example", np.int32, -1)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "example"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(model.head("choice", outputs=1))

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        return {"logits": model.of_examples(model.head("choice", outputs=1), params, batch, run).squeeze(-1)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """-log softmax(logits)[right], the softmax over the choices of a question; and the number of questions."""
        right = batch["weights"] * batch["labels"]
        return -(right * self._log_probs(outputs, batch)).sum(), right.sum()

    def _log_probs(self, outputs: Outputs, batch: Batch) -> Array:
        """Of each choice among those of its question, `[rows, slots]`."""
        logits, row = outputs["logits"], batch["row"]
        same = row[:, :, None] == row[:, None, :]
        return logits - jax.nn.logsumexp(jnp.where(same, logits[:, None, :], -1e30), axis=-1)

    def divergence(self, outputs: Outputs, others: Outputs, batch: Batch) -> Array:
        p, q = self._log_probs(outputs, batch), self._log_probs(others, batch)
        return (batch["weights"] * jnp.exp(p) * (p - q)).sum()
