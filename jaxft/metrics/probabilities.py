"""Logits -> probabilities, on the host."""

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the softmax of `[n, classes]` in float64."""
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Computes 1 / (1 + exp(-logit)) elementwise, in float64."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
