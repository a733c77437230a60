"""Distillation of what lies between a teacher's layers: hidden states, attention, relations of tokens.

L + weight * sum over pairs of layers, the student's and the teacher's ('), of the mean over an example's tokens of
  hidden     the mean of (h - h')^2, h what is behind a layer                     (TinyBERT, Jiao et al. 2020, eq. 8)
  attention  the mean over tokens and heads of (a - a')^2, a = q . k / sqrt(d)    (eq. 7)
  relations  (1 / 3) sum over x in (q, k, v) of KL(r' || r), the mean over heads, r the softmax over the example's
             tokens of x . x / sqrt(d)                                     (MiniLMv2, Wang et al. 2021, section 3.1)
Examples weigh as in the loss, and are divided by what that is divided by. A teacher's numbers of each token are arrays
of the batch, computed before training. Hidden states of another width than the teacher's are h W, W learned; see
`jaxft.objectives.projection`. Its heads must be as many; relations split any width into `relation_heads`.

It composes with every transform (in R-Drop each pass has it) and with every method but `prompt`.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxft.models import nn
from jaxft.objectives.distill import PREFIX, answered
from jaxft.objectives.embeddings import owners
from jaxft.objectives.layers import STATES, Wanted
from jaxft.objectives.projection import PATH
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.types import Array, Batch, Float, Outputs, Params


def alike(strengths: Mapping[str, Array], wanted: Wanted, heads: Mapping[str, int]) -> ObjectiveTransform:
    """Returns the transform of training, of an objective whose outputs have the states as `layers.told` names them.

    Args:
      heads: those of attention, and of relations.
    """

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            (total, count), outputs = inner(params, batch, key)
            if key is None:
                return (total, count), outputs
            own = owners(batch)
            share = jnp.einsum("rls,rs->rl", own, answered(batch)["weights"] / jnp.maximum(own.sum(1), 1))
            projection = nn.flatten(params).get(PATH)
            for kind, layers in wanted.items():
                for names in ([f"{part}/{layer}" for part in STATES[kind]] for layer in layers):
                    ours, theirs = ([of[p + name] for name in names] for p, of in (("", outputs), (PREFIX, batch)))
                    if kind == "hidden" and projection is not None:
                        ours = [ours[0] @ projection.astype(ours[0].dtype)]
                    each = apart(kind, ours, theirs, batch["segment_ids"], heads.get(kind, 1))
                    total = total + strengths[kind] * (share * each).sum()
            return (total, count), outputs

        return objective

    return transform


def apart(kind: str, own: list[Array], theirs: list[Array], segments: Array, heads: int) -> Float[Array, "rows length"]:
    """Returns how far each token's states are from the teacher's."""
    own, theirs = ([x.astype(jnp.float32) for x in states] for states in (own, theirs))
    if kind == "hidden":
        return jnp.square(own[0] - theirs[0]).mean(-1)
    seen = (segments[:, :, None] == segments[:, None, :])[:, None]

    def scores(x: Array, y: Array) -> Float[Array, "rows heads length length"]:
        x, y = (a.reshape(*a.shape[:2], heads, -1) for a in (x, y))
        return jnp.einsum("rlhd,rmhd->rhlm", x, y) * x.shape[-1] ** -0.5

    if kind == "attention":
        squares = jnp.where(seen, jnp.square(scores(*own) - scores(*theirs)), 0)
        return (squares.sum(-1) / seen.sum(-1)).mean(1)
    logs = ([jax.nn.log_softmax(jnp.where(seen, scores(x, x), -1e30)) for x in states] for states in (theirs, own))
    each = [jnp.where(seen, jnp.exp(p) * (p - q), 0).sum(-1).mean(1) for p, q in zip(*logs, strict=True)]
    return jnp.stack(each).mean(0)
