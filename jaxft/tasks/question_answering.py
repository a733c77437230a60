"""Find the answer to a question in a text (extractive question answering).

Head and loss are those of BertForQuestionAnswering (transformers, modeling_bert.py), but that padding has no
part in the softmax, so that packed and padded batches agree.
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
from jaxft.types import Array, Batch, Bool, Float, Int, Outputs, Params


def owned(
    positions: Int[Array, "rows slots"], batch: Batch
) -> tuple[Bool[Array, "rows slots length"], Float[Array, "rows slots"]]:
    """Returns which tokens are an example's, and 1 where its position is one of them, else 0."""
    slots = jnp.arange(positions.shape[1]) + 1
    own = batch["segment_ids"][:, None, :] == slots[None, :, None]
    return own, batch["weights"] * (positions < own.sum(-1))


def position_divergence(
    logits: Float[Array, "rows length"],
    others: Float[Array, "rows length"],
    positions: Int[Array, "rows slots"],
    batch: Batch,
) -> Float[Array, ""]:
    """Computes KL(softmax(logits) || softmax(others)) over the tokens of each example, summed as `position_loss`."""
    own, counts = owned(positions, batch)
    p, q = (jax.nn.log_softmax(jnp.where(own, x[:, None, :], -1e30)) for x in (logits, others))
    return (counts * jnp.where(own, jnp.exp(p) * (p - q), 0).sum(-1)).sum()


def position_loss(
    logits: Float[Array, "rows length"], positions: Int[Array, "rows slots"], batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-log softmax(logits)[position], the softmax over the tokens of each example, summed over the examples.

    Examples whose position lies beyond their end do not count; the second result is the number of those that do.
    """
    own, counts = owned(positions, batch)
    norm = jax.nn.logsumexp(jnp.where(own, logits[:, None, :], -1e30), axis=-1)
    at = jnp.minimum(batch["starts"] + positions, logits.shape[1] - 1)
    return (counts * (norm - nn.pick(logits, at))).sum(), counts.sum()


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(Task):
    options: config.QuestionAnswering
    hf_class: str = "ForQuestionAnswering"

    @property
    def targets(self) -> Mapping[str, Target]:
        return {name: Target("example", np.int32) for name in ("start_positions", "end_positions")}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"start_logits": "token", "end_logits": "token"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(model.head("span"))

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        logits = model.of_tokens(model.head("span"), params, batch, run)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}

    def divergence(self, outputs: Outputs, others: Outputs, batch: Batch) -> Array:
        """The mean of that of both ends."""
        ends = (
            position_divergence(outputs[f"{end}_logits"], others[f"{end}_logits"], batch[f"{end}_positions"], batch)
            for end in ("start", "end")
        )
        return sum(ends, jnp.zeros(())) / 2

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """The mean of the losses of both ends."""
        start, starts = position_loss(outputs["start_logits"], batch["start_positions"], batch)
        end, ends = position_loss(outputs["end_logits"], batch["end_positions"], batch)
        return (start + end) / 2, (starts + ends) / 2
