"""LIME for text: a linear model of the output near the text (Ribeiro et al. 2016, "Why Should I Trust You?").

Samples, distances and their weights are those of the authors' LimeTextExplainer: the number of units that are left out
is uniform, and a sample weighs sqrt(exp(-(d / 25)^2)) at 100 times its cosine distance d from the whole text.
"""

import numpy as np

from jaxft.explain.scores import Scores

WIDTH = 25.0
"""Of the kernel, in hundredths of cosine distance."""

PENALTY = 1.0
"""Of the squares of the weights; the intercept is free."""


def ablations(units: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns which units are left, `[samples, units]` of bool: all of them in the first sample."""
    kept = np.ones((samples, units), bool)
    for row, count in zip(kept[1:], rng.integers(1, units + 1, samples - 1), strict=True):
        row[rng.choice(units, count, replace=False)] = False
    return kept


def weights(kept: np.ndarray) -> np.ndarray:
    """Returns how much each sample counts, `[samples]`; nothing left at all is as far away as can be."""
    cosine = np.sqrt(kept.mean(1))  # of a vector of zeros and ones with that of ones alone
    return np.sqrt(np.exp(-(((1 - cosine) * 100 / WIDTH) ** 2)))


def scores(kept: np.ndarray, values: np.ndarray) -> Scores:
    """Returns the weights of a weighted ridge regression of the outputs on the units that are left.

    The fact "fidelity" is the weighted R^2: the share of the outputs' variance near the text that it explains.

    Args:
      kept: `[samples, units]`, as `ablations` gives them.
      values: `[samples, targets]`, their outputs.
    """
    weight = weights(kept)[:, None]
    x, y = kept.astype(np.float64), values.astype(np.float64)
    mean_x, mean_y = ((weight * part).sum(0) / weight.sum() for part in (x, y))
    x, y = x - mean_x, y - mean_y
    solved = np.linalg.solve(x.T @ (weight * x) + PENALTY * np.eye(x.shape[1]), x.T @ (weight * y))
    spread, left = ((weight * part**2).sum(0) for part in (y, y - x @ solved))
    fidelity = 1 - np.divide(left, spread, out=np.zeros_like(left), where=spread > 0)
    return Scores(solved, facts={"fidelity": fidelity})
