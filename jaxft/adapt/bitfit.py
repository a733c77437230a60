"""BitFit: the biases learn, and the head (Ben Zaken et al. 2022)."""

from jaxft.adapt.base import Adaptation, is_head
from jaxft.config import Experiment
from jaxft.models import nn


def build(experiment: Experiment, spec: nn.Spec, prefix: str) -> Adaptation:
    return Adaptation(lambda path: path.endswith("/bias") or is_head(path, prefix))
