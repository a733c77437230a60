"""What makes the answers of a trained model say how sure they are: fitted on labelled rows, measured on others."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.errors import UserError, nearest
from jaxft.metrics import classification
from jaxft.metrics.probabilities import sigmoid, softmax
from jaxft.sure import conformal, energy, selective, temperature

SHARES = (1.0, 0.9, 0.8, 0.5)
"""Of the surest answers, whose errors are told."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How logits become probabilities that are meant, sets that hold the truth, and a measure of what is unusual.

    Attributes:
      problem: single_label, multi_label or regression, as `config.SequenceClassification` has it.
      temperature: what logits are divided by.
      energies: of the rows that it was fitted on, see `jaxft.sure.energy`; empty: of scores there are none.
      coverage: how often sets, or intervals of scores, are to hold the truth; 0: there are none.
      sets: how they are made, one of `conformal.SETS`; empty: as of scores there is one way alone.
      limit: of the scores of conformal prediction.
    """

    problem: str
    temperature: float = 1.0
    energies: tuple[float, ...] = ()
    coverage: float = 0.0
    sets: str = ""
    limit: float = 0.0

    def says(self) -> dict[str, Any]:
        """Returns what a user is told of it, as JSON values."""
        found = {} if self.problem == "regression" else {"temperature": self.temperature}
        found |= {"coverage": self.coverage} if self.coverage else {}
        return found | ({"sets": self.sets} if self.sets else {})

    def line(self) -> str:
        """Returns the same in words."""
        found = [] if self.problem == "regression" else [f"temperature {self.temperature:.4g}"]
        if self.coverage:
            what = f"{self.sets} sets hold" if self.sets else "intervals hold"
            found.append(f"{what} the truth of {100 * self.coverage:.4g}% of the rows")
        return ", ".join(found)

    def held(self, logits: np.ndarray) -> np.ndarray:
        """Returns which labels are in the set of each row, `[n, labels]`; of classes the likeliest always is.

        Scores are those of the model's own probabilities: the rows that chose the temperature may then choose the limit
        too, and the promise is kept.
        """
        several = self.problem == "multi_label"
        probabilities = (sigmoid if several else softmax)(logits)
        held = conformal.SETS[self.sets](probabilities) <= self.limit
        return held if several else held | (probabilities == probabilities.max(1, keepdims=True))

    def beside(self, logits: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Returns what each answer has beside its own parts, as JSON values.

        Args:
          logits: `[n, labels]`; of scores `[n, 1]`.
          labels: names; of scores none.

        Returns:
          Of scores `interval`, both ends; else `set`, the likeliest label first, where a coverage is promised, and
          `unusual`, see `jaxft.sure.energy.unusual`.
        """
        if self.problem == "regression":
            ends = np.add(logits.astype(np.float64), [-self.limit, self.limit])
            return [{"interval": [float(low), float(high)]} for low, high in ends]
        share = energy.unusual(energy.energies(logits, self.problem == "multi_label"), self.energies)
        found: list[dict[str, Any]] = [{"unusual": float(one)} for one in share]
        if not self.coverage:
            return found
        order = np.argsort(-logits)
        sets = [
            {"set": [labels[i] for i in ranked if held[i]]}
            for ranked, held in zip(order, self.held(logits), strict=True)
        ]
        return [one | other for one, other in zip(sets, found, strict=True)]


def fit(problem: str, logits: np.ndarray, labels: np.ndarray, coverage: float = 0.0, sets: str = "") -> Calibration:
    """Returns the calibration of labelled rows.

    Args:
      problem, coverage, sets: as of `Calibration`, and as `check` lets them pass; sets may be empty for the first.
      logits: `[n, labels]`; of scores `[n, 1]`.
      labels: `[n]` class ids, `[n, labels]` of 0 and 1, or `[n]` scores.

    Raises:
      UserError: the coverage takes more rows, or a logit is no number.
    """
    if not np.isfinite(logits).all():
        raise UserError("the model gives some of these rows logits that are no numbers; nothing can be fitted on them")
    if problem == "regression":
        errors = np.abs(logits[:, 0].astype(np.float64) - labels)
        return Calibration(problem, coverage=coverage, limit=_limit(errors, coverage))
    fitted = temperature.fit(logits, labels)
    energies = energy.percentiles(energy.energies(logits, problem == "multi_label"))
    if not coverage:
        return Calibration(problem, fitted, energies)
    sets = sets or next(iter(conformal.SETS))
    scores = conformal.SETS[sets]((sigmoid if problem == "multi_label" else softmax)(logits))
    return Calibration(problem, fitted, energies, coverage, sets, _limit(conformal.of_truth(scores, labels), coverage))


def check(problem: str, coverage: float, sets: str) -> None:
    """Makes sure that what is asked for there is.

    Raises:
      UserError: there is not.
    """
    if not 0 <= coverage < 1:
        raise UserError(f"--calibrate.coverage is {coverage:g}; it must be below 1, e.g. 0.9")
    if sets and sets not in conformal.SETS:
        raise UserError(f"--calibrate.sets {sets!r}: there are no such sets; {nearest(sets, conformal.SETS)}")
    if sets and not coverage:
        raise UserError("--calibrate.sets says how sets are made, but none are asked for; add --calibrate.coverage=0.9")
    if problem == "regression" and not coverage:
        raise UserError("scores have no probabilities to calibrate; ask for intervals by --calibrate.coverage=0.9")
    if problem == "regression" and sets:
        raise UserError("--calibrate.sets is for classes and labels; of scores there are intervals: leave it out")
    if problem == "multi_label" and sets == "adaptive":
        raise UserError("--calibrate.sets=adaptive adds up probabilities of classes, of which one holds; take plain")


def _limit(scores: np.ndarray, coverage: float) -> float:
    found = conformal.limit(scores, coverage)
    if found is None:
        least = conformal.fewest(coverage)
        raise UserError(
            f"--calibrate.coverage={coverage:g} takes {least:,} labelled rows or more, and there are {len(scores):,}; "
            "promise less, or give more rows by --input"
        )
    return found


def figures(calibration: Calibration, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Measures a calibration on labelled rows, which for an honest measure are others than it was fitted on.

    Arguments as of `fit`.

    Returns:
      `log_loss` and `ece` (expected calibration error, of several labels over all decisions for and against one), and
      the same at temperature 1, `log_loss_before` and `ece_before`; of classes `aurc` and `error_of_surest/SHARE`, see
      `jaxft.sure.selective`; with a coverage `covered`, how often the truth was held, and `size`, labels of a set on
      average or the width of an interval.
    """
    found: dict[str, float] = {}
    if calibration.problem == "regression":
        covered = np.abs(logits[:, 0].astype(np.float64) - labels) <= calibration.limit
        return {"covered": float(covered.mean()), "size": 2 * calibration.limit}
    for ending, degrees in (("_before", 1.0), ("", calibration.temperature)):
        found[f"log_loss{ending}"] = temperature.log_loss(logits, labels, degrees)
        found[f"ece{ending}"] = _calibration_error(logits.astype(np.float64) / degrees, labels)
    if calibration.problem == "single_label":
        confidence = softmax(logits.astype(np.float64) / calibration.temperature).max(1)
        risks = selective.risks(confidence, logits.argmax(1) != labels)
        found["aurc"] = selective.area(risks)
        found |= {f"error_of_surest/{share:g}": selective.at(risks, share) for share in SHARES}
    if calibration.coverage:
        held = calibration.held(logits)
        of_truth = conformal.of_truth((~held).astype(np.float64), labels)
        found |= {"covered": float((of_truth == 0).mean()), "size": float(held.sum(1).mean())}
    return found


def _calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Of several labels each is a decision of its own, for or against it."""
    probabilities = softmax(logits)
    if labels.ndim == 2:
        chance, labels = sigmoid(logits).ravel(), labels.ravel() > 0
        probabilities = np.stack([1 - chance, chance], axis=1)
    return classification.expected_calibration_error(*classification.reliability(labels, probabilities))
