"""Whether one of two models is better on the same rows: McNemar's test, and intervals of differences."""

from typing import NamedTuple

import numpy as np

from jaxft.sure import bootstrap
from jaxft.sure.bootstrap import Labelled
from jaxft.tables import Table


class McNemar(NamedTuple):
    """Of rows that two models answer, those that one of them alone has right.

    Attributes:
      first, second: how many the first, and the second, has right alone.
      p: how likely numbers at least so far apart are, where both models are as good (McNemar 1947; exact, by the
        binomial law, two-sided).
    """

    first: int
    second: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Returns what the errors of two models on the same rows, `[n]` of bool each, say."""
    from scipy.stats import binomtest

    one, other = int((~first & second).sum()), int((first & ~second).sum())
    return McNemar(one, other, float(binomtest(one, one + other).pvalue) if one + other else 1.0)


class Difference(NamedTuple):
    """A metric of both models, and the ends of the interval of the second's less the first's."""

    first: float
    second: float
    low: float | None
    high: float | None

    @property
    def difference(self) -> float:
        return self.second - self.first


def differences(
    tables: tuple[Table, Table], labelled: tuple[Labelled, Labelled], level: float
) -> dict[str, Difference]:
    """Returns of each metric that both have by how much they differ, rows drawn for both alike (paired bootstrap).

    Where some draw leaves a metric undefined, or all draws agree, its difference has no interval.

    Args:
      tables: of each model, with its thresholds decided, which are taken as given.
      labelled: the same rows in the same order, as each model has them.
      level: of the intervals.
    """
    pairs = list(zip(tables, labelled, strict=True))
    (count,) = {one.split.table.num_rows for one in labelled}

    def measured(rows: np.ndarray | None) -> tuple[dict[str, float], dict[str, float]]:
        first, second = ((one if rows is None else one.take(rows)).metrics(table) for table, one in pairs)
        return first, second

    def apart(rows: np.ndarray) -> dict[str, float]:
        first, second = measured(rows)
        return {name: second[name] - value for name, value in first.items() if name in second}

    (first, second), ends = measured(None), bootstrap.intervals(apart, count, level)
    moved = {name: (low, high) for name, (low, high) in ends.items() if low < high}
    return {
        name: Difference(first[name], second[name], *moved.get(name, (None, None))) for name in first if name in second
    }
