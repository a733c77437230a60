"""Confident learning: which labels are doubtful, by probabilities of models that have not seen them.

Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels (JAIR 2021), section 3.
"""

import numpy as np


def thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns of each class its mean probability over the rows with its label, `[classes]` (equation 2).

    Of a class without rows it is infinite: nothing is confidently of it.

    Args:
      labels: given class ids, `[n]`.
      probabilities: `[n, classes]`.
    """
    own = labels[:, None] == np.arange(probabilities.shape[1])
    counts = own.sum(0)
    return np.where(counts > 0, (own * probabilities).sum(0) / np.maximum(counts, 1), np.inf)


def classes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the class that each row confidently is, `[n]`; -1: none (equation 1).

    It is the most probable of those classes whose probability reaches their threshold.
    """
    reached = probabilities >= thresholds(labels, probabilities)
    best = np.where(reached, probabilities, -1.0).argmax(-1)
    return np.where(reached.any(-1), best, -1)


def joint(labels: np.ndarray, found: np.ndarray, count: int) -> np.ndarray:
    """Returns how many rows with each label confidently are of each class, `[labels, classes]`: the confident joint.

    Args:
      found: `classes` of the rows, `[n]`.
      count: of the classes.
    """
    sure = found >= 0
    return np.bincount(labels[sure] * count + found[sure], minlength=count * count).reshape(count, count)


def self_confidence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the probability of each row's label, `[n]`."""
    return probabilities[np.arange(len(labels)), labels]


def normalized_margin(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns by how much the label is more probable than the best other class, from -1 .. 1 to 0 .. 1, `[n]`."""
    others = np.where(labels[:, None] == np.arange(probabilities.shape[1]), -np.inf, probabilities)
    return (self_confidence(labels, probabilities) - others.max(-1) + 1) / 2
