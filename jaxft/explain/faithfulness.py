"""Whether the units that a method names matter to the model (DeYoung et al. 2020, ERASER, section 4.2).

Of the strongest k units of a text x, r, and the probability p of the target (of a score, the score itself):

  comprehensiveness = p(x) - p(x without r), high where the answer needs them
  sufficiency = p(x) - p(r alone), low where they are enough for it

Both are measured where r is 1, 5, 10, 20 and 50% of the units, rounded up, and the area is their mean over these (the
paper's AOPC). Beside each stands the same of units in a random order, the mean of several: without it the numbers say
nothing, as texts with units taken out are none that the model was trained on. Models that lose more without any unit
have larger numbers: in parts of that loss, p(x) - p(nothing), they compare (Carton et al. 2020, section 3.2).

Beside them the order of the units is compared with that of what each costs when it alone is left out.
"""

from typing import Any

import numpy as np

from jaxft.explain import agreement
from jaxft.explain.agreement import Alike

SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Of the units that are taken out, or left."""

RANDOM = 5
"""Random orders that are tried."""

NAMES = ("comprehensiveness", "sufficiency")

LEFT_OUT, CHANCE = "leaving out each", "a random order with that"
"""With what the order of the units is compared: what it costs to leave out each, which a random order is too."""


def orders(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns orders of the units, the strongest first: one for each target, then random ones, `[orders, units]`.

    Args:
      scores: `[units, targets]`.
    """
    chance = [rng.permutation(len(scores)) for _ in range(RANDOM)]
    return np.concatenate([np.argsort(-scores, axis=0, kind="stable").T, np.stack(chance)])


def ablations(orders: np.ndarray, nothing: bool) -> np.ndarray:
    """Returns which units are left, `[1 + orders * shares * 2 + units + nothing, units]` of bool.

    First all of them; then of each order, and of each share of its units, all but these, and these alone; then all but
    one each time; at last none, where there may be none.
    """
    units = orders.shape[1]
    rank = np.argsort(orders, axis=1)
    sizes = np.ceil(np.asarray(SHARES) * units).astype(int)
    first = rank[:, None, :] < sizes[:, None]
    both = np.stack([~first, first], axis=2).reshape(-1, units)
    return np.concatenate(
        [np.ones((1, units), bool), both, ~np.eye(units, dtype=bool), np.zeros((int(nothing), units), bool)]
    )


def measured(values: np.ndarray, orders: np.ndarray, nothing: bool) -> list[dict[str, Any]]:
    """Returns for each target comprehensiveness and sufficiency: area, curve, and the same of the random orders.

    `normalized` is the area in parts of what the target loses without any unit; None: it does not lose by that.

    Args:
      values: the probabilities of the `ablations` of the same orders, `[ablations, targets]`.
    """
    targets, count = values.shape[1], 1 + len(orders) * len(SHARES) * len(NAMES)
    losses = (values[0] - values[1:count]).reshape(-1, len(SHARES), len(NAMES), targets)
    most = values[0] - values[-1] if nothing else np.zeros(targets)
    found = []
    for target in range(targets):
        own, chance = losses[target, :, :, target], losses[targets:, :, :, target].mean(0)
        found.append(
            {
                name: {
                    "area": float(own[:, i].mean()),
                    "random": float(chance[:, i].mean()),
                    "normalized": float(own[:, i].mean() / most[target]) if most[target] > 0 else None,
                    "curve": [float(x) for x in own[:, i]],
                    "random_curve": [float(x) for x in chance[:, i]],
                }
                for i, name in enumerate(NAMES)
            }
        )
    return found


def alike(scores: np.ndarray, values: np.ndarray, orders: np.ndarray) -> list[Alike]:
    """Returns for each target the rank correlation of its scores with what leaving out one unit costs, and of chance.

    Args:
      scores: `[units, targets]`.
      values, orders: as of `measured`.
    """
    units, targets = scores.shape
    start = 1 + len(orders) * len(SHARES) * len(NAMES)
    costs = values[0] - values[start : start + units]
    ranks = -np.argsort(orders[targets:], axis=1)
    found: list[Alike] = []
    for n in range(targets):
        chance = [one for rank in ranks if (one := agreement.correlation(rank, costs[:, n])) is not None]
        own = agreement.correlation(scores[:, n], costs[:, n])
        found.append({LEFT_OUT: own, CHANCE: float(np.mean(chance)) if chance else None})
    return found
