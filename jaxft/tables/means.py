"""The mean of what several models answer, as outputs of one model: a task's table chooses among these.

They compute with logarithms in float64, so that no probability becomes 0, and give float32, as models do.
"""

import numpy as np


def of_classes(logits: np.ndarray) -> np.ndarray:
    """Returns `[n, classes]`: logits whose softmax is the mean of the models' softmax, of `[models, n, classes]`."""
    wide = logits.astype(np.float64)
    return _log_mean(wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)).astype(np.float32)


def of_labels(logits: np.ndarray) -> np.ndarray:
    """Returns `[n, labels]`: logits whose sigmoid is the mean of the models' sigmoid, of `[models, n, labels]`."""
    wide = logits.astype(np.float64)
    yes, no = -np.logaddexp(0, -wide), -np.logaddexp(0, wide)
    return (_log_mean(yes) - _log_mean(no)).astype(np.float32)


def of_groups(logits: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Returns `[n]`: logits whose softmax within each group is the mean of the models' softmax there.

    Args:
      logits: `[models, n]`.
      bounds: `[groups + 1]`; a group is the entries bounds[i] .. bounds[i + 1], one or more.
    """
    wide = logits.astype(np.float64)
    norm = np.logaddexp.reduceat(wide, bounds[:-1], axis=-1)
    return _log_mean(wide - np.repeat(norm, np.diff(bounds), axis=-1)).astype(np.float32)


def of_vectors(vectors: np.ndarray) -> np.ndarray:
    """Returns `[n, width]`: the mean of the models' vectors, of length 1 again, of `[models, n, width]`."""
    mean = vectors.astype(np.float64).mean(0)
    return (mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def _log_mean(logarithms: np.ndarray) -> np.ndarray:
    """The logarithm of the mean over the first axis of what these are the logarithms of."""
    return np.logaddexp.reduce(logarithms) - np.log(len(logarithms))
