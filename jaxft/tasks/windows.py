"""What the windows of a text say together."""

import jax.numpy as jnp

from jaxft.types import Array, Bool, Float, Int


def combined(
    logits: Float[Array, "rows slots outputs"], row: Int[Array, "rows slots"], how: str
) -> Float[Array, "rows slots outputs"]:
    """Returns for each window the mean or the max, of each output, of the logits of all windows of its text.

    Args:
      row: which text each is of.
      how: mean or max.
    """
    same = _same(row)
    if how == "max":
        return jnp.where(same[..., None], logits[:, None], -jnp.inf).max(2)
    return jnp.einsum("rst,rto->rso", same.astype(logits.dtype), logits) / same.sum(-1, keepdims=True)


def is_first(row: Int[Array, "rows slots"]) -> Bool[Array, "rows slots"]:
    """Tells which windows are the first of their text."""
    return ~jnp.tril(_same(row), -1).any(-1)


def _same(row: Int[Array, "rows slots"]) -> Bool[Array, "rows slots slots"]:
    return row[:, :, None] == row[:, None, :]
