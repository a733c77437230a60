"""Temperature scaling (Guo et al. 2017, section 4.2): logits / temperature, that under which labels are likeliest."""

from typing import Any

import numpy as np

MOST = 20.0
"""The highest temperature, and one over the lowest: beyond it nothing is left of what a model said, or of a doubt."""


def fit(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the temperature of the smallest log loss, from 1 / `MOST` to `MOST`; 1 where no other one is better.

    The log loss is convex in 1 / temperature, so that it has one minimum over temperatures.

    Args:
      logits: `[n, labels]`.
      labels: `[n]` class ids, or, where several can hold, `[n, labels]` of 0 and 1.
    """
    from scipy.optimize import minimize_scalar

    ends = -np.log(MOST), np.log(MOST)
    found: Any = minimize_scalar(
        lambda log: log_loss(logits, labels, np.exp(log)), bounds=ends, options={"xatol": 1e-8}
    )
    best = float(np.exp(found.x))
    return best if log_loss(logits, labels, best) < log_loss(logits, labels) else 1.0


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Computes the mean over the rows of -log likelihood, of several labels their sum. Takes what `fit` does."""
    scaled = np.asarray(logits, np.float64) / temperature
    if labels.ndim == 2:
        return float(np.logaddexp(0, np.where(labels > 0, -scaled, scaled)).sum(1).mean())
    own = scaled[np.arange(len(labels)), labels]
    return float((np.logaddexp.reduce(scaled, 1) - own).mean())
