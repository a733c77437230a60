"""How good decisions are where a label is given from another probability on."""

from typing import NamedTuple

import numpy as np

from jaxft.sure.bootstrap import Labelled
from jaxft.tables import Table
from jaxft.tables.sequence_classification import SequenceClassification

GRID = np.arange(1, 100) / 100
"""Thresholds that are tried."""


class Curve(NamedTuple):
    """F1 of a label by its threshold.

    Attributes:
      label: its name.
      threshold: from which on it is given.
      f1: there.
      best: the highest F1 on these rows, of the thresholds of `GRID`.
      at: the threshold of that, the lowest.
      curve: F1 at each of `GRID`.
    """

    label: str
    threshold: float
    f1: float
    best: float
    at: float
    curve: list[float]


def curves(table: Table, labelled: Labelled) -> list[Curve]:
    """Returns the curve of each of several labels; of other tasks, which give what is likeliest, none."""
    if not isinstance(table, SequenceClassification) or table.options.problem != "multi_label":
        return []
    logits, labels = table.rows(labelled.outputs, labelled.features)
    probabilities, found = table.probabilities(logits), []
    for n, (name, threshold) in enumerate(table.thresholds().items()):
        own, held = probabilities[:, n], labels[:, n] > 0
        curve = [f1(held, own >= one) for one in GRID]
        best = int(np.argmax(curve))
        found.append(Curve(name, threshold, f1(held, own >= threshold), curve[best], float(GRID[best]), curve))
    return found


def f1(held: np.ndarray, given: np.ndarray) -> float:
    """Returns 2 hits / (held + given), `[n]` of bool each; 0 where nothing is held or given."""
    return float(2 * (held & given).sum() / max(held.sum() + given.sum(), 1))
