"""Attention in one Pallas kernel, for TPUs: scores and probabilities never leave the chip's own memory.

It computes what `jaxft.models.nn.attention` does, dropout masks included, and keeps nothing for the backward pass but
its arguments: probabilities are computed again there (Dao et al. 2022, FlashAttention). Rows of packed encoders are
short enough for all scores of a head to be at hand at once, so that the softmax is a plain one.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxft.models import nn
from jaxft.types import Array, Bool, Float, Int, UInt32

LANES = 128
"""Width of a vector register: one program computes as many heads as fit into it."""

LONGEST = 768
"""Positions a row, at most: a head's scores fit several times into the 16 MiB of memory that a core of TPU v4 has."""


class Static(NamedTuple):
    """What a kernel is made for: size of a head, heads of all devices, whether anything drops out, dropout's span.

    And how far tokens see, and whether no further than themselves.
    """

    dim: int
    heads: int
    drops: bool
    span: int
    window: int
    causal: bool
    interpret: bool

    @classmethod
    def of(cls, query: Array, see: nn.See, drop: nn.PairDropout | None, among: tuple, interpret: bool) -> "Static":
        """Returns what is known of the arguments of `attention` before they are."""
        heads, dim = query.shape[2:]
        span = drop.span if drop else 0
        return cls(dim, among[1] or heads, drop is not None, span, see.window, see.causal, interpret)


def supports(query: tuple[int, ...], length: int, dtype: Any, see: nn.See, drop: nn.PairDropout | None) -> bool:
    """Tells whether `attention` computes queries of this shape, rows of this length, what is seen, and such dropout."""
    del dtype  # any
    _, queries, heads, dim = query
    fits = max(queries, length) <= LONGEST and LANES % dim == 0 and heads * dim % LANES == 0
    return fits and see.bias is None and not see.window and (drop is None or drop.bits is nn.hash_bits)


def attention(
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    see: nn.See,
    drop: nn.PairDropout | None,
    *,
    among: tuple[Int[Array, ""] | int, int] = (0, 0),
    interpret: bool = False,
) -> Float[Array, "rows queries heads dim"]:
    """As `jaxft.models.nn.attention`, of what `supports` admits.

    Args:
      among: the number of the first head, and of how many, where others are on other devices; of 0: these are all.
      interpret: compute on any device, slowly, to test the kernel.
    """
    static = Static.of(query, see, drop, among, interpret)
    flat = lambda x: x.reshape(*x.shape[:2], -1)  # noqa: E731
    out: Array = _attention(static, scalars_of(drop, among), flat(query), flat(key), flat(value), marks_of(see, drop))  # pyright: ignore
    return out.reshape(query.shape)


def scalars_of(drop: nn.PairDropout | None, among: tuple[Int[Array, ""] | int, int]) -> UInt32[Array, "5"]:
    """Returns what kernels read of dropout: the words of its key, the first head's number, the scale, the threshold."""
    if drop is None:
        return jnp.zeros(5, jnp.uint32)
    words = jax.lax.bitcast_convert_type(drop.rate.scale, jnp.uint32), drop.rate.threshold
    return jnp.stack([*jax.random.key_data(drop.key)[:2], jnp.uint32(among[0]), *words])


def marks_of(see: nn.See, drop: nn.PairDropout | None) -> tuple[Array, ...]:
    """Returns what kernels read of tokens, of those that ask `[rows, queries, 1]`, of the others `[rows, 1, length]`.

    That is their segments, what dropout counts them by, and where it matters their positions.
    """
    numbers = see.asking * 0 if drop is None else drop.numbers
    keys = see.told * 0 if drop is None else drop.keys
    asking, told = [see.asking, numbers.astype(jnp.uint32)], [see.told, keys.astype(jnp.uint32)]
    if see.causal or see.window:
        assert see.positions is not None, "before and near is what positions say"
        asking, told = [*asking, see.positions[0]], [*told, see.positions[1]]
    pairs = zip(asking, told, strict=True)
    return tuple(x for a, b in pairs for x in (a[:, :, None], b[:, None, :]))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(static: Static, scalars: Array, query: Array, key: Array, value: Array, marks: Any) -> Array:
    return _call(static, _forward, scalars, (query, key, value), marks, (query,))[0]


def _attention_forward(static: Static, scalars: Array, query: Array, key: Array, value: Array, marks: Any) -> Any:
    return _attention(static, scalars, query, key, value, marks), (scalars, query, key, value, marks)


def _attention_backward(static: Static, kept: Any, grad: Array) -> Any:
    scalars, query, key, value, marks = kept
    grads = _call(static, _backward, scalars, (query, key, value, grad), marks, (query, key, value))
    return (None, *grads, None)


_attention.defvjp(_attention_forward, _attention_backward)


def _call(static: Static, kernel: Any, scalars: Array, wide: tuple, marks: tuple, like: tuple) -> Any:
    """Runs a kernel on each row and each group of heads; its outputs are arrays like the given ones."""
    rows, queries, hidden = wide[0].shape
    length, heads, products = wide[1].shape[1], hidden // static.dim, 2 if kernel is _forward else 5
    moved = [*wide, *marks, *like]
    cost = pl.CostEstimate(
        flops=products * 2 * rows * queries * length * hidden,
        transcendentals=rows * heads * queries * length,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in moved),
    )
    per_group = lambda x: pl.BlockSpec((1, x.shape[1], LANES), lambda row, group: (row, 0, group))  # noqa: E731
    per_row = lambda x: pl.BlockSpec((1, *x.shape[1:]), lambda row, group: (row, 0, 0))  # noqa: E731
    return pl.pallas_call(
        partial(kernel, static),
        grid=(rows, hidden // LANES),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *map(per_group, wide), *map(per_row, marks)],
        out_specs=[*map(per_group, like)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=cost,
        interpret=static.interpret,
    )(scalars, *wide, *marks)


def _forward(static: Static, scalars: Any, query: Any, key: Any, value: Any, *refs: Any) -> None:
    *marks, out = refs
    for number, part in heads(static, scalars):
        probs, keep = _probabilities(static, number, scalars, query[0, :, part], key[0, :, part], marks)
        left = dropped(scalars, probs, keep).astype(value.dtype)
        out[0, :, part] = product(left, value[0, :, part], ((1,), (0,))).astype(out.dtype)


def _backward(static: Static, scalars: Any, query: Any, key: Any, value: Any, grad: Any, *refs: Any) -> None:
    *marks, d_query, d_key, d_value = refs
    scale = static.dim**-0.5
    for number, part in heads(static, scalars):
        q, k, v, g = (x[0, :, part] for x in (query, key, value, grad))
        probs, keep = _probabilities(static, number, scalars, q, k, marks)
        d_value[0, :, part] = product(dropped(scalars, probs, keep).astype(g.dtype), g, ((0,), (0,))).astype(v.dtype)
        d_probs = dropped(scalars, product(g, v, ((1,), (1,))), keep)
        d_scores = (probs * (d_probs - (probs * d_probs).sum(-1, keepdims=True))).astype(q.dtype)
        d_query[0, :, part] = (product(d_scores, k, ((1,), (0,))) * scale).astype(q.dtype)
        d_key[0, :, part] = (product(d_scores, q, ((0,), (0,))) * scale).astype(k.dtype)


def heads(static: Static, scalars: Any) -> list[tuple[UInt32[Array, ""], slice]]:
    """Returns of each head of a program's group its number among those of all devices, and its lanes."""
    starts = range(0, max(LANES, static.dim), static.dim)
    first = scalars[2] + (pl.program_id(1) * len(starts)).astype(jnp.uint32)
    return [(first + jnp.uint32(i), slice(at, at + static.dim)) for i, at in enumerate(starts)]


def product(a: Array, b: Array, over: tuple[tuple[int], tuple[int]]) -> Array:
    """Computes a matrix product over the given axes, summed in float32."""
    return jax.lax.dot_general(a, b, (over, ((), ())), preferred_element_type=jnp.float32)


def _probabilities(
    static: Static, number: Array, scalars: Any, q: Array, k: Array, marks: list[Any]
) -> tuple[Array, Array | None]:
    """Computes the softmax of one head, float32 `[queries, length]`, and which of its entries dropout keeps."""
    found, seen, keep = scores(static, number, scalars, q, k, marks)
    found = jnp.where(seen, found, -jnp.inf)
    shares = jnp.exp(found - found.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True), keep


def scores(
    static: Static,
    number: UInt32[Array, ""],
    scalars: Any,
    q: Float[Array, "queries dim"],
    k: Float[Array, "length dim"],
    marks: list[Any],
) -> tuple[Float[Array, "queries length"], Bool[Array, "queries length"], Bool[Array, "queries length"] | None]:
    """Computes scores of the head of that number, float32; which are seen; and which dropout keeps, None: all."""
    q_segments, segments, numbers, keys, *places = marks
    found = product(q * static.dim**-0.5, k, ((1,), (1,)))
    seen = q_segments[0] == segments[0]
    if places:
        back = places[0][0] - places[1][0]
        if static.causal:
            seen &= back >= 0
        if static.window:
            seen &= jnp.abs(back) <= static.window
    if not static.drops:
        return found, seen, None
    pair = (numbers[0] * jnp.uint32(static.heads) + number) * jnp.uint32(static.span) + keys[0]
    return found, seen, nn.mix(scalars[0], scalars[1], pair) >= scalars[4]


def dropped(scalars: Any, x: Float[Array, "queries length"], keep: Bool[Array, "queries length"] | None) -> Array:
    """Returns what dropout leaves, scaled; the scale's bits are among the scalars."""
    if keep is None:
        return x
    return jnp.where(keep, x * jax.lax.bitcast_convert_type(scalars[3], jnp.float32), 0)
