"""Texts that are unlike those that the model knows: the energy of its logits, beside that of labelled rows."""

import numpy as np

PERCENTILES = 100
"""Energies that are kept."""


def energies(logits: np.ndarray, several: bool) -> np.ndarray:
    """Computes the energy of each row, `[n]`, the higher the more unusual.

    - log sum exp(logit) of classes (Liu et al. 2020, at temperature 1); of several labels the sum over them
    of - log(1 + exp(logit)) (Wang et al. 2021).

    Args:
      logits: `[n, labels]`.
    """
    logits = np.asarray(logits, np.float64)
    return -np.logaddexp(0, logits).sum(1) if several else -np.logaddexp.reduce(logits, axis=1)


def percentiles(energies: np.ndarray) -> tuple[float, ...]:
    """Returns `PERCENTILES` energies, ascending, that part the `[n]` in shares of the same size."""
    return tuple(float(x) for x in np.quantile(energies, (np.arange(PERCENTILES) + 0.5) / PERCENTILES))


def unusual(energies: np.ndarray, kept: tuple[float, ...]) -> np.ndarray:
    """Returns the share of the rows whose `percentiles` were kept that have less energy, `[n]`, to a hundredth."""
    return np.searchsorted(kept, energies) / len(kept)
