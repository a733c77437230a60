"""How a model is computed, as against what: dtype, dropout masks, attention, recomputation, places of arrays."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

from jaxft.types import Array, Batch, Bool, Float, Int, Key, Params, Shaped, UInt32

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""What activations and matrix products may be in, by the name in an experiment."""


class Rate(NamedTuple):
    """A dropout rate above zero, as arrays: another rate is other data for the same compiled step.

    Attributes:
      threshold: round(rate * 2^32); random bits below it drop out.
      scale: 1 / (1 - rate), which what is left is multiplied by.
    """

    threshold: UInt32[Array, ""]
    scale: Float[Array, ""]

    @classmethod
    def of(cls, rate: float) -> "Rate":
        """Returns the rate, `0 < rate < 1`, on the host."""
        values: Any = np.uint32(round(rate * 2**32)), np.float32(1 / (1 - rate))
        return cls(*values)


def dropout(x: Float[Array, "*shape"], rate: Rate, bits: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zeroes entries with the probability `rate` and scales the rest by 1 / (1 - rate) (Srivastava et al. 2014)."""
    return jnp.where(kept(bits, rate), x * rate.scale.astype(x.dtype), 0)


def kept(bits: UInt32[Array, "*shape"], rate: Rate) -> Bool[Array, "*shape"]:
    """Tells which entries dropout leaves."""
    return bits >= rate.threshold


def threefry_bits(key: Key[Array, ""], index: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """JAX's default generator, Threefry-2x32 (Salmon et al. 2011), with the index as its counter."""
    low, high = jax.random.key_data(key)[:2]
    return threefry2x32_p.bind(*jnp.broadcast_arrays(low, high, index, jnp.uint32(0)))[0]


def hash_bits(key: Key[Array, ""], index: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """The index and the key, mixed by two rounds of multiply and xor-shift.

    A tenth of the work of Threefry, and fused into what uses the bits. Good enough to pick what drops out (tests hold
    it to that), not for more. The constants are those of the integer hash "lowbias32" (Wellons 2018, hash-prospector).
    """
    low, high = jax.random.key_data(key)[:2]
    return mix(low, high, index)


def mix(low: UInt32[Array, ""], high: UInt32[Array, ""], index: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """`hash_bits` by the two words of a key."""
    h = index * jnp.uint32(0x9E3779B1) + low
    h = (h ^ (h >> 16)) * jnp.uint32(0x7FEB352D)
    h = ((h ^ (h >> 15)) + high) * jnp.uint32(0x846CA68B)
    return h ^ (h >> 16)


def count(first: Int[Array, "*lead"], shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """Numbers the entries of `shape`, whose leading axes are numbered by `first`; modulo 2^32."""
    rest = shape[first.ndim :]
    index = jnp.broadcast_to(first.astype(jnp.uint32).reshape(*first.shape, *(1,) * len(rest)), shape)
    for axis in range(first.ndim, len(shape)):
        index = index * jnp.uint32(shape[axis]) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return index


def token_numbers(batch: Batch, positions: int) -> Int[Array, "rows length"]:
    """Tells the tokens of a batch apart, however its examples are laid out: example * positions + position.

    Args:
      positions: at most so many tokens an example.
    """
    slot = jnp.maximum(batch["segment_ids"] - 1, 0)
    return jnp.take_along_axis(batch["order"], slot, axis=1) * positions + batch["positions"]


def pick(x: Shaped[Array, "rows length *rest"], at: Int[Array, "rows slots"]) -> Shaped[Array, "rows slots *rest"]:
    """Returns the entries of each row at the given positions."""
    return jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), axis=1)


@dataclasses.dataclass(frozen=True)
class Run:
    """How a model is computed, whatever it computes.

    Attributes:
      dtype: of activations and matmuls; parameters keep theirs.
      key: of the dropout masks; None: no dropout.
      rates: dropout rates by the model's own names; a name that is missing: nothing drops out there.
      numbers: of the tokens or examples at hand. A mask is a function of them and of the key, not of where in the batch
        they lie: layout, parts and mesh do not matter.
      bits: the generator of the masks, `hash_bits` or `threefry_bits`.
      attention: an implementation with the signature of `jaxft.models.nn.attention`; None: that one.
      remat: recompute each layer in the backward pass (Chen et al. 2016).
      scan: compute the layers as a loop over their stacked parameters, which compiles in a fraction of the time.
      reach: tokens an example, at most; 0: as many as the model has positions. See `jaxft.models.nn.attend`.
      gather: makes the parameters of one layer whole, inside that loop; see `jaxft.sharding.gather`.
      constrain: places an activation by its logical axes; see `jaxft.sharding`.
      shards: how many parts the rows of a batch are split into, each on devices of its own.
      tap: is told while the model is traced what each layer reads, "read", what is behind it, "hidden", and what its
        attention computes with, "query", "key" and "value", `[rows, length, numbers]`, from the lowest layer on; what
        it returns is computed with in its place. The layers are unrolled then, all of them at every position, and
        nothing is recomputed.
    """

    dtype: Any = jnp.float32
    key: Key[Array, ""] | None = None
    rates: Mapping[str, Rate] = dataclasses.field(default_factory=dict)
    numbers: Int[Array, "rows positions"] | None = None
    bits: Callable[[Array, Array], Array] = hash_bits
    attention: Callable[..., Array] | None = None
    remat: bool = False
    scan: bool = False
    reach: int = 0
    gather: Callable[[Params], Params] = lambda params: params
    constrain: Callable[[Array, tuple[str | None, ...]], Array] = lambda x, axes: x
    shards: int = 1
    tap: Callable[[str, Array], Array] | None = None

    def fold(self, n: int | Int[Array, ""]) -> "Run":
        """Returns the same run with dropout masks of its own for part n of the model."""
        return self if self.key is None else dataclasses.replace(self, key=jax.random.fold_in(self.key, n))

    def over(self, numbers: Int[Array, "rows positions"]) -> "Run":
        """Returns the same run for tokens or examples so numbered; see `numbers`."""
        return dataclasses.replace(self, numbers=numbers)

    def pick(self, at: Int[Array, "rows slots"]) -> "Run":
        """Returns the same run for the tokens at the given positions of each row."""
        return self if self.numbers is None else self.over(pick(self.numbers, at))

    def rate(self, name: str) -> Rate | None:
        """Returns the dropout rate of this name; None: nothing drops out, there or in all of this run."""
        return None if self.key is None else self.rates.get(name)

    def drop(self, x: Float[Array, "rows positions *rest"], name: str, site: int = 0) -> Array:
        """Drops out at the rate of this name, with the mask of the given site of this part of the model."""
        rate = self.rate(name)
        if rate is None:
            return x
        assert self.key is not None and self.numbers is not None, "set by Run.over"
        return dropout(x, rate, self.bits(jax.random.fold_in(self.key, site), count(self.numbers, x.shape)))
