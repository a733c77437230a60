"""Arrays of parts that differ in size, laid end to end."""

import numpy as np


def within(sizes: np.ndarray) -> np.ndarray:
    """Returns 0 .. size - 1 of each part, one after the other, `[sizes.sum()]`: within([2, 3]) is [0, 1, 0, 1, 2]."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
