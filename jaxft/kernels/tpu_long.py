"""Attention of long rows in Pallas kernels, for TPUs: in blocks, the scores of one of which are on the chip at a time.

It computes what `jaxft.models.nn.attention` does, dropout masks included, by a softmax that goes from block to block of
keys (Dao et al. 2022, algorithm 1; its gradient as in Dao 2023, section 3.1). Blocks of which no token sees another, of
other examples of the row, ahead of the queries or beyond the window, are neither read nor computed: which these are is
data, so that it follows how rows are packed.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxft.kernels import tpu
from jaxft.kernels.tpu import LANES, LONGEST, Static, product
from jaxft.models import nn
from jaxft.types import Array, Bool, Float, Int

BLOCKS = 512, 256, 128
"""Tokens a block. The largest is taken of which padding adds no more than an eighth to a row."""

NOTHING = -1e30
"""The score of what is not seen: the largest score of a block of such alone stays finite."""


class Blocks(NamedTuple):
    """Which blocks a block is computed with: `count` of them from `first` on, each `[rows * blocks]`."""

    first: Int[Array, "blocks"]
    count: Int[Array, "blocks"]


def supports(query: tuple[int, ...], length: int, dtype: Any, see: nn.See, drop: nn.PairDropout | None) -> bool:
    """Tells whether `attention` computes queries of this shape, rows of this length, what is seen, and such dropout."""
    del dtype  # any
    _, queries, heads, dim = query
    fits = max(queries, length) > LONGEST and heads * dim % max(LANES, dim) == 0
    whole = LANES % dim == 0 or dim % LANES == 0
    return fits and whole and see.bias is None and (drop is None or drop.bits is nn.hash_bits)


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
    """As `jaxft.models.nn.attention`, of what `supports` admits; the rest as of `jaxft.kernels.tpu.attention`."""
    static = Static.of(query, see, drop, among, interpret)
    scalars = tpu.scalars_of(drop, among)
    sizes = _block(query.shape[1]), _block(key.shape[1])
    # What is added to fill the last blocks sees nothing and is seen by none.
    see = see.replace(
        asking=_filled(see.asking, sizes[0], -1),
        told=_filled(see.told, sizes[1], -2),
        positions=see.positions and tuple(map(_filled, see.positions, sizes)),
    )
    if drop is not None:
        drop = drop._replace(numbers=_filled(drop.numbers, sizes[0]), keys=_filled(drop.keys, sizes[1]))
    flat = lambda x, size: _filled(x.reshape(*x.shape[:2], -1), size)  # noqa: E731
    wide = flat(query, sizes[0]), flat(key, sizes[1]), flat(value, sizes[1])
    met = _meeting(see, sizes)
    blocks = _spans(met), _spans(met.swapaxes(1, 2))
    out: Array = _attention(static, sizes, scalars, blocks, *wide, tpu.marks_of(see, drop))  # pyright: ignore
    return out[:, : query.shape[1]].reshape(query.shape)


def _block(length: int) -> int:
    """The size of the blocks that so many tokens are computed in; of few it is they themselves."""
    if length <= BLOCKS[-1]:
        return -(-length // 16) * 16
    return next((size for size in BLOCKS if 8 * (-length % size) <= length), BLOCKS[-1])


def _filled(x: Array, size: int, fill: int = 0) -> Array:
    """The same with tokens added, until they are a multiple of `size`."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *((0, 0),) * (x.ndim - 2)), constant_values=fill)


def _meeting(see: nn.See, sizes: tuple[int, int]) -> Bool[Array, "rows asking told"]:
    """Tells of which blocks a token may see one of another: of none that it leaves out one does."""

    def cut(x: Array, size: int) -> Array:
        return x.reshape(len(x), -1, size)

    segments = cut(see.asking, sizes[0])[:, :, None], cut(see.told, sizes[1])[:, None]
    padding = [(x == 0).any(-1) for x in segments]
    (first, last), (first_told, last_told) = map(_ends, segments, segments)
    met = (first <= last_told) & (first_told <= last)
    if see.positions is not None:
        # Tokens by their place among all of their row: that of an example comes before those of the next.
        apart = jnp.maximum(*(x.max() for x in see.positions)) + 1
        places = cut(see.positions[0], sizes[0])[:, :, None], cut(see.positions[1], sizes[1])[:, None]
        numbers = [s * apart + p for s, p in zip(segments, places, strict=True)]
        (first, last), (first_told, last_told) = map(_ends, numbers, segments)
        if see.causal:
            met &= first_told <= last
        if see.window:
            met &= (first_told <= last + see.window) & (first <= last_told + see.window)
    return met | padding[0] & padding[1]


def _ends(x: Array, segments: Array) -> tuple[Array, Array]:
    """The least and the greatest of each block, padding left out."""
    least, most = jnp.iinfo(jnp.int32).min // 2, jnp.iinfo(jnp.int32).max // 2
    return jnp.where(segments > 0, x, most).min(-1), jnp.where(segments > 0, x, least).max(-1)


def _spans(met: Bool[Array, "rows blocks others"]) -> Blocks:
    """The blocks from the first to the last that is met."""
    first, last = met.argmax(-1), met.shape[-1] - met[..., ::-1].argmax(-1)
    count = jnp.where(met.any(-1), last - first, 0)
    return Blocks(first.astype(jnp.int32).reshape(-1), count.astype(jnp.int32).reshape(-1))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
    static: Static,
    sizes: tuple[int, int],
    scalars: Array,
    blocks: tuple[Blocks, Blocks],
    query: Array,
    key: Array,
    value: Array,
    marks: Any,
) -> Array:
    return _forward(static, sizes, scalars, blocks, query, key, value, marks)[0]


def _forward(
    static: Static,
    sizes: tuple[int, int],
    scalars: Array,
    blocks: Any,
    query: Array,
    key: Array,
    value: Array,
    marks: Any,
) -> Any:
    width, size = max(LANES, static.dim), sizes[0]
    heads = width // static.dim
    like = [query, jax.ShapeDtypeStruct(query.shape, jnp.float32)]
    scratch = [(heads, size, LANES), (heads, size, LANES), (size, width)]
    call = Call(static, sizes, _forward_kernel, like, [True, True], scratch, products=2)
    out, norms = call(blocks[0], scalars, (query,), (key, value), marks)
    return out, (scalars, blocks, query, key, value, marks, out, norms[..., :: static.dim])


def _backward(static: Static, sizes: tuple[int, int], kept: Any, grad: Array) -> Any:
    scalars, blocks, query, key, value, marks, out, norms = kept
    width = max(LANES, static.dim)
    of_heads = lambda x: x.astype(jnp.float32).reshape(*x.shape[:2], -1, static.dim)  # noqa: E731
    shares = (of_heads(grad) * of_heads(out)).sum(-1)
    # Two numbers a query and head, in the first two of the head's lanes.
    sums = jnp.pad(jnp.stack([norms, shares], -1), ((0, 0), (0, 0), (0, 0), (0, static.dim - 2))).reshape(query.shape)
    asking, told = (query, grad, sums), (key, value)
    call = Call(static, sizes, _query_kernel, [query], [True], [(sizes[0], width)], products=3)
    (d_query,) = call(blocks[0], scalars, asking, told, marks)
    call = Call(static, sizes, _key_kernel, [key, value], [False, False], [(sizes[1], width)] * 2, products=4)
    d_key, d_value = call(blocks[1], scalars, asking, told, marks)
    return None, None, d_query, d_key, d_value, None


_attention.defvjp(_forward, _backward)


class Call(NamedTuple):
    """A kernel, run for each row, group of heads, block, and each block that it is computed with.

    Attributes:
      like: arrays as the outputs are.
      asking: of each output whether it is of queries. The first says by which blocks the kernel goes: for a block of
        queries through those of keys, or for one of keys through those of queries.
      scratch: shapes of float32 that stay on the chip from one block to the next.
      products: how many products of matrices there are.
    """

    static: Static
    sizes: tuple[int, int]
    kernel: Any
    like: list[Any]
    asking: list[bool]
    scratch: list[tuple[int, ...]]
    products: int

    def __call__(self, blocks: Blocks, scalars: Array, asking: tuple, told: tuple, marks: tuple) -> Any:
        static, (rows, queries, hidden), length = self.static, asking[0].shape, told[0].shape[1]
        width, by_queries = max(LANES, static.dim), self.asking[0]
        counts = queries // self.sizes[0], length // self.sizes[1]
        outer, inner = counts if by_queries else counts[::-1]

        def place(of_queries: bool) -> Any:
            """Which block of an array a program takes."""
            if of_queries == by_queries:
                return lambda row, group, one, other, first, count: one

            def other_block(row: Any, group: Any, one: Any, other: Any, first: Any, count: Any) -> Any:
                at = row * outer + one
                return first[at] + jnp.minimum(other, jnp.maximum(count[at] - 1, 0))  # what is there is not read again

            return other_block

        def wide(of_queries: bool) -> pl.BlockSpec:
            at = place(of_queries)
            return pl.BlockSpec((1, self.sizes[not of_queries], width), lambda *p: (p[0], at(*p), p[1]))

        def mark(x: Array) -> pl.BlockSpec:
            of_queries = x.shape[2] == 1
            at = place(of_queries)
            if of_queries:
                return pl.BlockSpec((1, self.sizes[0], 1), lambda *p: (p[0], at(*p), 0))
            return pl.BlockSpec((1, 1, self.sizes[1]), lambda *p: (p[0], 0, at(*p)))

        pairs = rows * queries * length // (2 if static.causal else 1)
        moved = [*asking, *told, *marks, *self.like]
        return pl.pallas_call(
            partial(self.kernel, static),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=2,
                grid=(rows, hidden // width, outer, inner),
                in_specs=[
                    pl.BlockSpec(memory_space=pltpu.SMEM),
                    *[wide(True)] * len(asking),
                    *[wide(False)] * len(told),
                    *map(mark, marks),
                ],
                out_specs=[wide(of_queries) for of_queries in self.asking],
                scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in self.scratch],
            ),
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in self.like],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * 3 + ("arbitrary",)),
            cost_estimate=pl.CostEstimate(
                flops=self.products * 2 * pairs * hidden,
                transcendentals=pairs * hidden // static.dim,
                bytes_accessed=sum(x.size * x.dtype.itemsize for x in moved),
            ),
            interpret=static.interpret,
        )(blocks.first, blocks.count, scalars, *asking, *told, *marks)


def _in_turn(count: Any, before: Any, each: Any, after: Any) -> None:
    """Runs what is done at the first block, at each that is computed, and at the last."""
    at = pl.program_id(0) * pl.num_programs(2) + pl.program_id(2)
    turn = pl.program_id(3)
    pl.when(turn == 0)(before)
    pl.when(turn < count[at])(each)
    pl.when(turn == pl.num_programs(3) - 1)(after)


def _forward_kernel(
    static: Static, first: Any, count: Any, scalars: Any, query: Any, key: Any, value: Any, *refs: Any
) -> None:
    del first  # which blocks these are
    *marks, out, norms, top, total, sums = refs
    heads = tpu.heads(static, scalars)

    def before() -> None:
        top[...] = jnp.full_like(top, NOTHING)
        total[...] = jnp.zeros_like(total)
        sums[...] = jnp.zeros_like(sums)

    def each() -> None:
        for head, (number, part) in enumerate(heads):
            scores, seen, keep = tpu.scores(static, number, scalars, query[0, :, part], key[0, :, part], marks)
            last = top[head][:, :1]
            most = jnp.maximum(last, jnp.where(seen, scores, NOTHING).max(-1, keepdims=True))
            shares, less = jnp.where(seen, jnp.exp(scores - most), 0), jnp.exp(last - most)
            top[head] = jnp.broadcast_to(most, top.shape[1:])
            total[head] = total[head] * less + shares.sum(-1, keepdims=True)
            dropped = tpu.dropped(scalars, shares, keep).astype(value.dtype)
            sums[:, part] = sums[:, part] * less + product(dropped, value[0, :, part], ((1,), (0,)))

    def after() -> None:
        for head, (_, part) in enumerate(heads):
            whole = jnp.maximum(total[head][:, :1], jnp.finfo(jnp.float32).tiny)
            out[0, :, part] = (sums[:, part] / whole).astype(out.dtype)
            norms[0, :, part] = jnp.broadcast_to(top[head][:, :1] + jnp.log(whole), (norms.shape[1], static.dim))

    _in_turn(count, before, each, after)


def _query_kernel(static: Static, first: Any, count: Any, scalars: Any, *refs: Any) -> None:
    del first
    query, grad, sums, key, value, *marks, d_query, slope = refs
    heads = tpu.heads(static, scalars)

    def before() -> None:
        slope[...] = jnp.zeros_like(slope)

    def each() -> None:
        for number, part in heads:
            _, d_scores = _slopes(static, number, part, scalars, (query, grad, sums, key, value), marks)
            slope[:, part] += product(d_scores.astype(key.dtype), key[0, :, part], ((1,), (0,)))

    def after() -> None:
        d_query[0] = (slope[...] * static.dim**-0.5).astype(d_query.dtype)

    _in_turn(count, before, each, after)


def _key_kernel(static: Static, first: Any, count: Any, scalars: Any, *refs: Any) -> None:
    del first
    query, grad, sums, key, value, *marks, d_key, d_value, slope_key, slope_value = refs
    heads = tpu.heads(static, scalars)

    def before() -> None:
        slope_key[...] = jnp.zeros_like(slope_key)
        slope_value[...] = jnp.zeros_like(slope_value)

    def each() -> None:
        for number, part in heads:
            dropped, d_scores = _slopes(static, number, part, scalars, (query, grad, sums, key, value), marks)
            slope_value[:, part] += product(dropped.astype(grad.dtype), grad[0, :, part], ((0,), (0,)))
            slope_key[:, part] += product(d_scores.astype(query.dtype), query[0, :, part], ((0,), (0,)))

    def after() -> None:
        d_key[0] = (slope_key[...] * static.dim**-0.5).astype(d_key.dtype)
        d_value[0] = slope_value[...].astype(d_value.dtype)

    _in_turn(count, before, each, after)


def _slopes(
    static: Static, number: Array, part: slice, scalars: Any, wide: tuple, marks: list[Any]
) -> tuple[Array, Array]:
    """Computes probabilities of one head, what dropout leaves of them, and the gradient for their scores, float32."""
    query, grad, sums, key, value = wide
    scores, seen, keep = tpu.scores(static, number, scalars, query[0, :, part], key[0, :, part], marks)
    norm, share = sums[0, :, part.start : part.start + 1], sums[0, :, part.start + 1 : part.start + 2]
    probs = jnp.where(seen, jnp.exp(scores - norm), 0)
    d_probs = tpu.dropped(scalars, product(grad[0, :, part], value[0, :, part], ((1,), (1,))), keep)
    return tpu.dropped(scalars, probs, keep), probs * (d_probs - share)
