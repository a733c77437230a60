"""What the windows of a text say together."""

import jax
import jax.numpy as jnp

from jaxft.types import Array, Bool, Float, Int, Shaped

WEIGHT = "weight of the window"
"""How an export calls the output by which windows are weighed, with attention."""


def combined(
    logits: Float[Array, "rows slots outputs"], row: Int[Array, "rows slots"], how: str
) -> Float[Array, "rows slots combined"]:
    """Returns for each window the mean or the max, of each output, of the logits of all windows of its text.

    Args:
      row: which text each is of.
      how: mean, max, or attention: the mean by weights whose logits are the last output (Ilse et al. 2018, equation 7),
        which the result is without.
    """
    same = _same(row)
    if how == "max":
        return jnp.where(same[..., None], logits[:, None], -jnp.inf).max(2)
    if how == "attention":
        asked = jnp.where(same, logits[:, None, :, -1], -jnp.inf)
        return jnp.einsum("rst,rto->rso", jax.nn.softmax(asked, axis=-1), logits[..., :-1])
    return jnp.einsum("rst,rto->rso", same.astype(logits.dtype), logits) / same.sum(-1, keepdims=True)


def of_texts(x: Shaped[Array, "rows slots *rest"], row: Int[Array, "rows slots"]) -> Shaped[Array, "rows slots *rest"]:
    """Returns what the first window of each text has, text after text; in the slots behind is what others have."""
    order = jnp.argsort(~is_first(row), axis=1, stable=True)
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), axis=1)


def is_first(row: Int[Array, "rows slots"]) -> Bool[Array, "rows slots"]:
    """Tells which windows are the first of their text."""
    return ~jnp.tril(_same(row), -1).any(-1)


def _same(row: Int[Array, "rows slots"]) -> Bool[Array, "rows slots slots"]:
    return row[:, :, None] == row[:, None, :]
