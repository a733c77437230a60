"""Metrics by group: of the rows that have the same value in a column, each group with its intervals."""

from typing import Any

import numpy as np

from jaxft.data.sources import Split
from jaxft.errors import UserError, nearest
from jaxft.sure import bootstrap
from jaxft.sure.bootstrap import Labelled
from jaxft.tables import Table
from jaxft.tables.base import true_columns
from jaxft.tables.questions import TEXTS

FEWEST = 20
"""Rows that a group has where its metrics have intervals: of fewer, draws say too little of rows that are not there."""

MOST = 50
"""Groups that a column may make."""


def rows_of(split: Split, column: str) -> dict[str, np.ndarray]:
    """Returns the rows of each value of a column, `[n]`, the value of most rows first.

    Raises:
      UserError: there is no such column, or it has too many values.
    """
    if column not in split.table.column_names:
        hint = nearest(column, split.table.column_names)
        raise UserError(f"--evaluate.groups: {split.origin} has no column {column!r}; {hint}")
    found = values(split, column)
    if len(found) > MOST:
        raise UserError(
            f"--evaluate.groups: {column!r} of {split.origin} has {len(found):,} values, and {MOST} groups are the "
            "most; name a column of fewer"
        )
    return found


def values(split: Split, column: str) -> dict[str, np.ndarray]:
    """Returns the rows of each value of a column that there is, `[n]`, the value of most rows first."""
    each: dict[str, list[int]] = {}
    for row, value in enumerate(split.table[column].to_pylist()):
        each.setdefault(said(value), []).append(row)
    return {name: np.asarray(each[name]) for name in sorted(each, key=lambda name: (-len(each[name]), name))}


def of_groups(table: Table, labelled: Labelled, column: str, level: float) -> dict[str, dict[str, float]]:
    """Returns of each group its number of `rows`, its metrics, and intervals as `bootstrap.of_metrics` has them.

    A group of fewer rows than `FEWEST` has no intervals, nor has a metric that is the same in all draws.

    Args:
      table: with its thresholds decided, which are those of all groups.
      level: of the intervals; 0: `bootstrap.LEVEL`.

    Raises:
      UserError: as `rows_of`; or the task measures no part of the rows by itself.
    """
    bootstrap.check_apart("--evaluate.groups", table, labelled)
    found = {}
    for name, rows in rows_of(labelled.split, column).items():
        part = labelled.take(rows)
        ends = bootstrap.of_metrics(table, part, level or bootstrap.LEVEL) if len(rows) >= FEWEST else {}
        found[name] = {"rows": len(rows), **part.metrics(table), **_without_width(ends)}
    return found


def _without_width(ends: dict[str, float]) -> dict[str, float]:
    """Leaves out both ends of what no draw changes, as where all answers are right: that would promise too much."""
    low, high = bootstrap.ENDS
    metrics = dict.fromkeys(name.rpartition("_")[0] for name in ends)
    moved = {name for name in metrics if ends[f"{name}_{low}"] < ends[f"{name}_{high}"]}
    return {name: value for name, value in ends.items() if name.rpartition("_")[0] in moved}


def said(value: Any, between: str = ", ") -> str:
    """Returns a value of a column in words, those of a list with `between` them; null is a group of its own."""
    return between.join(map(str, value)) if isinstance(value, list) else "null" if value is None else str(value)


def truths(options: Any, split: Split) -> list[str]:
    """Returns what is true of each row, in words; of a question its answers."""
    if TEXTS in split.table.column_names:
        return [said(texts) or "no answer" for texts in split.table[TEXTS].to_pylist()]
    names = true_columns(options, split)
    if len(names) == 1:
        return [said(value) for value in split.table[names[0]].to_pylist()]
    rows = split.table.select(names).to_pylist()
    return [", ".join(f"{name}: {said(value)}" for name, value in row.items()) for row in rows]
