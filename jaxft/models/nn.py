"""The parts that models are made of: pure functions on (params, x), and how a parameter is declared."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.extend.random import threefry2x32_p

from jaxft.types import Array, Batch, Bool, Float, Int, Key, Params, Shaped, UInt32

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""What activations and matrix products may be in, by the name in an experiment."""

Spec = dict[str, Any]
"""A tree of `Leaf`, of the shape of the parameters that it declares."""


class Leaf(NamedTuple):
    """One parameter: its shape, a logical axis a dimension (None: never sharded), and its initializer."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str = "normal"
    stddev: float = 0.02

    def initial(self, key: Key[Array, ""]) -> Float[Array, "..."]:
        """A new float32 value: N(0, stddev^2), zeros or ones."""
        if self.init == "normal":
            return self.stddev * jax.random.normal(key, self.shape)
        return {"zeros": jnp.zeros, "ones": jnp.ones}[self.init](self.shape)


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """`{"bert/pooler/dense/kernel": leaf}` of a nested dict."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def path_key(key: Key[Array, ""], path: str) -> Key[Array, ""]:
    """The key of one parameter: the same whatever other parameters there are."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def dropout(x: Float[Array, "*shape"], rate: float, bits: UInt32[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Zeroes entries with probability `rate` and scales the rest by 1 / (1 - rate) (Srivastava et al. 2014)."""
    return jnp.where(kept(bits, rate), x * jnp.asarray(1 / (1 - rate), x.dtype), 0)


def kept(bits: UInt32[Array, "*shape"], rate: float) -> Bool[Array, "*shape"]:
    """Which entries dropout leaves."""
    return bits >= jnp.uint32(round(rate * 2**32))


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


class PairDropout(NamedTuple):
    """Dropout of attention probabilities, the mask a function of the query's token, the head and the key's position.

    Attributes:
      rate, key, bits: as in `dropout` and `Run`.
      numbers: of the tokens that ask; see `token_numbers`.
      keys: positions in their examples of the tokens that are asked, below `span`.
    """

    rate: float
    key: Key[Array, ""]
    bits: Callable[[Array, Array], Array]
    numbers: Int[Array, "rows queries"]
    keys: Int[Array, "rows length"]
    span: int

    def __call__(self, probs: Float[Array, "rows heads queries length"]) -> Float[Array, "rows heads queries length"]:
        rows, heads, queries, _ = probs.shape
        asking = count(self.numbers, (rows, queries, heads)).swapaxes(1, 2)[..., None]
        pair = asking * jnp.uint32(self.span) + self.keys[:, None, None].astype(jnp.uint32)
        return dropout(probs, self.rate, self.bits(self.key, pair))


def attention(
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    query_segments: Int[Array, "rows queries"],
    segments: Int[Array, "rows length"],
    drop: PairDropout | None,
) -> Float[Array, "rows queries heads dim"]:
    """softmax(Q K^T / sqrt(dim)) V within each segment (Vaswani et al. 2017, eq. 1), softmax in float32.

    Positions attend only to positions of their own segment, so examples that share a row do not see each other.
    Padding is segment 0 and sees padding alone: its rows of the softmax stay finite and reach nothing.
    """
    scores = jnp.einsum("rqhd,rkhd->rhqk", query * query.shape[-1] ** -0.5, key).astype(jnp.float32)
    same = query_segments[:, None, :, None] == segments[:, None, None, :]
    probs = jax.nn.softmax(jnp.where(same, scores, -jnp.inf)).astype(value.dtype)
    return jnp.einsum("rhqk,rkhd->rqhd", drop(probs) if drop else probs, value)


def with_prefix(
    p: Params,
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    batch: Batch,
    span: int,
) -> tuple[Array, Array, Array, Array, int]:
    """Keys and values with those that an adaptation has put before each example's own, as `states` of their layers.

    As there may be up to `slots` examples in a row, there are `slots` copies, each of an example's segment.

    Returns:
      Keys, values, their segments, their positions (those of a prefix come after `span`), and the new span.
    """
    segments, positions = batch["segment_ids"], batch["positions"]
    if "states" not in p["key"]:
        return key, value, segments, positions, span
    (rows, _, heads, dim), slots = key.shape, batch["starts"].shape[1]
    size = p["key"]["states"].shape[0]

    def before(x: Array, own: Array) -> Array:
        return jnp.concatenate([jnp.broadcast_to(x, (rows, *x.shape)).astype(own.dtype), own], axis=1)

    def states(name: str) -> Array:
        return jnp.tile(p[name]["states"].reshape(size, heads, dim), (slots, 1, 1))

    segments = before(jnp.repeat(jnp.arange(1, slots + 1), size), segments)
    positions = before(span + jnp.tile(jnp.arange(size), slots), positions)
    return before(states("key"), key), before(states("value"), value), segments, positions, span + size


@dataclasses.dataclass(frozen=True)
class Run:
    """How a model is computed: everything that is not what.

    Attributes:
      dtype: of activations and matmuls; parameters keep theirs.
      key: of the dropout masks; None: no dropout.
      numbers: of the tokens or examples at hand. A mask is a function of them and of the key, not of where in the batch
        they lie: layout, parts and mesh do not matter.
      bits: the generator of the masks, `hash_bits` or `threefry_bits`.
      attention: an implementation with the signature of `attention`.
      remat: recompute each layer in the backward pass (Chen et al. 2016).
      scan: compute the layers as a loop over their stacked parameters, which compiles in a fraction of the time.
      gather: makes the parameters of one layer whole, inside that loop; see `jaxft.sharding.gather`.
      constrain: places an activation by its logical axes; see `jaxft.sharding`.
    """

    dtype: Any = jnp.float32
    key: Key[Array, ""] | None = None
    numbers: Int[Array, "rows positions"] | None = None
    bits: Callable[[Array, Array], Array] = hash_bits
    attention: Callable[..., Array] = attention
    remat: bool = False
    scan: bool = False
    gather: Callable[[Params], Params] = lambda params: params
    constrain: Callable[[Array, tuple[str | None, ...]], Array] = lambda x, axes: x

    def fold(self, n: int | Int[Array, ""]) -> "Run":
        """The same run with dropout masks of its own for part n of the model."""
        return self if self.key is None else dataclasses.replace(self, key=jax.random.fold_in(self.key, n))

    def over(self, numbers: Int[Array, "rows positions"]) -> "Run":
        """The same run for tokens or examples so numbered; see `numbers`."""
        return dataclasses.replace(self, numbers=numbers)

    def pick(self, at: Int[Array, "rows slots"]) -> "Run":
        """The same run for the tokens at the given positions of each row."""
        return self if self.numbers is None else self.over(pick(self.numbers, at))

    def drop(self, x: Float[Array, "rows positions *rest"], rate: float, site: int = 0) -> Array:
        """Dropout with the mask of the given site of this part."""
        if self.key is None or rate == 0:
            return x
        assert self.numbers is not None, "set by Run.over"
        return dropout(x, rate, self.bits(jax.random.fold_in(self.key, site), count(self.numbers, x.shape)))

    def pairs(self, rate: float, keys: Int[Array, "rows length"], span: int) -> PairDropout | None:
        """Dropout of attention of the tokens at hand to those at given positions in their examples, below `span`."""
        if self.key is None or rate == 0:
            return None
        assert self.numbers is not None, "set by Run.over"
        return PairDropout(rate, jax.random.fold_in(self.key, 0), self.bits, self.numbers, keys, span)


def repeat(
    layer: Callable[[Params, Array, Key[Array, ""] | None], Array],
    params: Sequence[Params],
    x: Array,
    run: Run,
    first: int = 1,
) -> Array:
    """Each layer in turn, `layer(parameters, x, key of its dropout masks)`, as `run.scan` and `run.remat` say.

    Args:
      first: which part of the model, for `Run.fold`, the first of these layers is.
    """
    layer = jax.jit(jax.checkpoint(layer) if run.remat else layer)  # traced once for all layers that are alike
    alike = len({jax.tree.structure(p) for p in params}) == 1  # an adaptation may have changed some layers alone
    if not run.scan or len(params) < 2 or not alike:
        for i, p in enumerate(params, first):
            x = layer(p, x, run.fold(i).key)
        return x
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    keys = None if run.key is None else jax.vmap(lambda i: run.fold(i).key)(first + jnp.arange(len(params)))
    return jax.lax.scan(lambda x, each: (layer(each[0], x, each[1]), None), x, (stacked, keys))[0]


class Change(Protocol):
    """How an adaptation changes a dense layer: a pytree among the layer's parameters, as `change`."""

    def __call__(self, p: Params, x: Array, run: Run | None) -> Array:
        """What the layer gives for x, `[..., inputs]`; `run` is that of x's tokens, where the model hands it over."""
        ...


def dense(p: Params, x: Float[Array, "*batch inputs"], run: Run | None = None) -> Float[Array, "*batch outputs"]:
    """x W + b, or what an adaptation has made of that."""
    change: Change | None = p.get("change")
    return linear(p, x) if change is None else change(p, x, run)


def linear(p: Params, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    """x W + b in x's dtype; b is added in float32, so that its gradient is summed in float32."""
    return (product(x, p["kernel"]) + p["bias"]).astype(x.dtype)


def product(x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"]) -> Float[Array, "*batch outputs"]:
    """x W in x's dtype.

    One matrix product of all positions: XLA on CPU computes it faster than the same with several batch axes.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)).reshape(*x.shape[:-1], -1)


def _kept_narrow(wide: Callable[..., Array], x: Array, *rest: Array) -> Array:
    """`wide(x, ...)`, which computes in float32, recomputed in the backward pass where x is narrower.

    Else XLA, which leaves out a cast to bfloat16 and back, keeps float32 activations from the forward pass: twice the
    bytes.
    """
    return (wide if x.dtype == jnp.float32 else jax.checkpoint(wide))(x, *rest)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x Phi(x) (Hendrycks and Gimpel 2016) in float32; by erf, for which XLA has a faster kernel than for erfc."""

    def wide(x: Array) -> Array:
        h = x.astype(jnp.float32)
        return (0.5 * h * (1 + jax.lax.erf(h * 2**-0.5))).astype(x.dtype)

    return _kept_narrow(wide, x)


def layer_norm(p: Params, x: Float[Array, "*batch embed"], eps: float) -> Float[Array, "*batch embed"]:
    """Layer normalization over the last axis (Ba et al. 2016), computed in float32."""

    def wide(x: Array, scale: Array, bias: Array) -> Array:
        h = x.astype(jnp.float32)
        h = h - h.mean(-1, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + eps)
        return (h * scale + bias).astype(x.dtype)

    return _kept_narrow(wide, x, p["scale"], p["bias"])


def embed(p: Params, ids: Int[Array, "*batch"], dtype: Any) -> Float[Array, "*batch embed"]:
    """Rows of an embedding table; their gradient is summed in float32.

    An id below zero is that of a virtual token, a row of `virtual`, which an adaptation has put there: -1 is the last.
    """
    if "virtual" not in p:
        return p["embedding"][ids].astype(dtype)
    virtual = p["virtual"][jnp.clip(ids + len(p["virtual"]), 0, len(p["virtual"]) - 1)]
    return jnp.where((ids < 0)[..., None], virtual, p["embedding"][jnp.maximum(ids, 0)]).astype(dtype)


def pick(x: Shaped[Array, "rows length *rest"], at: Int[Array, "rows slots"]) -> Shaped[Array, "rows slots *rest"]:
    """The entries of each row at the given positions."""
    return jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), axis=1)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def dense_spec(inputs: int, outputs: int, axes: tuple[str | None, str | None], stddev: float) -> Spec:
    return {"kernel": Leaf((inputs, outputs), axes, stddev=stddev), "bias": Leaf((outputs,), axes[1:], "zeros")}


def layer_norm_spec(size: int) -> Spec:
    return {"scale": Leaf((size,), ("embed",), "ones"), "bias": Leaf((size,), ("embed",), "zeros")}
