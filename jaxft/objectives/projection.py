"""The matrix between hidden states of a student and those of a teacher of another width (TinyBERT's W_h, eq. 8).

It learns with the student, by the same optimizer, and is in checkpoints, but in no export: no answer is computed with
it. It costs a product of each token's state at each compared layer.

It is for methods whose result is a whole model; those that export what they add alone are refused.
"""

import dataclasses

from jaxft.adapt.base import Adaptation
from jaxft.config import Experiment
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.types import Params

PATH = "distillation/hidden/kernel"
"""Where it lies among the parameters that learn, `[student's, teacher's]`."""

METHODS = ("full", "mixout", "freeze", "bitfit")


def projecting(method: Adaptation, experiment: Experiment, model: Model) -> Adaptation:
    """Returns the method, with the matrix beside what it adds where hidden states of two widths are compared.

    Raises:
      UserError: the method exports what it adds alone.
    """
    options, own = experiment.objective, model.facts.width
    theirs = options.teacher_hidden or own
    if not (options.teacher and options.hidden) or theirs == own:
        return method
    if experiment.adapt not in METHODS:
        raise UserError(
            f"config.objective.hidden compares hidden states, but the teacher's have {theirs} numbers, the model's "
            f"{own}, and with adapt={experiment.adapt} no matrix between them is learned; use "
            "config.objective.relations"
        )

    def without(params: Params) -> Params:
        return nn.unflatten({path: x for path, x in nn.flatten(params).items() if path != PATH})

    merge = method.merge
    return dataclasses.replace(
        method,
        learns=lambda path: path == PATH or method.learns(path),
        spec=nn.unflatten(nn.flatten(method.spec) | {PATH: nn.Leaf((own, theirs), (None, None))}),
        apply=lambda params: method.apply(without(params)),
        merge=None if merge is None else lambda params: merge(without(params)),
    )
