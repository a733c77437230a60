"""Results as plain text, aligned also where names are Chinese, Japanese or Korean (two columns a character)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.cells import cell_len

PER_CLASS = ("precision", "recall", "f1", "support")
"""Metrics that `metrics.classification` gives for each class, as `METRIC/NAME`."""

SPOKEN = {
    "ece": "expected calibration error",
    "matthews": "Matthews correlation",
    "mrr@10": "MRR@10",
    "mse": "mean squared error",
    "ndcg@10": "nDCG@10",
    "pearson": "Pearson correlation",
    "roc_auc": "ROC AUC",
    "spearman": "Spearman correlation",
}

ENDS = ("_low", "_high")
"""How the ends of a metric's confidence interval are named, see `jaxft.sure.bootstrap`."""

MOST_ROWS, MOST_CLASSES = 50, 20
"""A terminal holds no more: of the per-class table, and of the confusion table."""


def number(value: float | None) -> str:
    """Counts and large values with thousands separators, others with four digits after the point.

    None stands for a value that was not finite, as in results.json.
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    if isinstance(value, int | np.integer) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.4f}"


def spoken(metric: str) -> str:
    """`f1_macro` as a reader says it: F1 macro."""
    return SPOKEN.get(metric) or metric.replace("_", " ").replace("f1", "F1")


def _pad(text: str, width: int, right: bool = False) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def grid(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Columns two blanks apart: the first flush left, the others flush right."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    cells = ([_pad(cell, w, i > 0) for i, (cell, w) in enumerate(zip(row, widths, strict=True))] for row in rows)
    return "\n".join(indent + "  ".join(row).rstrip() for row in cells)


def summary(rows: Mapping[str, str]) -> str:
    """`key  value` lines with the values in one column."""
    width = max(map(cell_len, rows), default=0)
    return "\n".join(f"{_pad(key, width)}  {value}" for key, value in rows.items())


def aggregated(results: Mapping[str, float], split: str) -> dict[str, float]:
    """The metrics of one split over all classes, in their order: those of `SPLIT/METRIC` without a further `/`.

    Without the ends of their intervals; see `interval`.
    """
    cut = len(split) + 1
    there = {k[cut:]: v for k, v in results.items() if k.startswith(f"{split}/") and "/" not in k[cut:]}
    return {k: v for k, v in there.items() if not (k.endswith(ENDS) and k.rpartition("_")[0] in there)}


def interval(results: Mapping[str, float], metric: str) -> str:
    """The interval of `SPLIT/METRIC`, where it has one, as text."""
    low, high = (results.get(metric + ending) for ending in ENDS)
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def per_class(results: Mapping[str, float], split: str, names: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The per-class table: its metrics, and a row `[name, value, ...]` for each class that has any."""
    columns = [kind for kind in PER_CLASS if any(f"{split}/{kind}/{name}" in results for name in names)]
    keys = {name: [f"{split}/{kind}/{name}" for kind in columns] for name in names}
    return columns, [
        [name, *(number(results[k]) if k in results else "" for k in keys[name])]
        for name in names
        if any(k in results for k in keys[name])
    ]


def metrics_table(results: Mapping[str, float], split: str, names: Sequence[str] = ()) -> str:
    """The metrics of one split: those over all classes, then a line for each class.

    Args:
      results: flat, `SPLIT/METRIC` and `SPLIT/METRIC/CLASS`, as in results.json.
      split: which split to show.
      names: the classes, in the order wanted.
    """
    lines = [
        [name, number(value), interval(results, f"{split}/{name}")]
        for name, value in aggregated(results, split).items()
    ]
    parts = [split, grid(lines if any(line[2] for line in lines) else [line[:2] for line in lines])]
    columns, rows = per_class(results, split, names)
    if len(rows) > MOST_ROWS:
        parts.append(f"  (per class: {len(rows)} classes are too many to list here; see the report and results.json)")
    elif rows:
        parts += ["", grid([["class", *columns], *rows])]
    return "\n".join(parts)


def groups_table(groups: Mapping[str, Mapping[str, float]], column: str, metric: str) -> str:
    """How each group does by one metric, with its interval where it has one.

    Args:
      groups: of each value of the column its `rows` and its metrics.
    """
    lines = [
        [value, number(found["rows"]), number(found.get(metric)), interval(found, metric)]
        for value, found in groups.items()
    ]
    return grid([[column, "rows", spoken(metric), "interval"], *lines], indent="")


def confusion_table(matrix: np.ndarray, names: Sequence[str]) -> str:
    """The confusion matrix `[classes, classes]` as text: true classes in rows, predicted ones in columns."""
    if len(names) > MOST_CLASSES:
        return f"confusion matrix: {len(names)} classes are too many for the terminal; see the report"
    body = [[name, *(f"{count:,}" for count in row)] for name, row in zip(names, matrix, strict=True)]
    return "true (rows) against predicted (columns)\n" + grid([["", *names], *body])
