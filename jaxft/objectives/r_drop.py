"""R-Drop: two passes with dropout masks of their own must say the same (Liang et al. 2021, eqs. 2 to 4).

(L(p1) + L(p2)) / 2 + alpha (KL(p1 || p2) + KL(p2 || p1)) / 2, as the authors' code has it; the paper has the sum of
the losses, so that its alpha is half of this one. It costs a second pass forward and backward.

It composes with every method and transform. It wants dropout, and a task whose outputs are distributions (see
`jaxft.tasks.base.Task.divergence`).
"""

import zlib

import jax

from jaxft.tasks import Task
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.types import Array, Batch, Float, Outputs, Params

SITE = zlib.crc32(b"r_drop")
"""Part number of the second pass, no layer's."""


def r_drop(alpha: Float[Array, ""], task: Task) -> ObjectiveTransform:
    """Returns the transform that makes two passes in training; the outputs are those of the first."""

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            (total, weight), outputs = inner(params, batch, key)
            if key is None:
                return (total, weight), outputs
            (again, _), others = inner(params, batch, jax.random.fold_in(key, SITE))
            apart = (task.divergence(outputs, others, batch) + task.divergence(others, outputs, batch)) / 2
            return ((total + again) / 2 + alpha * apart, weight), outputs

        return objective

    return transform
