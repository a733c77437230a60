"""How alike the orders are in which methods put the units of a text: Spearman's rank correlation (Spearman 1904).

1 where both have one order, 0 where they have nothing to do with each other, as a random order has on average.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from jaxft.explain.options import METHODS, Options
from jaxft.explain.scores import Scores
from jaxft.explain.targets import listed

FEWEST = 3
"""Units of which an order says something: two have the same one half of the time."""

SEED = "another seed"

Alike = dict[str, float | None]
"""With what -> the correlation; None: there is none, of too few units, or where all have the same number."""


def others(options: Options) -> dict[str, Options]:
    """Returns what else is to be found out of each row, and its options: methods asked for, and other draws.

    Args:
      options: as `Options.check` returns them.

    Raises:
      UserError: as `Options.check`.
    """
    plain = dataclasses.replace(options, baseline="", samples=0, faithfulness=False, agreement="")
    found = {name: dataclasses.replace(plain, method=name).check() for name in listed(options.agreement)}
    if options.faithfulness and METHODS[options.method].draws:
        found[SEED] = dataclasses.replace(options, seed=options.seed + 1, faithfulness=False, agreement="")
    return found


def measured(scores: np.ndarray, found: Mapping[str, np.ndarray]) -> list[Alike]:
    """Returns for each target how alike the order of a method is to those of others.

    Args:
      scores: `[units, targets]`.
      found: by name, `[units, targets]`.
    """
    return [
        {name: correlation(scores[:, n], other[:, n]) for name, other in found.items()} for n in range(scores.shape[1])
    ]


def correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Returns the rank correlation of two numbers of each unit, `[units]`."""
    if len(one) < FEWEST or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1])


def of_rows(
    own: Sequence[Scores], compute: Callable[[Options], Sequence[Scores]], options: Options
) -> list[list[Alike]]:
    """Returns `measured` of each row; what else is to be found out, `compute` finds of all of them.

    Raises:
      UserError: as `others` and `compute`.
    """
    found = {name: compute(how) for name, how in others(options).items()}
    return [
        measured(one.values, {name: each[row].values for name, each in found.items()}) for row, one in enumerate(own)
    ]
