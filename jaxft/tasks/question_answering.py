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
from jaxft.types import Array, Batch, Float, Int, Outputs, Params


def position_loss(
    logits: Float[Array, "rows length"], positions: Int[Array, "rows slots"], batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """-log softmax(logits)[position], the softmax over the tokens of each example, summed over the examples.

    Examples whose position lies beyond their end do not count; the second result is the number of those that do.
    """
    slots = jnp.arange(positions.shape[1]) + 1
    own = batch["segment_ids"][:, None, :] == slots[None, :, None]  # [rows, slots, length]
    norm = jax.nn.logsumexp(jnp.where(own, logits[:, None, :], -1e30), axis=-1)
    counts = batch["weights"] * (positions < own.sum(-1))
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

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """The mean of the losses of both ends."""
        start, starts = position_loss(outputs["start_logits"], batch["start_positions"], batch)
        end, ends = position_loss(outputs["end_logits"], batch["end_positions"], batch)
        return (start + end) / 2, (starts + ends) / 2
