"""What is added to scores by how far apart two tokens are: without gathers of the size of the scores.

All of it rests on the tokens of an example lying side by side: the distance of two is that of their places in the row.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxft.types import Array, Float, Int


def of_distances(
    number: Callable[[Int[np.ndarray, " distances"]], np.ndarray], length: Any, longest: int
) -> Int[Array, " distances"]:
    """Returns `number` of each distance that two places of a row of `length` have: 1 - length, ..., length - 1.

    Args:
      number: of distances, on the host.
      length: an int; or a symbol, in programs for any length (`jax.export`).
      longest: what a symbol cannot be above.
    """
    if isinstance(length, int):
        return jnp.asarray(number(np.arange(1 - length, length)), jnp.int32)
    every = jnp.asarray(number(np.arange(1 - longest, longest)), jnp.int32)
    return every[longest - length : longest + length - 1]


def toeplitz(values: Float[Array, "heads distances"], length: Any) -> Float[Array, "heads length length"]:
    """Returns `[h, i, j] = values[h, i - j + length - 1]`: what depends on a distance, for each pair of places.

    Args:
      length: an int or a symbol.
    """
    return skewed(jnp.broadcast_to(values[:, None], (len(values), length, 2 * length - 1)))


def skewed(x: Float[Array, "*lead length distances"]) -> Float[Array, "*lead length length"]:
    """Returns `[.., i, j] = x[.., i, i - j + length - 1]`, for `2 length - 1` distances.

    Without a gather, of which the gradient were a scatter: in memory each line of the result begins one number further
    left than the one before (Huang et al. 2018, Music Transformer, section 3.4.1, shifts likewise).
    """
    *lead, length, _ = x.shape
    flat = jnp.pad(x[..., ::-1], (*((0, 0),) * (x.ndim - 1), (0, 1))).reshape(*lead, -1)
    flat = flat[..., length - 1 : length - 1 + length * (2 * length - 1)]
    return flat.reshape(*lead, length, 2 * length - 1)[..., :length]


def disentangled(
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    of_query: Float[Array, "distances heads dim"] | None,
    of_key: Float[Array, "distances heads dim"] | None,
    at: Int[Array, "rows queries"] | None,
) -> Float[Array, "rows heads queries length"]:
    """Computes the products of queries, and of keys, with what stands for the distance of each pair of tokens.

    The product with every distance first, of which each pair then takes its own.

    Args:
      query, key: scaled.
      of_query, of_key: what queries and keys are multiplied by, from the distance `1 - length` on; None: by nothing.
      at: the places of the queries; None: all.
    """
    length = key.shape[1]
    total = jnp.zeros((), key.dtype)
    if of_query is not None:
        each = jnp.einsum("rqhd,phd->rhqp", query, of_query)
        if at is None:
            total += skewed(each)
        else:
            apart = at[:, :, None] - jnp.arange(length) + length - 1
            total += jnp.take_along_axis(each, apart[:, None], axis=-1)
    if of_key is not None:
        each = jnp.einsum("rkhd,phd->rhkp", key, of_key)
        if at is None:
            total += skewed(each[..., ::-1]).swapaxes(-1, -2)
        else:
            apart = at[:, None, :] - jnp.arange(length)[:, None] + length - 1
            total += jnp.take_along_axis(each, apart[:, None], axis=-1).swapaxes(-1, -2)
    return total


def log_buckets(apart: np.ndarray, count: int, farthest: int) -> np.ndarray:
    """Returns the bucket of each distance, from -count to count (He et al. 2021, DeBERTa v2).

    Distances up to half of `count` have one each; further ones share them on a logarithmic scale up to `farthest`, in
    float32 as the reference computes it, of which the rounding decides at the edges.
    """
    middle, far = count // 2, np.abs(apart)
    log = np.log(np.maximum(far, middle).astype(np.float32) / np.float32(middle))
    log /= np.log(np.float32((farthest - 1) / middle))
    wide = np.ceil(log * np.float32(middle - 1)) + middle
    return np.where(far <= middle, apart, np.sign(apart) * wide.astype(np.int64))
