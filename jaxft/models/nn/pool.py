"""One vector of all tokens of an example, or the place of one that has seen them all."""

import jax.numpy as jnp

from jaxft.types import Array, Bool, Float, Int


def mean_pool(
    hidden: Float[Array, "rows length embed"], segments: Int[Array, "rows length"], slots: int
) -> Float[Array, "rows slots embed"]:
    """Returns the mean of the hidden states of each example's tokens, in float32; of an empty slot zeros."""
    own = _own(segments, slots).astype(jnp.float32)
    return jnp.einsum("rsl,rle->rse", own, hidden.astype(jnp.float32)) / jnp.maximum(own.sum(-1), 1)[..., None]


def unit(x: Float[Array, "*lead width"]) -> Float[Array, "*lead width"]:
    """Returns vectors of length 1, float32; of zeros zeros."""
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))


def last_places(
    segments: Int[Array, "rows length"], slots: int, counted: Bool[Array, "rows length"] | bool = True
) -> Int[Array, "rows slots"]:
    """Returns where the last token of each example stands in its row, of those that are counted; of none 0."""
    own = _own(jnp.where(counted, segments, 0), slots)
    return jnp.where(own, jnp.arange(segments.shape[1]), 0).max(-1)


def _own(segments: Int[Array, "rows length"], slots: int) -> Bool[Array, "rows slots length"]:
    """Which tokens are of which example."""
    return segments[:, None, :] == jnp.arange(1, slots + 1)[None, :, None]
