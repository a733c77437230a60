"""Selective prediction: the errors among the answers that a model is surest of (El-Yaniv and Wiener 2010)."""

import numpy as np


def risks(confidence: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Returns the share of errors among the 1, 2, ..., n surest answers, `[n]`.

    Answers of the same confidence count alike, each as wrong as they are on average: their order means nothing.

    Args:
      confidence: `[n]`.
      wrong: `[n]` of 0 and 1.
    """
    _, place, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    mean = np.bincount(place, wrong) / count
    return np.cumsum(np.repeat(mean, count)) / np.arange(1, len(wrong) + 1)


def area(risks: np.ndarray) -> float:
    """Computes the area under risk against coverage (AURC, Geifman et al. 2019): the mean of `risks`."""
    return float(risks.mean())


def at(risks: np.ndarray, share: float) -> float:
    """Returns the share of errors among so large a share of the answers, one at least."""
    return float(risks[max(round(share * len(risks)), 1) - 1])
