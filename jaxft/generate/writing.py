"""Prompts in, answers out, as token ids: which rows are computed together, and of which sizes."""

from collections.abc import Callable, Iterator, Sequence
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
"""`(number of a prompt, tokens of its answer so far) -> whether it ends here`."""


class Written(NamedTuple):
    """An answer.

    Attributes:
      tokens: of it, the one that ends it included.
      log_probs: of each of them, by the model alone, whatever they were chosen by.
      ended: whether it came to an end by itself; else it was cut where it may be no longer.
    """

    tokens: list[int]
    log_probs: list[float]
    ended: bool


class Group(NamedTuple):
    """Prompts that are continued together.

    Attributes:
      numbers: which they are.
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


def groups(lengths: Sequence[int], rows: int, shards: int, least: int, longest: int) -> Iterator[Group]:
    """Yields groups of prompts of about one length, the longest ones first, in arrays of a few sizes.

    Args:
      rows: of a group, at most.
      shards: what the number of rows of its array is a multiple of.
      least, longest: tokens of a row of an array.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    rows = min(rows, 1 << (len(order) - 1).bit_length())
    for start in range(0, len(order), rows):
        numbers = order[start : start + rows]
        yield Group(numbers, -(-rows // shards) * shards, min(size(lengths[numbers[0]], least), longest))


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
    least: int = 16,
) -> list[Written]:
    """Returns an answer to each prompt.

    Args:
      prompts: token ids; one or more each, and fewer than the model has positions.
      stops: tokens that end an answer.
      watch: is asked of answers that go on, after the first token and then `every` so many; not of beams.
      least: tokens of the shortest prompts that programs are compiled for.
    """
    found: dict[int, Written] = {}
    shards, longest = engine.composed.row_shards, longest_of(engine)
    for group in groups([len(prompt) for prompt in prompts], options.rows, shards, least, longest):
        state, limits = _computed(engine, prompts, group, stops, options, watch, every)
        text, lengths, log_probs = (np.asarray(x) for x in (state.text, state.lengths, state.log_probs))
        for row, number in enumerate(group.numbers):
            part = slice(len(prompts[number]), int(lengths[row]))
            tokens = text[row, part].tolist()
            ended = tokens[-1] in stops or len(tokens) < int(limits[row])
            found[number] = Written(tokens, log_probs[row, part].tolist(), ended)
    return [found[number] for number in range(len(prompts))]


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
    composed, how, most, longest = engine.composed, options.how, options.max_new_tokens, longest_of(engine)
    ids, lengths = np.zeros((group.rows, group.length), np.int32), np.ones(group.rows, np.int32)
    limits, numbers = np.ones(group.rows, np.int32), np.zeros(group.rows, np.uint32)
    for row, number in enumerate(group.numbers):
        prompt = prompts[number]
        ids[row, : len(prompt)], lengths[row], numbers[row] = prompt, len(prompt), number
        limits[row] = min(most, longest - len(prompt))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(options.seed), numbers)
    by_rows = lambda x: jax.device_put(x, composed.batch_sharding)  # noqa: E731
    ends = Ends(jnp.asarray([*stops] or [-1], jnp.int32), by_rows(limits))
    values, room = Numbers.of(options), -(-most // 16) * 16
    files = beams if how.beams > 1 else decoding
    begin, go_on = engine.function(files.begin, how, room), engine.function(files.go_on, how)
    state = begin(engine.weights, *map(by_rows, (ids, lengths, keys)), ends, values)
    if watch is None or how.beams > 1:
        return go_on(engine.weights, state, ends, values, most), limits
    for until in range(1 + every, most + every, every):
        state = state.replace(done=jax.device_put(_watched(state, prompts, group, watch), state.done.sharding))
        if np.asarray(state.done).all():
            break
        state = go_on(engine.weights, state, ends, values, min(until, most))
    return state, limits


def _watched(state: Any, prompts: Sequence[Sequence[int]], group: Group, watch: Watch) -> np.ndarray:
    """Which rows are done, once those that are not have been shown."""
    done, text, lengths = (np.array(x) for x in (state.done, state.text, state.lengths))
    for row, number in enumerate(group.numbers):
        if not done[row]:
            done[row] = watch(number, text[row, len(prompts[number]) : lengths[row]].tolist())
    return done
