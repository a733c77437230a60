"""Examples of a row of the table, which lie side by side in the slots of a batch's row; and sums over their tokens."""

import jax.numpy as jnp

from jaxft.types import Array, Float, Int, Shaped


def groups(x: Shaped[Array, "rows slots *rest"], size: int) -> Shaped[Array, "groups size *rest"]:
    """Returns each `size` slots side by side, of all rows; slots that are missing from the last group are empty."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *((0, 0),) * (x.ndim - 2)))
    return x.reshape(-1, size, *x.shape[2:])


def sums(x: Float[Array, "rows length"], segments: Int[Array, "rows length"], slots: int) -> Float[Array, "rows slots"]:
    """Returns the sum over the tokens of each example; of an empty slot 0."""
    own = segments[:, None, :] == jnp.arange(1, slots + 1)[None, :, None]
    return jnp.where(own, x[:, None, :], 0).sum(-1)
