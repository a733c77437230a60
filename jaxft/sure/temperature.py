"""Temperature scaling (Guo et al. 2017, section 4.2): logits / temperature, that under which labels are likeliest."""

from typing import Any

import numpy as np

from jaxft.metrics.probabilities import sigmoid, softmax

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of a temperature: beyond them nothing is left of what the model said, or of a doubt."""


def fit(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature, from `COLDEST` to `HOTTEST`, of the smallest log loss.

    The log loss is convex in 1 / temperature, so that there is one such temperature, and it is never worse than 1.

    Args:
      logits: `[n, labels]`.
      labels: `[n]` class ids, or, where several can hold, `[n, labels]` of 0 and 1.
    """
    from scipy.optimize import brentq

    logits = np.asarray(logits, np.float64)
    several = labels.ndim == 2
    held = labels if several else np.eye(logits.shape[1])[labels]

    def slope(inverse: float) -> float:
        """The derivative of the log loss by 1 / temperature."""
        expected = (sigmoid if several else softmax)(logits * inverse)
        return float(((expected - held) * logits).sum(1).mean())

    if slope(1 / HOTTEST) >= 0:
        return HOTTEST
    if slope(1 / COLDEST) <= 0:
        return COLDEST
    best: Any = brentq(slope, 1 / HOTTEST, 1 / COLDEST)  # its type depends on arguments that are not given here
    return 1 / float(best)


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Computes the mean over the rows of -log likelihood, of several labels their sum. Takes what `fit` does."""
    scaled = np.asarray(logits, np.float64) / temperature
    if labels.ndim == 2:
        return float(np.logaddexp(0, np.where(labels > 0, -scaled, scaled)).sum(1).mean())
    own = scaled[np.arange(len(labels)), labels][:, None]
    return float(np.logaddexp.reduce(scaled - own, axis=1).mean())
