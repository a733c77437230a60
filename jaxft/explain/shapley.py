"""SHAP: Shapley values of the units, whose coalitions are the text with the others hidden (Lundberg and Lee 2017).

A Unified Approach to Interpreting Model Predictions. Exact by enumeration for few units; else over random orders and
their reverses (Castro et al. 2009, Polynomial calculation of the Shapley value based on sampling; antithetic pairs:
Mitchell et al. 2022, Sampling Permutations for Shapley Value Estimation).
"""

from math import factorial

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
