"""Full fine-tuning: every parameter learns."""

from jaxft.adapt.base import Adaptation
from jaxft.config import Experiment
from jaxft.models import Model, nn


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    return Adaptation(lambda path: True)
