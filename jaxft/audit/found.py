"""What an audit finds: values that a page shows and JSON holds."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxft.audit.described import Line
from jaxft.audit.exposure import Exposure
from jaxft.audit.slices import Slice
from jaxft.audit.thresholds import Curve
from jaxft.explain.explainer import Explained
from jaxft.explain.page import Strong


class Mistake(NamedTuple):
    """A wrong answer.

    Attributes:
      where: the row.
      texts: by column.
      truth, answer: in words.
      confidence: the probability of the answer.
      why: how much the words speak for the answer; None: it was not explained.
    """

    where: str
    texts: dict[str, str]
    truth: str
    answer: str
    confidence: float
    why: Explained | None = None


class Duplicate(NamedTuple):
    """A row that is measured and one that was learned from, which are almost the same; labels in words."""

    similarity: float
    where: str
    text: str
    label: str
    other: str
    other_text: str
    other_label: str


class Audit(NamedTuple):
    """What was found.

    Attributes:
      rows: how many were measured.
      level: of the intervals.
      metrics: with their intervals, see `jaxft.sure.bootstrap.of_metrics`.
      sure: figures of the probabilities before and after the calibration, see `jaxft.sure.calibration.figures`.
      diagrams: title -> `(labels [n], probabilities [n, classes])`.
      mistakes: the surest ones.
      wrong: how many answers are wrong; None: answers are not wrong or right.
      slices: all that were tested, the least likely first.
      duplicates: the most alike first.
      doubtful: rows of crossfit whose label is doubtful, the most doubtful first.
      notes: what could not be looked for, and why, a line each.
      exposures: of the canaries that were given.
      data: what the rows are, beside those that were learned from.
      curves: of several labels, how good each is by its threshold.
      words: target -> the words that speak most for it, the strongest first, and those against it, the strongest last:
        of rows that were drawn.
    """

    rows: int
    level: float
    metrics: Mapping[str, float]
    sure: Mapping[str, float]
    diagrams: Mapping[str, tuple[np.ndarray, np.ndarray]]
    mistakes: Sequence[Mistake]
    wrong: int | None
    slices: Sequence[Slice]
    duplicates: Sequence[Duplicate]
    doubtful: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    exposures: Sequence[Exposure] = ()
    data: Sequence[Line] = ()
    curves: Sequence[Curve] = ()
    words: Mapping[str, Sequence[Strong]] = MappingProxyType({})

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON values, without what is drawn."""
        found = self._asdict() | {
            "mistakes": [one._asdict() | {"why": one.why and one.why.to_json()} for one in self.mistakes],
            "slices": [one._asdict() for one in self.slices],
            "duplicates": [one._asdict() for one in self.duplicates],
            "exposures": [one._asdict() for one in self.exposures],
            "data": [one._asdict() for one in self.data],
            "curves": [one._asdict() for one in self.curves],
            "words": {target: [one._asdict() for one in words] for target, words in self.words.items()},
        }
        return {name: value for name, value in found.items() if name != "diagrams"}
