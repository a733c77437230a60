"""What a step makes small: an objective, and what changes one.

An objective transform is `Objective -> Objective`. R-Drop, distillation and penalties are such transforms. Each says
its formula and what it does not compose with.
"""

from collections.abc import Callable

from jaxft.types import Array, Batch, Key, Outputs, Params

Objective = Callable[[Params, Batch, Key[Array, ""] | None], tuple[tuple[Array, Array], Outputs]]
"""`(params, batch, key) -> (total, weight), outputs`: the sum of the losses and that of their weights, both `[]`, and
what the task's `forward` returned. The loss is total / weight. `params` are all parameters, those that the method adds
among them; the key is that of the dropout masks, None in evaluation."""

ObjectiveTransform = Callable[[Objective], Objective]


def penalised(penalty: Callable[[Params], Array]) -> ObjectiveTransform:
    """Returns the transform that adds a penalty of the parameters to the loss of training.

    total + weight * penalty(params), so that the loss is total / weight + penalty(params), however a batch is split.
    Evaluation reports the loss alone. It composes with every transform of an objective; one that calls the objective
    within it twice counts the penalty twice.

    Args:
      penalty: all parameters -> `[]`.
    """

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            (total, weight), outputs = inner(params, batch, key)
            return (total if key is None else total + weight * penalty(params), weight), outputs

        return objective

    return transform
