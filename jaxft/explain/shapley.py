"""SHAP: Shapley values of the units, whose coalitions are the text with the others hidden (Lundberg and Lee 2017).

A Unified Approach to Interpreting Model Predictions. Exact by enumeration for few units; else over random orders and
their reverses (Castro et al. 2009, Polynomial calculation of the Shapley value based on sampling; antithetic pairs:
Mitchell et al. 2022, Sampling Permutations for Shapley Value Estimation). Or over a hierarchy of the units, which costs
less and keeps what stands together together (Owen 1977, Values of Games with A Priori Unions; in SHAP: Partition).
"""

from collections.abc import Sequence
from math import factorial
from typing import Any

import numpy as np

from jaxft.explain.scores import Scores


def coalitions(units: int) -> np.ndarray:
    """Returns which units are left, `[2^units, units]` of bool: unit u in row r, where r has bit u."""
    return (np.arange(1 << units)[:, None] >> np.arange(units)) & 1 == 1


def exact(values: np.ndarray) -> Scores:
    """Returns the Shapley values: sums of |S|! (n - |S| - 1)! / n! (v(S + u) - v(S)) over all S without u.

    Args:
      values: `[2^units, targets]`, outputs of `coalitions`.
    """
    units = len(values).bit_length() - 1
    kept = coalitions(units)
    sizes, found = kept.sum(1), np.zeros((units, values.shape[1]))
    share = np.asarray([factorial(s) * factorial(units - s - 1) / factorial(units) for s in range(units)])
    for unit in range(units):
        without = np.flatnonzero(~kept[:, unit])
        gains = values[without + (1 << unit)].astype(np.float64) - values[without]
        found[unit] = share[sizes[without]] @ gains
    return Scores(found)


def orders(units: int, pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Returns random orders of the units, `[2 * pairs, units]`: each, and then its reverse."""
    found = np.stack([rng.permutation(units) for _ in range(pairs)])
    return np.stack([found, found[:, ::-1]], axis=1).reshape(-1, units)


def walks(orders: np.ndarray) -> np.ndarray:
    """Returns which units are left, `[orders * (units + 1), units]`: none, then one more at a time in each order."""
    count, units = orders.shape
    rank = np.argsort(orders, axis=1)
    return (rank[:, None, :] < np.arange(units + 1)[:, None]).reshape(count * (units + 1), units)


def sampled(orders: np.ndarray, values: np.ndarray) -> Scores:
    """Returns the mean gain of each unit where its turn comes, and the standard error of that mean over pairs.

    They add up to the output of the whole less that of nothing, as the exact ones do.

    Args:
      orders: as `orders` gives them, two pairs or more.
      values: `[orders * (units + 1), targets]`, outputs of `walks`.
    """
    count, units = orders.shape
    gains = np.diff(values.astype(np.float64).reshape(count, units + 1, -1), axis=1)
    of_unit = np.take_along_axis(gains, np.argsort(orders, axis=1)[..., None], axis=1)
    pairs = of_unit.reshape(count // 2, 2, units, -1).mean(1)
    return Scores(pairs.mean(0), errors=pairs.std(0, ddof=1) / np.sqrt(len(pairs)))


Tree = int | tuple[Any, Any]
"""A hierarchy of units: a unit, or two of such."""


def hierarchy(ends: Sequence[bool]) -> Tree:
    """Returns a hierarchy of units in their order: halves of halves, cut at the end of a phrase where there is one.

    Args:
      ends: whether a phrase ends with each unit, one or more.
    """

    def halved(start: int, stop: int) -> Tree:
        if stop - start == 1:
            return start
        cuts = [at for at in range(start + 1, stop) if ends[at - 1]] or range(start + 1, stop)
        cut = min(cuts, key=lambda at: abs(2 * at - start - stop))
        return halved(start, cut), halved(cut, stop)

    return halved(0, len(ends))


def leaves(tree: Tree) -> list[int]:
    """Returns the units of a hierarchy, in its order."""
    return [tree] if isinstance(tree, int) else leaves(tree[0]) + leaves(tree[1])


def neighbours(tree: Tree) -> list[tuple[int, list[list[int]]]]:
    """Returns of each unit the units of the other part at each level above it, the highest first."""
    if isinstance(tree, int):
        return [(tree, [])]
    sides = zip(tree, reversed(tree), strict=True)
    return [(unit, [leaves(other), *above]) for one, other in sides for unit, above in neighbours(one)]


def orders_within(tree: Tree) -> np.ndarray:
    """Returns which units are left where each is added, `[units * 2 * each, units]`: without it, then with it.

    A unit's part comes before the other one or after it, at each level above it: there or not in each of as many ways.
    Units that lie less deep have the same ways several times.
    """
    each = neighbours(tree)
    deepest = max(len(above) for _, above in each)
    found = np.zeros((len(each), 2, 1 << deepest, len(each)), bool)
    for unit, above in each:
        for level, others in enumerate(above):
            found[unit, :, :, others] = (np.arange(1 << deepest) >> level) & 1
        found[unit, 1, :, unit] = True
    return found.reshape(-1, len(each))


def ways(tree: Tree) -> int:
    """Returns how many ablations `orders_within` has, of which many are the same."""
    each = neighbours(tree)
    return len(each) << (1 + max(len(above) for _, above in each))


def partitioned(values: np.ndarray, units: int) -> Scores:
    """Returns the mean gain of each unit over the ways in which it may be added: the Owen values of the hierarchy.

    They add up to the output of the whole less that of nothing, as the Shapley values do.

    Args:
      values: `[units * 2 * each, targets]`, outputs of `orders_within`.
    """
    without, there = np.moveaxis(values.astype(np.float64).reshape(units, 2, -1, values.shape[1]), 1, 0)
    return Scores((there - without).mean(1))
