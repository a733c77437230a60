"""Mixup of hidden states: two examples of a batch are mixed, and so are their losses (Verma et al. 2019, eq. 1).

The head is applied to share * v_i + (1 - share) * v_j, v the pooled vectors, as in sentMixup (Guo et al. 2019, section
3.2), and the loss is share * L(y_i) + (1 - share) * L(y_j); share is drawn from Beta(alpha, alpha) for a batch. Vectors
are mixed and not tokens, which of two examples are not of the same places, wherever a row has them. Each example that
counts is mixed with the one that is `shift` further in the batch, by their numbers: the same pairs however it is laid
out. It costs nothing to speak of.

It composes with what moves embeddings and with every method. It does not with R-Drop, whose passes would mix other
pairs, with teachers, who were not asked of mixtures, or with `train.accumulate`, parts of which do not see each other.
"""

import zlib

import jax
import jax.numpy as jnp

from jaxft.tasks.mixing import PARTNER, SHARE
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.types import Array, Batch, Float, Int, Key, Outputs, Params

SITE = zlib.crc32(b"mixup")
"""Part number of share and shift, no layer's."""


def mixup(alpha: Float[Array, ""]) -> ObjectiveTransform:
    """Returns the transform of training, for an objective that mixes where a batch says `SHARE`."""

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            if key is None:
                return inner(params, batch, key)
            own, pairs = jax.random.split(jax.random.fold_in(key, SITE))
            mixed = {SHARE: jax.random.beta(own, alpha, alpha), PARTNER: partners(batch, pairs)}
            return inner(params, {**batch, **mixed}, key)

        return objective

    return transform


def partners(batch: Batch, key: Key[Array, ""]) -> Int[Array, "rows slots"]:
    """Returns for each slot which one, counted over all rows, its example is mixed with; for an empty one any."""
    there, order = (batch[name].reshape(-1) for name in ("weights", "order"))
    there = there > 0
    count = there.sum()
    rank = (there & (order < order[:, None])).sum(-1)
    shift = jax.random.randint(key, (), 1, jnp.maximum(count, 2))
    wanted = (rank + shift) % jnp.maximum(count, 1)
    found = (there & (rank == wanted[:, None])).argmax(-1)
    return found.reshape(batch["order"].shape)
