"""Weights of rows, weights of classes by how often they occur in the training data, and which losses a problem has."""

from __future__ import annotations

import numpy as np

from jaxft.config import Classification, SequenceClassification
from jaxft.data.columns import with_scores
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.tasks.losses import STRENGTHS


def check(options: Classification, problem: str) -> None:
    """Makes sure that the losses that are asked for are for this problem, and that they are one.

    Args:
      problem: single_label (of a text, or of each word), multi_label or regression.

    Raises:
      UserError: naming the key that is not.
    """
    fits = {"class_balance": "single_label", "balanced": "single_label multi_label"}
    fits |= dict.fromkeys(STRENGTHS, "single_label") | {"focal": "single_label multi_label"}
    for key, problems in fits.items():
        if getattr(options, key) and problem not in problems:
            raise UserError(f"config.task.{key} is set, but the problem is {problem}; unset it")
    for keys, what in ((STRENGTHS, "loss"), (("balanced", "class_balance"), "weight of classes")):
        asked = [f"config.task.{key}" for key in keys if getattr(options, key)]
        if len(asked) > 1:
            raise UserError(f"{' and '.join(asked)} are set, and each is another {what}; unset all but one")


def read(options: SequenceClassification, split: Split) -> Split:
    """Returns the split with the numbers by which its rows count in the loss, where a column has them.

    Raises:
      UserError: one is none, or below 0, and where; or all of them are 0.
    """
    if not options.weight:
        return split
    split = with_scores(split, options.weight, "weight")
    values = split.table[options.weight].to_pylist()
    for row, value in enumerate(values):
        if value < 0:
            raise UserError(f"{split.where(row)}: weight {value!r} in {options.weight!r}; it must be 0 or more")
    if not any(values):
        raise UserError(f"{split.origin}: all weights in {options.weight!r} are 0, so that no row counts")
    return split


def effective(counts: np.ndarray, beta: float) -> tuple[float, ...]:
    """Returns (1 - beta) / (1 - beta^n) of the n examples of each class, scaled to a mean of 1.

    The inverse of the effective number of examples (Cui et al. 2019, eq. 4); a class without examples counts as with
    one.

    Args:
      counts: `[classes]`.
      beta: 0 to below 1; the nearer to 1, the nearer to 1 / n.
    """
    log = np.log(beta)
    weights = np.expm1(log) / np.expm1(np.maximum(counts, 1) * log)
    return tuple(float(x) for x in weights * len(counts) / weights.sum())


def of_counts(options: Classification, counts: np.ndarray) -> tuple[float, ...]:
    """Returns the weights of classes, of which each example has one, that the options ask for.

    Args:
      counts: examples of each class, `[classes]`.
    """
    if options.class_balance:
        return effective(counts, options.class_balance)
    if options.balanced:  # as scikit-learn's "balanced"
        return tuple(float(x) for x in counts.sum() / (len(counts) * np.maximum(counts, 1)))
    return options.class_weights
