"""Occlusion: what the output loses where one unit is hidden (Zeiler and Fergus 2014; leave-one-out: Li et al. 2016).

Zeiler and Fergus, Visualizing and Understanding Convolutional Networks; Li, Monroe and Jurafsky, Understanding Neural
Networks through Representation Erasure.
"""

import numpy as np

from jaxft.explain.scores import Scores


def ablations(units: int) -> np.ndarray:
    """Returns which units are left, `[1 + units, units]` of bool: all of them, then all but one."""
    return np.concatenate([np.ones((1, units), bool), ~np.eye(units, dtype=bool)])


def scores(values: np.ndarray) -> Scores:
    """Returns output of the whole less that without the unit.

    Args:
      values: `[1 + units, targets]`, outputs of `ablations`.
    """
    return Scores(values[0] - values[1:])
