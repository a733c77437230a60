"""The outputs of a whole split, in the order of its examples."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from jaxft.data import ragged
from jaxft.data.batches import Feed, HostBatch
from jaxft.data.features import Features
from jaxft.train.step import EvalStep
from jaxft.types import Array, Batch, Outputs, Params

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluated:
    """Outputs by name, `[examples, ...]` or, per token, `[tokens, ...]` flat as the features are; and the mean loss."""

    outputs: Mapping[str, np.ndarray]
    loss: float


def evaluate(
    eval_step: EvalStep,
    weights: tuple[Params, Params],
    feed: Feed,
    kinds: Mapping[str, str],
) -> Evaluated:
    """Runs every example of the feed through `eval_step`; see `collect`."""

    def step(weights: tuple[Params, Params], batch: Batch) -> tuple[Outputs, tuple[Array, Array]]:
        found = eval_step(weights, batch)
        return found.outputs, (found.total, found.weight)

    outputs, sums = collect(step, weights, feed, kinds)
    total, weight = np.sum(np.asarray(sums, np.float64).reshape(-1, 2), axis=0)
    return Evaluated(outputs, float(total / weight) if weight else float("nan"))


def collect(
    step: Callable[[tuple[Params, Params], Batch], tuple[Outputs, Any]],
    weights: tuple[Params, Params],
    feed: Feed,
    kinds: Mapping[str, str],
) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Runs every example of the feed through `step`; reads results one batch behind.

    Args:
      step: gives the outputs of a batch, and anything else that is small.
      weights: trainable and frozen parameters.
      kinds: each output's name -> "example" or "token".

    Returns:
      The outputs, as in `Evaluated`, and what else `step` gave of each batch, on the host.
    """
    rest: list[Any] = []
    outputs: dict[str, np.ndarray] = {}
    steps = ((host, step(weights, batch)) for host, batch in feed.all())
    for host, (found, other) in ((host, jax.device_get(found)) for host, found in _one_behind(steps)):
        rest.append(other)
        scatter(outputs, found, kinds, host, feed.features)
    return outputs, rest


def scatter(
    outputs: dict[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    kinds: Mapping[str, str],
    host: HostBatch,
    features: Features,
) -> None:
    """Puts what a step has found for a batch into the outputs of all examples, which it makes where they are not yet.

    Args:
      outputs: as in `Evaluated`; changed.
      found: of the batch, `[rows, slots, ...]` or, per token, `[rows, length, ...]`.
      kinds: each output's name -> "example" or "token".
    """
    sizes = {"example": len(features), "token": int(features.offsets[-1])}
    for name, kind in kinds.items():
        array = found[name]
        target = outputs.setdefault(name, np.zeros((sizes[kind], *array.shape[2:]), array.dtype))
        if kind == "example":
            target[host.examples] = array[host.rows.row, host.rows.slot]
        else:
            source, place = token_places(host, features.offsets)
            target[place] = array.reshape(-1, *array.shape[2:])[source]


def gather(
    outputs: Mapping[str, np.ndarray], kinds: Mapping[str, str], host: HostBatch, features: Features
) -> dict[str, np.ndarray]:
    """Returns of the outputs of all examples those of a batch, where they lie in it: what `scatter` takes apart.

    Args:
      outputs: as in `Evaluated`.
      kinds: each output's name -> "example" or "token".

    Returns:
      `[rows, slots, ...]` or, per token, `[rows, length, ...]`, 0 where no example or token is.
    """
    found = {}
    for name, kind in kinds.items():
        array = outputs[name]
        size = host.shape.slots if kind == "example" else host.shape.length
        laid = np.zeros((host.shape.rows, size, *array.shape[1:]), array.dtype)
        if kind == "example":
            laid[host.rows.row, host.rows.slot] = array[host.examples]
        else:
            there, place = token_places(host, features.offsets)
            laid.reshape(-1, *array.shape[1:])[there] = array[place]
        found[name] = laid
    return found


def token_places(host: HostBatch, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each token of a batch: where it lies in the flat rows, and where in the flat features."""
    sizes = np.diff(offsets)[host.examples]
    within = ragged.within(sizes)
    first = host.rows.row * host.shape.length + host.rows.start
    return np.repeat(first, sizes) + within, np.repeat(offsets[host.examples], sizes) + within


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Each item once the next one has been made."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
