"""What a method finds out about the units of one row."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """Of each unit how much it speaks for each target, in units of the target's logit or score.

    Attributes:
      values: `[units, targets]`; below zero it speaks against it.
      errors: `[units, targets]`, standard errors, where the method samples.
      facts: what else there is to say, by name, `[targets]` each.
    """

    values: np.ndarray
    errors: np.ndarray | None = None
    facts: Mapping[str, np.ndarray] = {}
