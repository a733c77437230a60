"""How likely a language model finds tokens, from hidden states, when scores of all words take more room than the model.

Scores are computed for some tokens at a time. What is guessed comes first in each row, so that blocks in which nothing
is guessed cost nothing: of a conversation, the half that the assistant does not say.

Of a token's log probability, the gradient by its hidden state is the same whatever is computed from it later, up to a
factor. So where the parameters that score do not learn, it is computed beside the log probability itself, and scores
are computed once. Where they learn, scores are computed in the backward pass again.

Each part of the rows, on devices of its own, then has a copy of the parameters: the gradients of all blocks are added
to the copy's, and devices sum those once. Of parameters that all share, they would sum the gradient of each block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from jaxft.batch import IGNORED
from jaxft.models import nn
from jaxft.types import Array, Bool, Float, Int

Score = Callable[[Any, Float[Array, "rows places width"]], Float[Array, "rows places words"]]
"""`(parameters, hidden states) -> scores of words`."""


class Parts(NamedTuple):
    """Parts of equal size that the rows of a batch are in, each on devices of its own.

    Attributes:
      count: of them.
      copied: makes of a parameter as many copies, one after the other, each where a part of the rows is.
    """

    count: int
    copied: Callable[[Array], Array]


def likelihood(
    score: Score,
    params: Any,
    x: Float[Array, "rows length width"],
    guessed: Int[Array, "rows length"],
    size: int,
    parts: Parts | None = None,
) -> tuple[Float[Array, "rows length"], Float[Array, "rows length"]]:
    """Returns the log probability of each label, and 1 where it is the best guess; 0 where there is none.

    Args:
      params: those that `score` reads, and no others.
      guessed: the labels; `IGNORED`: none.
      size: how many places of each row are scored at a time.
      parts: of the rows; None: they are all in one.
    """
    order = jnp.argsort(guessed == IGNORED, axis=1, stable=True)
    back, labels = jnp.argsort(order, axis=1), nn.pick(guessed, order)

    def again(params: Any, x: Array) -> tuple[Array, Array]:
        scored = in_parts(score, params, parts) if parts else partial(score, params)
        each = lambda x, labels: of_scores(scored(x), labels)  # noqa: E731
        log_probs, right = in_blocks(each, nn.pick(x, order), labels, size)
        return nn.pick(log_probs, back), nn.pick(right, back)

    def at_once(params: Any, x: Array) -> tuple[Array, Array, Array]:
        def each(x: Array, labels: Array) -> tuple[Array, Array, Array]:
            log_probs, pull, right = jax.vjp(lambda x: of_scores(score(params, x), labels), x, has_aux=True)
            return log_probs, right, *pull(jnp.ones_like(log_probs))

        log_probs, right, slopes = in_blocks(each, nn.pick(x, order), labels, size)
        return nn.pick(log_probs, back), nn.pick(right, back), nn.pick(slopes, back)

    def derivative(primals: Any, tangents: Any) -> Any:
        learning, along = tangents
        if all(isinstance(one, SymbolicZero) for one in jax.tree.leaves(learning)):
            log_probs, right, slopes = at_once(*primals)
            change = jnp.einsum("rlw,rlw->rl", slopes, along, preferred_element_type=log_probs.dtype)
            return (log_probs, right), (change, jnp.zeros_like(right))
        return jax.jvp(again, primals, jax.tree.map(_whole, tangents))

    compute = jax.custom_jvp(again)
    compute.defjvp(derivative, symbolic_zeros=True)
    return compute(params, x)


def in_parts(score: Score, params: Any, parts: Parts) -> Callable[[Array], Array]:
    """Returns `score` of the parts of the rows, each by its own copy of the parameters."""
    copies = jax.tree.map(parts.copied, params)

    def scored(x: Float[Array, "rows places width"]) -> Float[Array, "rows places words"]:
        found = jax.vmap(score)(copies, x.reshape(parts.count, -1, *x.shape[1:]))
        return found.reshape(*x.shape[:2], -1)

    return scored


def _whole(tangent: Any) -> Any:
    if not isinstance(tangent, SymbolicZero):
        return tangent
    aval: Any = tangent.aval
    return np.zeros(aval.shape, aval.dtype)  # whose dtype is that of no number where the parameter is a code


def block_size(rows: int, length: int, words: int, scores: int) -> int:
    """Returns how many positions of each row are scored at a time: equal parts that keep to so many scores."""
    most = max(scores // (rows * words), 1)
    return -(-length // -(-length // most))


def in_blocks(
    compute: Callable[[Array, Array], tuple[Array, ...]],
    x: Float[Array, "rows length width"],
    labels: Int[Array, "rows length"],
    size: int,
) -> tuple[Array, ...]:
    """Computes `compute(x, labels)` for so many positions of each row at a time, in the backward pass again.

    Where none of a block has a label, all that it gives is 0.
    """
    rows, length = labels.shape
    count = -(-length // size)
    x = jnp.pad(x, ((0, 0), (0, count * size - length), (0, 0))).reshape(rows, count, size, -1)
    labels = jnp.pad(labels, ((0, 0), (0, count * size - length)), constant_values=IGNORED).reshape(rows, count, size)

    def nothing(x: Array, labels: Array) -> tuple[Array, ...]:
        return jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), jax.eval_shape(compute, x, labels))

    @jax.checkpoint
    def each(_: None, block: tuple[Array, Array]) -> tuple[None, tuple[Array, ...]]:
        return None, jax.lax.cond((block[1] != IGNORED).any(), compute, nothing, *block)

    parts = jax.lax.scan(each, None, (x.swapaxes(0, 1), labels.swapaxes(0, 1)))[1]
    return jax.tree.map(
        lambda part: part.swapaxes(0, 1).reshape(rows, count * size, *part.shape[3:])[:, :length], parts
    )


def of_scores(
    logits: Float[Array, "rows places words"], guessed: Int[Array, "rows places"]
) -> tuple[Float[Array, "rows places"], Float[Array, "rows places"]]:
    """Returns the log probability of each label, and 1 where it is the best guess; 0 where there is none."""
    own: Bool[Array, "rows places words"] = guessed[..., None] == jnp.arange(logits.shape[-1])
    # No gather: the words may be split over devices.
    found = jnp.where(own, logits, 0).sum(-1) - jax.nn.logsumexp(logits, axis=-1)
    right = logits.argmax(-1) == guessed
    return jnp.where(guessed == IGNORED, 0, found), right.astype(jnp.float32)
