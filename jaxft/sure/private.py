"""Answers by noisy votes, and what they tell of any row that the voters learned from (PATE, Papernot et al. 2018)."""

import math

import numpy as np


def noisy_votes(votes: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Returns the class with most votes once noise of N(0, sigma^2) is on each count, `[queries]` (GNMax, section 4.1).

    Args:
      votes: how many voters are for each class, `[queries, classes]`.
      rng: nobody who reads the answers may know its seed.
    """
    return (votes + rng.normal(0, sigma, votes.shape)).argmax(-1)


def epsilon(queries: int, sigma: float, delta: float) -> float:
    """Returns the epsilon of (epsilon, delta)-differential privacy of so many answers, whatever the votes were.

    An answer is (order, order / sigma^2)-Renyi private, as a row more or less changes the vote of one voter and so two
    counts by 1 each (Papernot et al. 2018, proposition 8). Those of several answers add up, and order a gives
    epsilon = a Q / sigma^2 + log(1 / delta) / (a - 1) (Mironov 2017, proposition 3); this is the least over a > 1.
    """
    each, surprise = queries / sigma**2, math.log(1 / delta)
    return each + 2 * math.sqrt(each * surprise)
