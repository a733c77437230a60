"""Distillation: the model learns to answer as a teacher does (Hinton et al. 2015, section 2).

(1 - weight) L + weight T^2 KL(teacher / T || model / T), of logits divided by the temperature T; of scores half the
square of their difference. What the teacher says is an array of the batch, computed before training by
`jaxft.predict.teacher`: the step costs no pass more.

It composes with every transform and method; with `prompt` where outputs are per example. It wants a task whose outputs
are distributions or scores (see `jaxft.tasks.base.Task.divergence`).
"""

from collections.abc import Mapping

import numpy as np

from jaxft.batch import UNLABELLED, Target
from jaxft.tasks import Task
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.types import Array, Batch, Float, Outputs, Params

PREFIX = "teacher/"
"""What names of a teacher's outputs begin with in a batch."""


def taught(task: Task, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Target]:
    """Returns the arrays that a batch has of a teacher, by name, float32.

    Args:
      shapes: of the task's outputs, `(rows, slots, ...)` or, per token, `(rows, length, ...)`.
    """
    return {
        f"{PREFIX}{name}": Target(per, np.float32, size=tuple(shapes[name][2:])) for name, per in task.outputs.items()
    }


def answered(batch: Batch) -> Batch:
    """Returns the batch, in which texts without labels count as well, as teachers have answered them."""
    return {**batch, "weights": batch["weights"] + batch[UNLABELLED]} if UNLABELLED in batch else batch


def distilled(weight: Float[Array, ""], temperature: Float[Array, ""], task: Task) -> ObjectiveTransform:
    """Returns the transform of training; evaluation is of the labels alone."""

    def soft(outputs: Mapping[str, Array]) -> Outputs:
        return {name: outputs[name] / temperature for name in task.outputs}

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            (total, count), outputs = inner(params, batch, key)
            if key is None:
                return (total, count), outputs
            teacher = {name: batch[f"{PREFIX}{name}"] for name in task.outputs}
            apart = temperature**2 * task.divergence(soft(teacher), soft(outputs), answered(batch))
            return ((1 - weight) * total + weight * apart, count), outputs

        return objective

    return transform
