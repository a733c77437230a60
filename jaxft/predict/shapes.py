"""Which shapes the batches of a predictor have: few where it answers now and then, a fixed set where it serves."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxft import config
from jaxft.batch import BatchShape
from jaxft.data.features import Items
from jaxft.data.packing import MULTIPLE, Rows, pack
from jaxft.errors import UserError

SHORTEST = 16
"""Positions of the smallest batch that a service computes: one short text alone."""

ROW = 128
"""Positions of the rows that short texts share in a service, where the model has so many."""

EACH = {"cpu": 32.0}
"""Kind of device -> what a batch costs beside its tokens, in tokens; any other device: `EACH_ELSEWHERE`."""

EACH_ELSEWHERE = 1024.0


class Part(NamedTuple):
    """One batch of several: its items, where they lie in its rows, and its shape."""

    items: np.ndarray
    rows: Rows
    shape: BatchShape


def shape_for(items: Items, experiment: config.Experiment, parts: int) -> BatchShape:
    """Returns the shape of the batches for these inputs: one of a few, whatever they are.

    Row lengths are `data.max_length`, a quarter of it and, for inputs of several examples side by side, twice, four
    times, ... as much; there is one row a device where that holds all inputs, else about `train.batch_size` examples.

    Args:
      parts: rows are split over so many devices.
    """
    longest, most = int(items.lengths.max()), 1 << (items.most - 1).bit_length()
    packing, size = experiment.data.packing != "off", experiment.train.batch_size
    quarter = _up(experiment.data.max_length / 4, MULTIPLE)
    lengths = [quarter, _up(experiment.data.max_length, MULTIPLE)]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    lengths = [length for length in lengths if length >= longest]

    def shape(rows: float, length: int) -> BatchShape:
        return BatchShape(_up(rows, parts), length, max(length // 16 if packing else 1, most))

    for small in (shape(1, length) for length in lengths):
        if pack(items.lengths, small.length, small.slots // items.most).count <= small.rows:
            return small
    return shape(size * quarter / lengths[0] if packing else size, lengths[0])


def fixed_shapes(
    experiment: config.Experiment, parts: int, tokens: int, together: bool, virtual: bool = False
) -> list[BatchShape]:
    """Returns the shapes that a service compiles before it is ready, ascending in their positions.

    Packed, rows are `ROW` long, four times that, ..., and as long as the longest input; there are 1, 2, 3, 4, 6, 8, 12,
    ... of them, up to so many positions as `tokens` says, and short rows by themselves for a text that comes alone.
    With `data.packing` off there is a text a row, and every multiple of 8 is a length.

    Args:
      parts: rows are split over so many devices.
      tokens: of a batch, about; one row of the longest input there always is.
      together: examples of an input lie side by side, so that inputs are longer than `data.max_length`.
      virtual: a method puts tokens before each example, so that slots cost something.
    """
    longest, packing = _up(experiment.data.max_length, MULTIPLE), experiment.data.packing != "off"
    if packing:
        lengths = [min(longest, ROW)]
        while lengths[-1] < longest:
            lengths.append(min(4 * lengths[-1], longest))
        small = [length for length in (SHORTEST, 2 * SHORTEST, 4 * SHORTEST) if length < lengths[0]]
    else:
        lengths, small = list(range(MULTIPLE, longest + 1, MULTIPLE)), []
    while together and lengths[-1] < max(tokens, 4 * longest):
        lengths.append(2 * lengths[-1])

    def shape(rows: int, length: int) -> BatchShape:
        slots = max(length // (16 if virtual else 8), 4) if packing else 4 if together else 1
        return BatchShape(_up(rows, parts), length, slots)

    found = {shape(1, length) for length in small + lengths}
    for length in lengths:
        counts = itertools.chain.from_iterable((1 << n, 3 << (n - 1)) for n in itertools.count(1))
        found |= {shape(rows, length) for rows in itertools.takewhile(lambda n, of=length: n * of <= tokens, counts)}
    return sorted(found, key=lambda one: (one.rows * one.length, one.length))


class Fixed:
    """A fixed set of shapes, and which of them hold some items at the least cost.

    Items are parted by length: those that need long rows, and what fits beside them, go there, the others into shorter
    ones, where that is cheaper.
    """

    def __init__(self, shapes: Sequence[BatchShape], width: int, each: float):
        """Of shapes, all of one length with the same slots.

        Args:
          width: of the model's hidden states; the longer a row beside it, the more attention costs.
          each: what a batch costs beside its tokens, in tokens.
        """
        self.shapes = list(shapes)
        self._each, self._width = each, width
        self._of: dict[int, list[BatchShape]] = {}
        for shape in sorted(shapes):
            self._of.setdefault(shape.length, []).append(shape)
        self._lengths = sorted(self._of)
        self._best: dict[int, list[tuple[float, BatchShape | None]]] = {n: [(0.0, None)] for n in self._lengths}

    def check(self, items: Items, origin: str) -> None:
        """Makes sure that each item has room.

        Raises:
          UserError: one has not; names it.
        """
        for number, (examples, length) in enumerate(zip(np.diff(items.bounds), items.lengths, strict=True), 1):
            if not any(n >= length and self._of[n][0].slots >= examples for n in self._lengths):
                most = max(self._of[n][0].slots for n in self._lengths)
                raise UserError(
                    f"{origin}, row {number}: it has {length:,} tokens in {examples:,} parts; this server takes "
                    f"{self._lengths[-1]:,} tokens in {most:,} parts at most: shorten it, or start it with more "
                    "--serve.tokens"
                )

    def parts(self, items: Items) -> list[Part]:
        """Returns the batches that hold all items, each of one of the shapes."""
        return self._cheapest(items, np.arange(len(items.lengths)))[1]

    def _cheapest(self, items: Items, chosen: np.ndarray) -> tuple[float, list[Part]]:
        """Of all items in rows of one length, or of the longest and the others by themselves, what costs less."""
        lengths = items.lengths[chosen]
        longest = int(lengths.max())
        usable = [n for n in self._lengths if n >= longest and self._of[n][0].slots >= items.most]
        if self._of[usable[0]][0].slots < 2 * items.most:
            usable = usable[:1]  # no two items share a row: a longer one holds no more
        cost, best = min((self._alike(items, chosen, n) for n in usable), key=lambda found: found[0])
        shorter = [n for n in self._lengths if n < longest and self._of[n][0].slots >= items.most]
        short = lengths <= shorter[-1] if shorter else np.zeros(len(chosen), bool)
        if short.any():
            long = min((self._alike(items, chosen[~short], n) for n in usable), key=lambda found: found[0])
            rest = self._cheapest(items, chosen[short])
            if long[0] + rest[0] < cost:
                return long[0] + rest[0], long[1] + rest[1]
        return cost, best

    def _alike(self, items: Items, chosen: np.ndarray, length: int) -> tuple[float, list[Part]]:
        """The chosen items in rows of one length, and what these cost."""
        rows = pack(items.lengths[chosen], length, self._of[length][0].slots // items.most)
        found, start = [], 0
        for shape in self._cover(rows.count, length):
            here = np.flatnonzero((rows.row >= start) & (rows.row < start + shape.rows))
            found.append(Part(chosen[here], Rows(rows.row[here] - start, rows.slot[here], rows.start[here]), shape))
            start += shape.rows
        return self._best[length][rows.count][0], found

    def _cover(self, rows: int, length: int) -> Iterator[BatchShape]:
        """Shapes of a length that have so many rows together, at the least cost; the last may have some to spare."""
        best = self._best[length]
        for count in range(len(best), rows + 1):
            ways = ((best[max(count - s.rows, 0)][0] + self._cost(s), s) for s in self._of[length])
            best.append(min(ways, key=lambda way: way[0]))
        while rows > 0:
            shape = best[rows][1]
            assert shape is not None
            yield shape
            rows -= shape.rows

    def _cost(self, shape: BatchShape) -> float:
        return self._each + shape.rows * shape.length * (1 + shape.length / (6 * self._width))


def _up(n: float, multiple: int) -> int:
    """The smallest multiple that is not below n."""
    return int(-(-n // multiple)) * multiple
