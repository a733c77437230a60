"""Which examples share a row, and which few shapes of batches a run needs.

Packing several examples into a row: Krell et al. 2021, "Efficient sequence packing without cross-contamination".
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxft.batch import BatchShape

MULTIPLE = 8
"""Row lengths are multiples of it, as vector units like them."""


class Cost(NamedTuple):
    """What shapes cost, in any unit of time.

    Attributes:
      step: `(rows, length) -> ` of a step of that shape.
      shape: of compiling one.
    """

    step: Callable[[int, int], float]
    shape: float = 0.0


class Rows(NamedTuple):
    """Where each of n examples lies, each array `[n]`: its row, its slot in that row, its first position."""

    row: np.ndarray
    slot: np.ndarray
    start: np.ndarray

    @property
    def count(self) -> int:
        return int(self.row.max(initial=-1)) + 1

    @property
    def slots(self) -> int:
        return int(self.slot.max(initial=0)) + 1


def pack(lengths: Sequence[int] | np.ndarray, length: int, slots: int = 0) -> Rows:
    """Best-fit decreasing: the longest first, each into the fullest row that still holds it.

    Args:
      lengths: `[n]`, of the examples, each at most `length`.
      length: positions a row.
      slots: at most so many examples a row; 0: any number. With 1 this is plain padding.
    """
    lengths = np.asarray(lengths)
    row, slot, start = (np.zeros(len(lengths), np.int64) for _ in range(3))
    free: dict[int, list[int]] = {}  # free[c]: rows with c positions left
    occupied = 0  # bit c is set where free[c] is not empty
    used: list[int] = []  # examples in each row
    for i in np.argsort(-lengths, kind="stable"):
        size = int(lengths[i])
        fitting = occupied >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            r = free[room].pop()
            if not free[room]:
                occupied ^= 1 << room
        else:
            room, r = length, len(used)
            used.append(0)
        row[i], slot[i], start[i] = r, used[r], length - room
        used[r] += 1
        if used[r] != slots and room > size:
            free.setdefault(room - size, []).append(r)
            occupied |= 1 << (room - size)
    return Rows(row, slot, start)


def best_sizes(
    needs: np.ndarray, count: int, cost: Callable[[np.ndarray], np.ndarray], price: float = 0.0
) -> list[int]:
    """At most `count` sizes, each need served by the smallest size at or above it, at the least total cost.

    Exact, by dynamic programming over the distinct needs.

    Args:
      price: that each size costs by itself.
    """
    values, times = np.unique(needs, return_counts=True)
    each = cost(values)
    served = np.cumsum(times)  # served[j]: needs at or below value j
    between = np.where(
        np.tri(len(values), k=-1, dtype=bool), (served[:, None] - served[None, :]) * each[:, None], np.inf
    )
    first = served * each
    best, back = first, []  # best[j]: the least cost of the needs up to value j, the last size being value j
    for _ in range(count - 1):
        total = best[None, :] + between + price  # [j, i]: the size before value j is value i
        previous = total.argmin(1)
        lowest = total.min(1)
        back.append(np.where(lowest < first, previous, -1))
        best = np.minimum(lowest, first)
    sizes, j = [int(values[-1])], len(values) - 1
    for pointers in reversed(back):
        j = int(pointers[j])
        if j < 0:
            break
        sizes.append(int(values[j]))
    return sorted(sizes)


def plan(
    batches: Iterable[np.ndarray],
    *,
    longest: int,
    packing: bool,
    rows_multiple: int,
    count: int,
    cost: Cost,
    most: int = 1,
) -> list[BatchShape]:
    """The shapes, at most `count`, that hold all of the given batches at the least cost.

    Args:
      batches: the lengths of the items of each batch, `[items]`; an item is an example or several that stay together.
      longest: item that the largest shape must hold (validation may have longer ones than these batches).
      packing: several examples a row; otherwise one.
      rows_multiple: rows are split over so many devices and parts.
      most: examples of an item.
    """
    batches = list(batches)
    if not packing:
        rows = _up(max(len(lengths) for lengths in batches), rows_multiple)
        needs = np.asarray([_up(int(lengths.max()), MULTIPLE) for lengths in batches])
        needs = np.append(needs, _up(longest, MULTIPLE))
        sizes = best_sizes(needs, count, lambda n: _costs(cost, rows, n), cost.shape)
        return [BatchShape(rows, size, most) for size in sizes]
    whole, sample = len(batches), batches[:: max(len(batches) // 100, 1)]

    def shapes(length: int, batches: list[np.ndarray]) -> tuple[float, list[BatchShape]]:
        packed = [pack(lengths, length) for lengths in batches]
        needs = np.asarray([_up(rows.count, rows_multiple) for rows in packed])
        compiling = cost.shape * len(batches) / whole
        sizes = best_sizes(needs, count, lambda n: _costs(cost, n, length), compiling)
        total = sum(cost.step(min(s for s in sizes if s >= need), length) for need in needs) + len(sizes) * compiling
        slots = most * max(rows.slots for rows in packed)
        return total, [BatchShape(size, length, slots) for size in sizes]

    shortest = _up(longest, MULTIPLE)
    apart = _up(max(shortest // 16, 1), 32)  # beside the shortest 48 are tried at most, however long rows are
    lengths = {shortest, *range(_up(shortest, 32), 4 * shortest, apart)}
    return shapes(min(lengths, key=lambda length: (shapes(length, sample)[0], length)), batches)[1]


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _costs(cost: Cost, rows: np.ndarray | int, lengths: np.ndarray | int) -> np.ndarray:
    return np.asarray([cost.step(int(r), int(n)) for r, n in np.broadcast(rows, lengths)])
