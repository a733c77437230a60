"""A text that goes on where an earlier one has ended: what both begin with is not read again.

So are the turns of a conversation answered: each has all that was said before it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.generate import decoding, writing
from jaxft.generate.decoding import Ends, State, Writer
from jaxft.generate.options import How, Options
from jaxft.generate.sampling import Numbers
from jaxft.generate.writing import Given, Group, Written, by_rows
from jaxft.models import nn
from jaxft.predict.engine import CompiledEngine
from jaxft.program import Program
from jaxft.types import Array, Int, Params

LEAST = 256
"""Tokens of the shortest texts that programs are compiled for: a conversation grows through few sizes."""

FEW = 64
"""Tokens of the shortest ends of texts, in the same way."""


class Kept(NamedTuple):
    """What there is of a text.

    Attributes:
      tokens: prompt and answer, without the last one.
      cache: of these, with places to spare.
    """

    tokens: list[int]
    cache: nn.Cache


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns how many tokens two texts begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Asked(NamedTuple):
    """Prompts of which a cache has what comes first.

    Attributes:
      prompts, lengths: all of each, padded at its end, `[rows, length]`, and its tokens.
      rest, more: what the cache has not, in the same way.
      keys: of each row's draws.
      before: how many tokens the cache has.
    """

    prompts: Int[Array, "rows length"]
    lengths: Int[Array, " rows"]
    rest: Int[Array, "rows ends"]
    more: Int[Array, " rows"]
    keys: Array
    before: Int[Array, ""]


def begin_after(program: Program, how: How, room: int, places: int) -> Callable[..., State]:
    """Returns the function that reads the ends of prompts and begins answers, jitted.

    It is `((trainable, frozen), cache, asked, ends, numbers) -> state`.

    Args:
      room: for so many tokens of an answer.
      places: of the cache that the state has.
    """
    writer = Writer.of(program)

    def run(pair: tuple[Params, Params], cache: nn.Cache, asked: Asked, ends: Ends, numbers: Numbers) -> State:
        cache = cache.first(asked.before + writer.method.positions, places)
        scores, cache = writer.read_on(program.computed(*pair), asked.rest, asked.more, asked.before, cache)
        state = State.of(cache, asked.prompts, asked.lengths, asked.keys, room)
        return decoding.with_token(state, scores, ends, how, numbers)

    return jax.jit(run)


def written(
    engine: CompiledEngine,
    prompt: Sequence[int],
    stops: Sequence[int],
    options: Options,
    kept: Kept | None,
    watch: Callable[[list[int]], bool],
) -> tuple[Written, Kept]:
    """Returns the answer to a prompt, one that `jaxft.generate.writing.written` gives too, and what is kept of both.

    Args:
      options: of one beam and one answer.
      kept: of an earlier text, as this returned it; None: there is none.
      watch: is asked after each token, with the answer so far, whether it ends here.
    """
    shards, longest = engine.composed.row_shards, writing.longest_of(engine)
    group = Group([0], shards, min(writing.size(len(prompt), LEAST), longest))
    given = Given.of(engine, [prompt], group, stops, options)
    state = _begun(engine, prompt, given, options, kept)

    def watched(state: State) -> np.ndarray:
        done, text, lengths = (np.array(x) for x in (state.done, state.text, state.lengths))
        done[0] = done[0] or watch(text[0, len(prompt) : lengths[0]].tolist())
        return done

    state = writing.gone_on(engine, state, given, options, watched, every=1)
    text, size = np.asarray(state.text)[0], int(state.lengths[0])
    found = writing.read(len(prompt), int(given.limits[0]), stops, text, np.int32(size), np.asarray(state.log_probs)[0])
    return found, Kept(text[: size - 1].tolist(), state.cache)


def _begun(engine: CompiledEngine, prompt: Sequence[int], given: Given, options: Options, kept: Kept | None) -> State:
    """The state of an answer that has a token."""
    how, room = options.how, writing.room_of(options)
    if kept is None:
        begin: Any = engine.function(decoding.begin, how, room)
        texts = (by_rows(engine, x) for x in (given.ids, given.lengths, given.keys))
        return begin(engine.weights, *texts, given.ends, given.numbers)
    before = min(common(kept.tokens, prompt), len(prompt) - 1)
    rest, more = np.zeros((len(given.ids), writing.size(len(prompt) - before, FEW)), np.int32), len(prompt) - before
    rest[0, :more] = prompt[before:]
    virtual = engine.composed.adaptation.positions
    places = writing.size(virtual + before + rest.shape[1], LEAST) + room
    begin = engine.function(begin_after, how, room, places)
    ids, lengths, following, counts, keys = (
        by_rows(engine, x) for x in (given.ids, given.lengths, rest, np.full(len(rest), more, np.int32), given.keys)
    )
    asked = Asked(ids, lengths, following, counts, keys, jnp.int32(before))
    return begin(engine.weights, kept.cache, asked, given.ends, given.numbers)
