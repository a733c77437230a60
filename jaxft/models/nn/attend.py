"""Attention: who asks, who is asked, and what may be seen."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from jaxft.models.nn.cuts import in_blocks, in_prefixes, neighbours
from jaxft.models.nn.run import Run, pick
from jaxft.models.nn.scores import PairDropout, See, Sight, attention
from jaxft.types import Array, Batch, Float, Int, Key


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


PREFIX, PREFIXES = 128, 4
"""Where attention is causal: tokens of a row that ask together, at least, and into how many such parts a row is cut, at
most. More parts compute less but compile longer (docs/speed.md)."""


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
    if (tap := asking.run.tap) is not None:
        named = {"query": query, "key": key, "value": value}.items()
        query, key, value = (tap(name, x.reshape(*x.shape[:2], -1)).reshape(x.shape) for name, x in named)
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
    if asking is told and states is None and sight.bias is None:
        if long:
            compute = partial(in_blocks, compute, size=near)
        elif see.causal and isinstance(length, int) and compute is attention:  # kernels leave out what they can
            compute = partial(in_prefixes, compute, size=max(PREFIX, -(-length // PREFIXES)))
    return compute(query, key, value, see, drop).reshape(*query.shape[:2], -1)


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
