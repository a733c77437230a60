"""Whether the units that a method names matter to the model (DeYoung et al. 2020, ERASER, section 4.2).

Of the strongest k units of a text x, r, and the probability p of the target (of a score, the score itself):

  comprehensiveness = p(x) - p(x without r), high where the answer needs them
  sufficiency = p(x) - p(r alone), low where they are enough for it

Both are measured where r is 1, 5, 10, 20 and 50% of the units, rounded up, and the area is their mean over these (the
paper's AOPC). Beside each stands the same of units in a random order, the mean of several: without it the numbers say
nothing, as texts with units taken out are none that the model was trained on.
"""

from typing import Any

import numpy as np

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Of the units that are taken out, or left."""

RANDOM = 5
"""Random orders that are tried."""

NAMES = ("comprehensiveness", "sufficiency")


def orders(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns orders of the units, the strongest first: one for each target, then random ones, `[orders, units]`.

    Args:
      scores: `[units, targets]`.
    """
    chance = [rng.permutation(len(scores)) for _ in range(RANDOM)]
    return np.concatenate([np.argsort(-scores, axis=0, kind="stable").T, np.stack(chance)])


def ablations(orders: np.ndarray) -> np.ndarray:
    """Returns which units are left, `[1 + orders * shares * 2, units]` of bool.

    First all of them; then of each order, and of each share of its units, all but these, and these alone.
    """
    units = orders.shape[1]
    rank = np.argsort(orders, axis=1)
    sizes = np.ceil(np.asarray(SHARES) * units).astype(int)
    first = rank[:, None, :] < sizes[:, None]
    both = np.stack([~first, first], axis=2).reshape(-1, units)
    return np.concatenate([np.ones((1, units), bool), both])


def measured(values: np.ndarray) -> list[dict[str, Any]]:
    """Returns for each target comprehensiveness and sufficiency: area, curve, and the same of the random orders.

    Args:
      values: `[1 + orders * shares * 2, targets]`, the probabilities of the `ablations`.
    """
    targets = values.shape[1]
    losses = (values[0] - values[1:]).reshape(-1, len(SHARES), len(NAMES), targets)
    found = []
    for target in range(targets):
        own, chance = losses[target, :, :, target], losses[targets:, :, :, target].mean(0)
        found.append(
            {
                name: {
                    "area": float(own[:, i].mean()),
                    "random": float(chance[:, i].mean()),
                    "curve": [float(x) for x in own[:, i]],
                    "random_curve": [float(x) for x in chance[:, i]],
                }
                for i, name in enumerate(NAMES)
            }
        )
    return found
