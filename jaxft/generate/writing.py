"""Prompts in, answers out, as token ids: which rows are computed together, and of which sizes."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.generate import beams, decoding
from jaxft.generate.decoding import Ends
from jaxft.generate.options import Options
from jaxft.generate.sampling import Numbers
from jaxft.predict.engine import CompiledEngine

Watch = Callable[[int, list[int]], bool]
"""`(number of a prompt, tokens of an answer to it so far) -> whether it ends here`."""


class Written(NamedTuple):
    """An answer.

    Attributes:
      tokens: of it, the one that ends it included.
      log_probs: of each of them, by the model alone, whatever they were chosen by.
      ended: whether it came to an end by itself; else it was cut where it may be no longer.
      others: further answers to the same prompt, where several are asked for.
    """

    tokens: list[int]
    log_probs: list[float]
    ended: bool
    others: "tuple[Written, ...]" = ()


class Group(NamedTuple):
    """Answers that are written together.

    Attributes:
      numbers: which they are; of n prompts answer i is one to prompt i % n.
      rows, length: of the arrays that hold them, with rows and tokens to spare.
    """

    numbers: Sequence[int]
    rows: int
    length: int


def size(count: int, least: int = 16) -> int:
    """Returns the smallest of `least` times 1, 1.5, 2, 3, 4, 6, ... that is not below a count."""
    found = least
    while found < count:
        found *= 2
    between = found * 3 // 4
    return between if found > least and count <= between else found


def groups(lengths: Sequence[int], rows: int, shards: int, longest: int) -> Iterator[Group]:
    """Yields groups of prompts of about one length, the longest ones first, in arrays of a few sizes.

    Args:
      rows: of a group, at most.
      shards: what the number of rows of its array is a multiple of.
      longest: tokens of a row of an array, at most.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    rows = min(rows, 1 << (len(order) - 1).bit_length())
    for start in range(0, len(order), rows):
        numbers = order[start : start + rows]
        yield Group(numbers, -(-rows // shards) * shards, min(size(lengths[numbers[0]]), longest))


def longest_of(engine: CompiledEngine) -> int:
    """Returns how many tokens prompt and answer have together, at most."""
    return engine.model.facts.longest - engine.composed.adaptation.positions


def written(
    engine: CompiledEngine,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
    options: Options,
    watch: Watch | None = None,
    every: int = 8,
) -> list[Written]:
    """Returns an answer to each prompt, with others beside it where the options ask for several.

    Args:
      prompts: token ids; one or more each, and fewer than the model has positions.
      stops: tokens that end an answer.
      watch: is asked of answers that go on, after the first token and then `every` so many; not of beams.
    """
    found: dict[int, list[Written]] = {}
    shards, longest, count = engine.composed.row_shards, longest_of(engine), len(prompts)
    draws, best = (options.answers, 1) if options.how.sample else (1, options.answers)
    for group in groups([len(prompt) for prompt in prompts] * draws, options.rows, shards, longest):
        state, limits = _computed(engine, prompts, group, stops, options, watch, every)
        texts = [np.asarray(x)[:, :best] for x in state.texts()]
        for row, number in enumerate(group.numbers):
            begin, most = len(prompts[number % count]), int(limits[row])
            found[number] = [read(begin, most, stops, *each) for each in zip(*(x[row] for x in texts), strict=True)]
    each = [[one for number in range(at, count * draws, count) for one in found[number]] for at in range(count)]
    return [first._replace(others=tuple(others)) for first, *others in each]


def read(
    begin: int, most: int, stops: Sequence[int], text: np.ndarray, length: np.integer, log_probs: np.ndarray
) -> Written:
    """Returns the answer that begins at a place of a text, and may have so many tokens."""
    tokens = text[begin : int(length)].tolist()
    ended = tokens[-1] in stops or len(tokens) < most
    return Written(tokens, log_probs[begin : int(length)].tolist(), ended)


class Given(NamedTuple):
    """What programs are given of a group.

    Attributes:
      ids, lengths: the prompts, padded at their ends, and how long they are.
      limits: tokens that each answer may have.
      keys: of what is drawn for each.
      ends: what ends them.
      numbers: options.
    """

    ids: np.ndarray
    lengths: np.ndarray
    limits: np.ndarray
    keys: jax.Array
    ends: Ends
    numbers: Numbers

    @classmethod
    def of(
        cls,
        engine: CompiledEngine,
        prompts: Sequence[Sequence[int]],
        group: Group,
        stops: Sequence[int],
        options: Options,
    ) -> "Given":
        """Returns that of a group; see `written`."""
        ids, lengths = np.zeros((group.rows, group.length), np.int32), np.ones(group.rows, np.int32)
        limits, drawn = np.ones(group.rows, np.int32), np.zeros((2, group.rows), np.uint32)
        for row, number in enumerate(group.numbers):
            answer, at = divmod(number, len(prompts))
            prompt = prompts[at]
            ids[row, : len(prompt)], lengths[row], drawn[:, row] = prompt, len(prompt), (options.seed + answer, at)
            limits[row] = min(options.max_new_tokens, longest_of(engine) - len(prompt))
        keys = jax.vmap(lambda seed, number: jax.random.fold_in(jax.random.key(seed), number))(*drawn)
        ends = Ends(jnp.asarray([*stops] or [-1], jnp.int32), by_rows(engine, limits))
        return cls(ids, lengths, limits, keys, ends, Numbers.of(options))


def by_rows(engine: CompiledEngine, x: Any) -> jax.Array:
    """Returns an array whose first axis is rows, where a program has it."""
    return jax.device_put(x, engine.composed.batch_sharding)


def room_of(options: Options) -> int:
    """Returns the tokens that answers have room for: with some to spare, so that there are few sizes."""
    return -(-options.max_new_tokens // 16) * 16


def _computed(
    engine: CompiledEngine,
    prompts: Sequence[Sequence[int]],
    group: Group,
    stops: Sequence[int],
    options: Options,
    watch: Watch | None,
    every: int,
) -> tuple[Any, np.ndarray]:
    """The last state of a group, and how many tokens each row may have."""
    given, how = Given.of(engine, prompts, group, stops, options), options.how
    begin = engine.function((beams if how.beams > 1 else decoding).begin, how, room_of(options))
    texts = (by_rows(engine, x) for x in (given.ids, given.lengths, given.keys))
    state = begin(engine.weights, *texts, given.ends, given.numbers)
    watched = None if watch is None else partial(_watched, prompts=prompts, group=group, watch=watch)
    return gone_on(engine, state, given, options, watched, every), given.limits


def gone_on(
    engine: CompiledEngine,
    state: Any,
    given: Given,
    options: Options,
    watched: Callable[[Any], np.ndarray] | None,
    every: int,
) -> Any:
    """Returns the state of answers that have ended, of one in which they have a token each.

    Args:
      watched: tells which rows end of themselves, as who watches them says; see `written`.
    """
    how, most = options.how, options.max_new_tokens
    go_on = engine.function((beams if how.beams > 1 else decoding).go_on, how)
    if watched is None or how.beams > 1:
        return go_on(engine.weights, state, given.ends, given.numbers, most)
    for until in range(1 + every, most + every, every):
        state = state.replace(done=jax.device_put(watched(state), state.done.sharding))
        if np.asarray(state.done).all():
            break
        state = go_on(engine.weights, state, given.ends, given.numbers, min(until, most))
    return state


def _watched(state: Any, prompts: Sequence[Sequence[int]], group: Group, watch: Watch) -> np.ndarray:
    """Which rows are done, once those that are not have been shown."""
    done, text, lengths = (np.array(x) for x in (state.done, state.text, state.lengths))
    for row, number in enumerate(group.numbers):
        if not done[row]:
            at = number % len(prompts)
            done[row] = watch(at, text[row, len(prompts[at]) : lengths[row]].tolist())
    return done
