"""Confidence intervals of metrics: what other rows, drawn alike, would have said (Efron and Tibshirani 1993)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxft.data import ragged
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.tables import Table

RESAMPLES = 1000
"""So often rows are drawn."""

LEVEL = 0.95
"""Of the intervals of differences, of groups and of pages, where no other is asked for."""

ENDS = ("low", "high")
"""Of an interval, as the names of metrics end: `accuracy_low`, `accuracy_high`."""

COUNTS = ("support/", "threshold/")
"""Beginnings of the names of what is no metric."""


class Labelled(NamedTuple):
    """Labelled rows, their tokens, and what a model makes of them.

    Attributes:
      kinds: each output's name -> "example" or "token", see `jaxft.tasks.Task.outputs`.
      outputs: as `jaxft.train.evaluate.Evaluated` has them.
    """

    split: Split
    features: Features
    kinds: Mapping[str, str]
    outputs: Mapping[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "Labelled":
        """Returns those of some rows, `[n]`, any of them more than once."""
        bounds, features = self.features.bounds, self.features
        examples = _ranges(bounds[rows], bounds[rows + 1])
        taken = features.take(examples)
        if "row" in taken.examples:
            numbered = np.repeat(np.arange(len(rows)), np.diff(bounds)[rows])
            taken = Features(taken.offsets, taken.tokens, {**taken.examples, "row": numbered})
        tokens = _ranges(features.offsets[examples], features.offsets[examples + 1])
        places = {"example": examples, "token": tokens}
        outputs = {name: self.outputs[name][places[kind]] for name, kind in self.kinds.items()}
        return Labelled(self.split.take(rows), taken, self.kinds, outputs)

    def metrics(self, table: Table) -> dict[str, float]:
        """Returns the metrics of the rows."""
        found = table.metrics(self.outputs, self.features, self.split)
        return {name: value for name, value in found.items() if not name.startswith(COUNTS)}


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The numbers first .. last - 1 of each pair, one after the other."""
    return np.repeat(first, last - first) + ragged.within(last - first)


def intervals(
    measure: Callable[[np.ndarray], Mapping[str, Any]], rows: int, level: float, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """Returns of each metric the ends between which it lies in a share `level` of the resamples (percentile bootstrap).

    What some resample leaves undefined has none. The same rows give the same intervals.

    Args:
      measure: the numbers of rows `[n]`, drawn with replacement -> metrics.
      rows: how many there are.
    """
    rng = np.random.default_rng(0)
    drawn = [measure(rng.integers(rows, size=rows)) for _ in range(resamples)]
    first, *others = drawn
    names = [name for name in first if all(name in one for one in others)]
    ends = [(1 - level) / 2, (1 + level) / 2]
    found = {name: np.quantile([one[name] for one in drawn], ends) for name in names}
    return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def check(level: float) -> None:
    """Makes sure that there are intervals of a level; 0 asks for none.

    Raises:
      UserError: there are not.
    """
    if not 0 <= level < 1:
        raise UserError(f"--evaluate.intervals is {level:g}; it must be below 1, e.g. 0.95")


def inseparable(table: Table, labelled: Labelled | None = None) -> str:
    """Returns why a part of the rows cannot be measured by itself; empty: it can.

    Args:
      labelled: the rows; None: what the table alone tells.
    """
    if not table.apart:
        return "each text is looked for among all of the split"
    if labelled and len(labelled.features.bounds) - 1 != labelled.split.table.num_rows:
        return "rows are put together and cut into pieces"
    return ""


def check_apart(flag: str, table: Table, labelled: Labelled | None = None) -> None:
    """Makes sure that a part of the rows can be measured by itself.

    Args:
      flag: what asks for it.

    Raises:
      UserError: it cannot.
    """
    if why := inseparable(table, labelled):
        raise UserError(f"{flag}: {why}, so that rows cannot be drawn anew; leave it out")


def of_metrics(table: Table, labelled: Labelled, level: float) -> dict[str, float]:
    """Returns the interval of each metric of labelled rows, as `METRIC_low` and `METRIC_high`.

    Args:
      table: with its thresholds decided, which are taken as given.
      level: how often such an interval is to hold what all rows there could be would have said, e.g. 0.95.

    Raises:
      UserError: the task has no such intervals.
    """
    check_apart("--evaluate.intervals", table, labelled)
    measure = lambda rows: labelled.take(rows).metrics(table)  # noqa: E731
    found = intervals(measure, labelled.split.table.num_rows, level)
    return {f"{name}_{end}": value for name, both in found.items() for end, value in zip(ENDS, both, strict=True)}
