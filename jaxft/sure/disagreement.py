"""How far models disagree that answer as one: several of them, or one whose dropout is drawn anew each time.

Of probabilities it is the mutual information of the answer and of which model gives it (Houlsby et al. 2011, eq. 2),
the entropy of their mean less the mean of their entropies, in nats: 0 where all say the same, however unsure they are.
"""

import numpy as np


def of_classes(logits: np.ndarray) -> np.ndarray:
    """Returns the mutual information, `[n]`, by logits of one class of several, `[models, n, classes]`."""
    wide = logits.astype(np.float64)
    return _information(wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True))


def of_labels(logits: np.ndarray) -> np.ndarray:
    """Returns the sum of the labels' mutual informations, `[n]`, by logits `[models, n, labels]`."""
    wide = logits.astype(np.float64)
    return _information(np.stack([-np.logaddexp(0, -wide), -np.logaddexp(0, wide)], axis=-1)).sum(-1)


def of_scores(scores: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of the models' scores, `[n]`, by `[models, n]`."""
    return scores.astype(np.float64).std(0)


def _information(logarithms: np.ndarray) -> np.ndarray:
    """By log probabilities, `[models, ..., outcomes]`; rounding never makes it less than nothing."""
    mean = np.logaddexp.reduce(logarithms) - np.log(len(logarithms))
    return np.maximum(_entropy(mean) - _entropy(logarithms).mean(0), 0)


def _entropy(logarithms: np.ndarray) -> np.ndarray:
    return -(np.exp(logarithms) * np.where(np.isneginf(logarithms), 0, logarithms)).sum(-1)
