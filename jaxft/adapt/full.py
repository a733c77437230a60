"""Full fine-tuning: every parameter learns."""

from jaxft.adapt.base import Adaptation
from jaxft.config import Experiment
from jaxft.models import nn


def build(experiment: Experiment, spec: nn.Spec, prefix: str) -> Adaptation:
    return Adaptation(lambda path: True)
