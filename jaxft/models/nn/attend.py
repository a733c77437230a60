"""Attention: who asks, who is asked, and what may be seen."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxft.models.nn.run import Rate, Run, count, kept, pick
from jaxft.types import Array, Batch, Bool, Float, Int, Key


@dataclasses.dataclass(frozen=True)
class Stream:
    """Tokens on their way through the layers.

    Attributes:
      x: their hidden states.
      run: how they are computed; its numbers are theirs.
      segments: which example of its row each is of; 0 is padding.
      positions: of each in its example, from 0 and below `span`.
      slots: examples a row, at most.
      span: tokens an example, at most.
    """

    x: Float[Array, "rows length width"]
    run: Run
    segments: Int[Array, "rows length"]
    positions: Int[Array, "rows length"]
    slots: int
    span: int

    @classmethod
    def of(cls, x: Float[Array, "rows length width"], batch: Batch, run: Run, span: int) -> "Stream":
        """Returns the stream of all tokens of a batch, which `run` has the numbers of."""
        return cls(x, run, batch["segment_ids"], batch["positions"], batch["starts"].shape[1], span)

    def put(self, x: Float[Array, "rows length width"], key: Key[Array, ""] | None) -> "Stream":
        """Returns the same tokens with other hidden states, and with the dropout key of another layer."""
        return dataclasses.replace(self, x=x, run=dataclasses.replace(self.run, key=key))

    def pick(self, at: Int[Array, "rows slots"] | None) -> "Stream":
        """Returns the tokens at the given positions of each row alone; None: all of them."""
        if at is None:
            return self
        x, segments, positions = (pick(part, at) for part in (self.x, self.segments, self.positions))
        return dataclasses.replace(self, x=x, segments=segments, positions=positions, run=self.run.pick(at))


class See(struct.PyTreeNode):
    """Says which tokens each token sees: those of its own segment, and of these perhaps only the near ones.

    So examples that share a row do not see each other. Padding is segment 0 and sees padding alone: its rows of the
    softmax stay finite and reach nothing.

    Attributes:
      asking: segments of the tokens that ask.
      told: segments of those that are asked.
      positions: of both, in their examples; for a window, and where it is causal.
      window: how far a token sees to either side, at most; 0: any distance.
      causal: whether a token sees itself and those before it alone.
      bias: is added to the scores; the same for all rows, or for each its own.
    """

    asking: Int[Array, "rows queries"]
    told: Int[Array, "rows length"]
    positions: tuple[Int[Array, "rows queries"], Int[Array, "rows length"]] | None = None
    window: int = struct.field(pytree_node=False, default=0)
    causal: bool = struct.field(pytree_node=False, default=False)
    bias: Float[Array, "#rows heads queries length"] | None = None

    def mask(self) -> Bool[Array, "rows 1 queries length"]:
        """Returns True where a token sees another, for all heads alike."""
        same, placed = self.asking[:, None, :, None] == self.told[:, None, None, :], self.placed()
        return same if placed is None else same & placed

    def placed(self) -> Bool[Array, "rows 1 queries length"] | None:
        """Returns True where one token may see another by their positions; None: all may."""
        if not (self.window or self.causal):
            return None
        assert self.positions is not None, "before and near is what positions say"
        asking, told = self.positions
        back = asking[:, None, :, None] - told[:, None, None, :]
        if not self.window:
            return back >= 0
        near = jnp.abs(back) <= self.window
        return near & (back >= 0) if self.causal else near


class Sight(NamedTuple):
    """What a token may see of its example; by default all of it.

    Attributes:
      window, causal, bias: as in `See`.
    """

    window: int = 0
    causal: bool = False
    bias: Float[Array, "#rows heads queries length"] | None = None


class PairDropout(NamedTuple):
    """Zeroes attention probabilities; the mask is a function of the query's token, the head and the key's position.

    What is left waits for `rate.scale`, which whoever calls this multiplies the far smaller sum of values by.

    Attributes:
      rate, key, bits: as in `dropout` and `Run`.
      numbers: of the tokens that ask; see `token_numbers`.
      keys: positions in their examples of the tokens that are asked, below `span`.
    """

    rate: Rate
    key: Key[Array, ""]
    bits: Callable[[Array, Array], Array]
    numbers: Int[Array, "rows queries"]
    keys: Int[Array, "rows length"]
    span: int

    def __call__(self, probs: Float[Array, "rows heads queries length"]) -> Float[Array, "rows heads queries length"]:
        rows, heads, queries, _ = probs.shape
        asking = count(self.numbers, (rows, queries, heads)).swapaxes(1, 2)[..., None]
        pair = asking * jnp.uint32(self.span) + self.keys[:, None, None].astype(jnp.uint32)
        return jnp.where(kept(self.bits(self.key, pair), self.rate), probs, 0)


def attention(
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    see: See,
    drop: PairDropout | None,
) -> Float[Array, "rows queries heads dim"]:
    """Computes softmax(Q K^T / sqrt(dim) + bias) V over what is seen (Vaswani et al. 2017, eq. 1), in float32.

    The softmax's division comes after the product with V, as in FlashAttention (Dao et al. 2022, section 3.1), and so
    does dropout's: they take one number a query and head, and keep nothing of `[queries, length]` for their gradients.
    Heads come before tokens, so that both products are plain ones of matrices, which XLA computes best on CPUs
    (docs/speed.md).
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    return weighed(query, key, value, see.mask(), see.bias, drop).swapaxes(1, 2)


def weighed(
    query: Float[Array, "rows heads queries dim"],
    key: Float[Array, "rows heads length dim"],
    value: Float[Array, "rows heads length dim"],
    mask: Bool[Array, "rows 1 queries length"],
    bias: Float[Array, "#rows heads queries length"] | None = None,
    drop: PairDropout | None = None,
) -> Float[Array, "rows heads queries dim"]:
    """Computes `attention` of arrays in which heads come before tokens.

    Args:
      mask: True where a token sees another.
      bias: is added to the scores.
    """
    scores = ((query * query.shape[-1] ** -0.5) @ key.swapaxes(2, 3)).astype(jnp.float32)
    scores = scores if bias is None else scores + bias.astype(jnp.float32)
    scores = jnp.where(mask, scores, -jnp.inf)
    powers = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    scale = 1 / powers.sum(-1, keepdims=True)
    powers = powers.astype(value.dtype)
    if drop is not None:
        powers, scale = drop(powers), scale * drop.rate.scale
    return ((powers @ value) * scale).astype(value.dtype)


def attend(
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    asking: Stream,
    told: Stream,
    sight: Sight = Sight(),  # noqa: B008
    states: tuple[Array, Array] | None = None,
) -> Float[Array, "rows queries width"]:
    """Computes the attention of one stream to another (or to itself), as its run says, dropout included.

    Args:
      query, key, value: what the projections make of the streams.
      sight: what is seen. Where a stream attends to itself, what is beyond its window, or farther away than an example
        is long, is not computed.
      states: further keys and values `[size, width]` before each example's own, which an adaptation may have put beside
        the parameters of the projections.
    """
    segments, positions, span = told.segments, told.positions, told.span
    if states is not None:
        assert sight == Sight(), "such keys have no distance"
        key, value = (_before(_states(own, told, key), x) for own, x in zip(states, (key, value), strict=True))
        # There are as many copies as examples a row, each of an example's segment; their positions come after the span.
        size = len(states[0])
        segments = _before(jnp.repeat(jnp.arange(1, told.slots + 1), size), segments)
        positions = _before(span + jnp.tile(jnp.arange(size), told.slots), positions)
        span += size
    drop, rate, run = None, asking.run.rate("attention"), asking.run
    if rate is not None:
        assert run.key is not None and run.numbers is not None, "set by Stream.of"
        drop = PairDropout(rate, jax.random.fold_in(run.key, 0), run.bits, run.numbers, positions, span)
    compute = run.attention or attention
    places = (asking.positions, positions) if sight.window or sight.causal else None
    see = See(asking.segments, segments, places, *sight)
    near = min(sight.window or told.span, run.reach or told.span)
    length = key.shape[1]  # a symbol in programs for any length, which do without blocks
    long = isinstance(length, int) and length > neighbours(see) * near
    if asking is told and states is None and sight.bias is None and long:
        return in_blocks(compute, query, key, value, see, drop, near).reshape(*query.shape[:2], -1)
    return compute(query, key, value, see, drop).reshape(*query.shape[:2], -1)


def in_blocks(
    compute: Callable[..., Array],
    query: Float[Array, "rows length heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    see: See,
    drop: PairDropout | None,
    size: int,
) -> Float[Array, "rows length heads dim"]:
    """Computes attention between tokens that are near, `compute(query, key, value, see, drop)`, in linear time.

    A row is cut into blocks, which ask their own block and the two beside it, or where it is causal the one before it;
    these are the rows that attention is then computed of. It asks that the tokens of an example lie side by side, in
    their order.

    Args:
      size: of a block: what a token sees is at most so many tokens away.
    """
    rows, length = see.asking.shape
    count, beside = -(-length // size), neighbours(see)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, count * size - length), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(rows, count, size, *x.shape[2:])

    def asking(x: Array) -> Array:
        return cut(x).reshape(rows * count, size, *x.shape[2:])

    def told(x: Array) -> Array:
        x = jnp.pad(cut(x), ((0, 0), (1, beside - 2), *((0, 0),) * (x.ndim - 1)))
        x = jnp.concatenate([x[:, at : at + count] for at in range(beside)], axis=2)
        return x.reshape(rows * count, beside * size, *x.shape[3:])

    near = See(
        asking(see.asking),
        told(see.told),  # beyond the first and the last block is padding
        see.positions and (asking(see.positions[0]), told(see.positions[1])),
        see.window,
        see.causal,
    )
    if drop is not None:
        drop = drop._replace(numbers=asking(drop.numbers), keys=told(drop.keys))
    out = compute(asking(query), told(key), told(value), near, drop)
    return out.reshape(rows, count * size, *query.shape[2:])[:, :length]


def neighbours(see: See) -> int:
    """Returns how many blocks a block asks: the one before it, itself and, unless it is causal, the one after it."""
    return 2 if see.causal else 3


def split_heads(
    x: Float[Array, "rows length width"], heads: int, run: Run, axis: str = "heads"
) -> Float[Array, "rows length heads dim"]:
    """Returns what a projection gives, each head's part by itself; `axis` is the logical axis of these heads."""
    return run.constrain(x.reshape(*x.shape[:2], heads, -1), ("rows", None, axis, None))


def _states(states: Float[Array, "size width"], told: Stream, like: Array) -> Array:
    """A copy of further keys or values for each example that a row may hold, `[slots * size, heads, dim]`."""
    return jnp.tile(states.reshape(len(states), *like.shape[2:]), (told.slots, 1, 1))


def _before(x: Array, own: Array) -> Array:
    """What each row has of its own, with the same x before it."""
    return jnp.concatenate([jnp.broadcast_to(x, (len(own), *x.shape)).astype(own.dtype), own], axis=1)
