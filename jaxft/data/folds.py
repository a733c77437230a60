"""Parts rows into folds: each is held out once, while the others are trained on."""

from collections import Counter

import numpy as np

from jaxft.data.order import permutation
from jaxft.data.splits import STREAMS
from jaxft.errors import UserError


def assigned(groups: np.ndarray, classes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns the fold of each row, `[n]` of 0 .. count - 1; equal rows and seed, equal folds.

    The rows of a group are all in one fold, as the class of one of them has it. Each class is spread evenly: where no
    two rows are of one group, its counts in two folds differ by 1 at most.

    Args:
      groups: the number of each row's group, `[n]`: rows that are the same to the model.
      classes: the number of each row's class, `[n]`.
      count: of the folds, from 2 on.
      seed: of the random order in which groups are dealt, the largest first.

    Raises:
      UserError: there are fewer groups than folds.
    """
    order = permutation(len(groups), seed, STREAMS["folds"])
    _, first, number = np.unique(groups[order], return_index=True, return_inverse=True)
    if len(first) < count:
        raise UserError(
            f"--crossfit.folds is {count}, but there are only {len(first):,} different rows; give fewer folds"
        )
    members, heads = np.split(order[np.argsort(number)], np.cumsum(np.bincount(number))[:-1]), classes[order[first]]
    held: Counter[tuple[int, int]] = Counter()
    sizes: Counter[int] = Counter()
    found = np.empty(len(groups), np.int64)
    for group in np.lexsort((first, -np.bincount(number))):
        fold = min(range(count), key=lambda one: (held[int(heads[group]), one], sizes[one]))
        rows = members[group]
        found[rows] = fold
        sizes[fold] += len(rows)
        held.update((int(classes[row]), fold) for row in rows)
    return found
