"""Which parameters learn: one file a method, and this registry of them.

An adaptation splits the parameters in two, trainable and frozen, and says what the model computes with. Nothing else in
the project knows which method is on. A new one is a file with `build` and a line here.
"""

import dataclasses
from types import ModuleType

from jaxft.adapt import adalora, adapter, bitfit, freeze, full, ia3, lora, mixout, prefix, prompt
from jaxft.adapt.base import Adaptation, together
from jaxft.config import Experiment
from jaxft.models import Model, nn

METHODS: dict[str, ModuleType] = {
    "full": full,
    "mixout": mixout,
    "freeze": freeze,
    "bitfit": bitfit,
    "lora": lora,
    "adalora": adalora,
    "adapter": adapter,
    "ia3": ia3,
    "prefix": prefix,
    "prompt": prompt,
}
"""`config.adapt` -> the module that has `build`, as below."""


def resolved(experiment: Experiment, model: Model) -> Experiment:
    """Returns the experiment with the model's own layers where it says "auto".

    Raises:
      UserError: the model has no such layers.
    """
    # Also where they are not asked for, as runs of 0.1.0 have written them down.
    if experiment.adapt != "ia3" and not {"key", "value", "mlp"} <= model.facts.parts.keys():
        return experiment
    return dataclasses.replace(experiment, ia3=ia3.resolved(experiment.ia3, model))


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    """The method that an experiment asks for.

    Args:
      spec: of the model and the head.
      model: says which of them are the body's, and in what order.

    Raises:
      UserError: a pattern that names nothing, or a number that the model does not have.
    """
    return METHODS[experiment.adapt].build(experiment, spec, model)


__all__ = ["METHODS", "Adaptation", "build", "resolved", "together"]
