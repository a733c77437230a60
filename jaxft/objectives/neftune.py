"""NEFTune: uniform noise on the word embeddings in training (Jain et al. 2024, algorithm 1).

x + alpha / sqrt(L d) * u, u uniform between -1 and 1, for an example of L tokens and embeddings of d numbers. It costs
nothing to speak of, composes with every task and transform, and with every method but `prompt`.
"""

import zlib

import jax

from jaxft.objectives.embeddings import Table, added, uniform
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.types import Array, Batch, Float, Outputs, Params

SITE = zlib.crc32(b"neftune")
"""Part number of the noise, no layer's."""


def neftune(alpha: Float[Array, ""], table: Table) -> ObjectiveTransform:
    """Returns the transform that computes the objective of training with noise on the embeddings."""

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            if key is None:
                return inner(params, batch, key)
            noise = alpha * uniform(jax.random.fold_in(key, SITE), batch, table)
            return inner(added(params, table.words, noise), batch, key)

        return objective

    return transform
