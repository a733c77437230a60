"""Split conformal prediction: sets that hold the truth as often as was promised, whatever the model (Vovk et al. 2005).

Each label of a row has a score, the higher the less it fits; the limit is a quantile of the scores of the truth on rows
that the model has not learned from; a set is of the labels whose scores are not above it. Of rows that are drawn alike,
it holds the truth of a new one with the promised probability or more.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np


def limit(scores: np.ndarray, coverage: float) -> float | None:
    """Returns the smallest score of the truth that at least ceil((n + 1) coverage) of `[n]` do not exceed.

    None: so many rows cannot promise it, as there would have to be more of them than there are.
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # of a product that is whole but for rounding
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else None


def fewest(coverage: float) -> int:
    """Returns how many rows can promise a coverage."""
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def plain(probabilities: np.ndarray) -> np.ndarray:
    """Computes 1 - probability, `[n, labels]`: the smallest sets on average (LAC, Sadinle et al. 2019)."""
    return 1 - probabilities


def adaptive(probabilities: np.ndarray) -> np.ndarray:
    """Computes the probability of all classes that are likelier, `[n, classes]`: sets end where they have enough of it.

    Of rows that are hard the sets are larger, so that they hold the truth about as often as those of easy ones (APS,
    Romano et al. 2020, without its random part).
    """
    place = np.arange(len(probabilities))[:, None], np.argsort(-probabilities)
    ranked, before = probabilities[place], np.empty_like(probabilities)
    before[place] = np.cumsum(ranked, 1) - ranked
    return before


SETS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"plain": plain, "adaptive": adaptive}
"""How sets are made: name -> the score of each label."""


def of_truth(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the score of the truth of each row, `[n]`: of several labels the highest, as a set is to hold all.

    That of a row without labels is 0.

    Args:
      scores: `[n, labels]`, none below 0.
      labels: `[n]` class ids, or `[n, labels]` of 0 and 1.
    """
    if labels.ndim == 2:
        return np.where(labels > 0, scores, 0.0).max(1)
    return scores[np.arange(len(labels)), labels]
