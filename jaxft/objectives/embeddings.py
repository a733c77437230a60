"""What transforms share that add to word embeddings: the addition, norms over an example, steps, noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxft.models import nn
from jaxft.types import Array, Batch, Float, Key, Params

Bits = Callable[[Array, Array], Array]
"""`(key, index) -> random bits`, as `nn.hash_bits`."""


class Table(NamedTuple):
    """Of word embeddings, and what noise on them is made with.

    Attributes:
      words: its path.
      width: numbers a word.
      longest: tokens an example, at most.
      bits: the generator of random numbers.
    """

    words: str
    width: int
    longest: int
    bits: Bits


class Shifted(struct.PyTreeNode):
    """An `nn.Change` of the word embeddings: what is added to each token's, `[rows, length, width]`."""

    by: Array
    inner: Any = None

    def __call__(self, p: Params, x: Array, run: nn.Run | None) -> Array:
        return (p["embedding"][x] if self.inner is None else self.inner(p, x, run)) + self.by


def added(params: Params, words: str, by: Float[Array, "rows length width"]) -> Params:
    """Returns all parameters, with `by` to be added to the rows of the table at the path `words`."""
    flat, place = nn.flatten(params), f"{words}/change"
    return nn.unflatten(flat | {place: Shifted(by, flat.get(place))})


def owners(batch: Batch) -> Float[Array, "rows length slots"]:
    """Returns 1 where a token is of the example in a slot; of padding 0 everywhere."""
    slots = jnp.arange(1, batch["starts"].shape[1] + 1)
    return (batch["segment_ids"][..., None] == slots).astype(jnp.float32)


def totals(each: Float[Array, "rows length"], batch: Batch) -> Float[Array, "rows length"]:
    """Returns for each token the sum over its example, 0 for padding."""
    own = owners(batch)
    return jnp.einsum("rls,rs->rl", own, jnp.einsum("rl,rls->rs", each, own))


def norms(x: Float[Array, "rows length width"], batch: Batch) -> Float[Array, "rows length 1"]:
    """Returns for each token the L2 norm of x over all tokens of its example, 0 for padding."""
    return jnp.sqrt(totals(jnp.square(x).sum(-1), batch))[..., None]


def directed(
    x: Float[Array, "rows length width"], size: Float[Array, ""], batch: Batch
) -> Float[Array, "rows length width"]:
    """Returns x scaled so that its norm over each example is `size`; zeros stay zeros."""
    return size * x / jnp.maximum(norms(x, batch), 1e-30)


def projected(
    x: Float[Array, "rows length width"], radius: Float[Array, ""], batch: Batch
) -> Float[Array, "rows length width"]:
    """Returns x, scaled down to the radius where its norm over an example is larger."""
    return x * jnp.minimum(1, radius / jnp.maximum(norms(x, batch), 1e-30))


def uniform(key: Key[Array, ""], batch: Batch, table: Table) -> Float[Array, "rows length width"]:
    """Returns numbers between -1 and 1 over sqrt(tokens of the example x width), 0 for padding.

    They are a function of the key, the example and the position in it, as dropout masks are: layout, parts and mesh
    do not matter.
    """
    numbers = nn.token_numbers(batch, table.longest)
    index = nn.count(numbers, (*numbers.shape, table.width))
    size = jax.lax.rsqrt(jnp.maximum(totals(jnp.ones(numbers.shape), batch), 1) * table.width)
    inside = (batch["segment_ids"] > 0) * size
    return (table.bits(key, index).astype(jnp.float32) * 2.0**-31 - 1) * inside[..., None]
