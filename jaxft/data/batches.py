"""Batch i of a run: a pure function of (seed, i), made ahead on threads and placed on the devices ahead of use."""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxft import batch
from jaxft.batch import BatchShape, Target
from jaxft.data import ragged
from jaxft.data.features import Features, Items
from jaxft.data.order import Order
from jaxft.data.packing import Rows, pack

AHEAD = 2
"""Batches on the devices before the step asks for them."""

MADE = 8
"""Batches a thread that are made before they are put there."""


@dataclass(frozen=True)
class HostBatch:
    """Arrays of one batch on this host (its own rows of them), and which example lies where.

    Attributes:
      examples: `[n]` indices, in the order of `rows`.
    """

    shape: BatchShape
    arrays: Mapping[str, np.ndarray]
    examples: np.ndarray
    rows: Rows
    tokens: int


def fitting(shapes: list[BatchShape], rows: int, length: int, parts: int = 1) -> BatchShape:
    """The first of the (ascending) shapes that holds so many rows of that length.

    Where none has so many rows: the largest with as many as are needed, a multiple of `parts`. The shapes of a long run
    are chosen by some of its batches, and no batch may fail.
    """
    largest = shapes[-1]
    beyond = largest._replace(rows=-(-rows // parts) * parts)
    return next((shape for shape in shapes if shape.rows >= rows and shape.length >= length), beyond)


def assemble(
    features: Features,
    examples: np.ndarray,
    rows: Rows,
    shape: BatchShape,
    targets: Mapping[str, Target],
    local: tuple[int, int] | None = None,
) -> HostBatch:
    """Lays the examples out.

    Args:
      local: the first and the last-plus-one row that this process holds; all by default.
    """
    low, high = local or (0, shape.rows)
    here = (rows.row >= low) & (rows.row < high)
    index, row, slot, start = examples[here], rows.row[here] - low, rows.slot[here], rows.start[here]
    sizes = features.lengths[index]
    within = ragged.within(sizes)
    source = np.repeat(features.offsets[index], sizes) + within
    place = np.repeat(row * shape.length + start, sizes) + within

    def fill(name: str, dims: tuple[int, ...], dtype: type) -> np.ndarray:
        out = np.full((high - low, *dims[1:]), targets[name].fill if name in targets else 0, dtype)
        if name == "positions":
            out.reshape(-1)[place] = within
        elif name == "segment_ids":
            out.reshape(-1)[place] = np.repeat(slot + 1, sizes)
        elif name == "starts":
            out[row, slot] = start
        elif name == "order":
            out[row, slot] = np.flatnonzero(here)
        elif name in features.tokens:
            out.reshape(-1, *dims[2:])[place] = features.tokens[name][source]
        elif name in features.examples:
            out[row, slot] = features.examples[name][index]
        elif name == "weights":
            out[row, slot] = 1
        return out

    arrays = {name: fill(name, dims, dtype) for name, (dims, dtype) in batch.arrays(shape, targets).items()}
    return HostBatch(shape, arrays, examples, rows, int(features.lengths[examples].sum()))


def spread(features: Features, items: Items, chosen: np.ndarray, rows: Rows) -> tuple[np.ndarray, Rows]:
    """The examples of the chosen items, `[examples]`, and where they lie: side by side where `rows` places their item.

    Each item has as many slots as the one with most examples.
    """
    first = items.bounds[chosen]
    sizes = items.bounds[chosen + 1] - first
    within = ragged.within(sizes)
    examples = np.repeat(first, sizes) + within
    before = features.offsets[examples] - np.repeat(features.offsets[first], sizes)
    row, slot, start = (np.repeat(array, sizes) for array in rows)
    return examples, Rows(row, slot * items.most + within, start + before)


@dataclass(frozen=True)
class Feed:
    """The batches of a run, from features to device arrays.

    Attributes:
      vary: `(features of some examples, their numbers, epoch) -> ` the same, as training sees them in that epoch.
      parts: the rows of a batch are a multiple of it.
      together: keep the examples of a row of the table in one row of one batch (such tasks do not vary).
    """

    features: Features
    targets: Mapping[str, Target]
    shapes: list[BatchShape]
    place: NamedSharding
    workers: int = 2
    vary: Callable[[Features, np.ndarray, int], Features] | None = None
    together: bool = False
    parts: int = 1

    @cached_property
    def items(self) -> Items:
        return self.features.items(self.together)

    def train(self, order: Order, start: int, stop: int) -> Iterator[tuple[HostBatch, dict[str, jax.Array]]]:
        """Batches start .. stop - 1 of the order."""
        length, slots = self.shapes[-1].length, self.shapes[-1].slots // self.items.most

        def make(i: int) -> HostBatch:
            chosen = order[i]
            rows = pack(self.items.lengths[chosen], length, slots)
            if self.vary is None:
                return self._assemble(chosen, rows)
            varied = self.vary(self.features.take(chosen), chosen, i // order.batches_per_epoch)
            host = replace(self, features=varied)._assemble(np.arange(len(chosen)), rows)
            return replace(host, examples=chosen)

        return self._ahead(make, start, stop)

    def all(self) -> Iterator[tuple[HostBatch, dict[str, jax.Array]]]:
        """Every example once, in rows as full as can be."""
        largest = self.shapes[-1]
        packed = pack(self.items.lengths, largest.length, largest.slots // self.items.most)
        order = np.argsort(packed.row, kind="stable")
        bounds = np.searchsorted(packed.row[order], np.arange(0, packed.count + largest.rows, largest.rows))

        def make(i: int) -> HostBatch:
            chosen = order[bounds[i] : bounds[i + 1]]
            rows = Rows(packed.row[chosen] - i * largest.rows, packed.slot[chosen], packed.start[chosen])
            return self._assemble(chosen, rows, rows_at_least=largest.rows)

        return self._ahead(make, 0, len(bounds) - 1)

    def _assemble(self, chosen: np.ndarray, rows: Rows, rows_at_least: int = 0) -> HostBatch:
        longest = int(self.items.lengths[chosen].max())
        shape = fitting(self.shapes, max(rows.count, rows_at_least), longest, self.parts)
        examples, rows = spread(self.features, self.items, chosen, rows)
        return assemble(self.features, examples, rows, shape, self.targets, self._local(shape.rows))

    def _local(self, rows: int) -> tuple[int, int]:
        """The first and the last-plus-one row of this process."""
        spans = self._spans(rows)
        return spans[0][0], spans[-1][1]

    def _spans(self, rows: int) -> list[tuple[int, int]]:
        """The rows of this process, ascending; on a TPU slice others' rows may lie between them."""
        places = self.place.addressable_devices_indices_map((rows,)).values()
        return sorted({place[0].indices(rows)[:2] for place in places if place})

    def _ahead(self, make, start: int, stop: int) -> Iterator[tuple[HostBatch, dict[str, jax.Array]]]:
        options = grain.ReadOptions(num_threads=self.workers, prefetch_buffer_size=MADE * self.workers)
        hosts = iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options))
        ready = collections.deque((host, self._put(host)) for host in itertools.islice(hosts, AHEAD))
        while ready:
            yield ready.popleft()
            ready.extend((host, self._put(host)) for host in itertools.islice(hosts, 1))

    def _put(self, host: HostBatch) -> dict[str, jax.Array]:
        rows = host.shape.rows
        spans = self._spans(rows)
        first, last = spans[0][0], spans[-1][1]
        holes = sum(high - low for low, high in spans) < last - first

        def own(array: np.ndarray) -> np.ndarray:
            return np.concatenate([array[low - first : high - first] for low, high in spans]) if holes else array

        with jax.transfer_guard_host_to_device("allow"):  # placed by the part, which counts as implicit
            return {
                name: jax.make_array_from_process_local_data(self.place, own(array), (rows, *array.shape[1:]))
                for name, array in host.arrays.items()
            }
