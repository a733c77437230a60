"""Texts that lie far from all that a model has learned from: by the Mahalanobis distance of vectors (Lee et al. 2018).

The vectors x of training rows are taken as normal around the mean m_c of their class c, with one covariance S for all
(equation 1). A text is as far as from the nearest class, min over c of (x - m_c)^T S^-1 (x - m_c) (equation 2).
"""

import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np

from jaxft import hub
from jaxft.errors import UserError
from jaxft.sure.energy import percentiles, unusual

FILE = "distance.npz"
"""In the directory of the model, whose very weights it holds for."""

RIDGE = 1e-6
"""Parts of the mean variance that are added to each, so that S has an inverse where rows are fewer than numbers."""


@dataclasses.dataclass(frozen=True, eq=False)
class Distance:
    """What tells how far a text is.

    Attributes:
      factor: `[width, width]`, F of S^-1 = F F^T.
      means: of the classes, `[classes, width]`, times F.
      kept: distances of rows that were not learned from, see `jaxft.sure.energy.percentiles`.
    """

    factor: np.ndarray
    means: np.ndarray
    kept: tuple[float, ...] = ()

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """Computes the distance of each of `[n, width]` from the nearest class, `[n]`."""
        placed = vectors.astype(np.float64) @ self.factor
        return np.min([np.square(placed - mean).sum(1) for mean in self.means], axis=0)

    def far(self, vectors: np.ndarray) -> np.ndarray:
        """Returns the share of the rows that were kept which are nearer, `[n]`, to a hundredth."""
        return unusual(self.of(vectors), self.kept)


def fit(vectors: np.ndarray, labels: np.ndarray, others: np.ndarray) -> Distance:
    """Returns the distance from rows.

    Args:
      vectors: of training rows, `[n, width]`.
      labels: their class ids, `[n]`.
      others: vectors of rows that were not learned from, `[m, width]`.

    Raises:
      UserError: all vectors of a class are the same, or one is no number.
    """
    wide = vectors.astype(np.float64)
    there, own = np.unique(labels, return_inverse=True)
    means = np.stack([wide[own == n].mean(0) for n in range(len(there))])
    centered = wide - means[own]
    covariance = centered.T @ centered / len(wide)
    variance = np.trace(covariance) / len(covariance)
    if not np.isfinite(variance) or not variance:
        raise UserError(
            "--calibrate.distance: the vectors of training rows are no numbers, or all alike in a class; nothing is "
            "far or near to them"
        )
    factor = np.linalg.cholesky(np.linalg.inv(covariance + RIDGE * variance * np.eye(len(covariance))))
    factor = factor.astype(np.float32).astype(np.float64)  # as it is kept
    found = Distance(factor, means @ factor)
    return dataclasses.replace(found, kept=percentiles(found.of(others)))


def write(directory: Path, distance: Distance) -> Path:
    """Writes a distance beside its model, and returns where."""
    file = directory / FILE
    temporary = file.with_name(f".{FILE}")
    with open(temporary, "wb") as out:
        arrays = {
            "factor": distance.factor.astype(np.float32),
            "means": distance.means,
            "kept": np.asarray(distance.kept),
        }
        np.savez(out, weights=np.asarray(hub.digest(directory)), **arrays)
    os.replace(temporary, file)
    return file


def read(directory: Path) -> tuple[Distance | None, list[str]]:
    """Returns the distance that is kept beside a model, and what there is to say.

    None: there is none, or it is of other weights, which the lines then say.

    Raises:
      UserError: the file is damaged.
    """
    file = directory / FILE
    if not file.is_file():
        return None, []
    try:
        with np.load(file) as found:
            weights = str(found["weights"])
            factor, means, kept = (found[name].astype(np.float64) for name in ("factor", "means", "kept"))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is damaged, or of another version; delete it, and calibrate anew") from error
    if weights != hub.digest(directory):
        return None, [f"{file} is of other weights than are there now, and is not used; --mode=calibrate makes it anew"]
    return Distance(factor, means, tuple(map(float, kept))), []
