"""BitFit: the biases learn, and the head (Ben Zaken et al. 2022)."""

from jaxft.adapt.base import Adaptation
from jaxft.config import Experiment
from jaxft.models import Model, nn


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    return Adaptation(lambda path: path.endswith("/bias") or model.is_head(path))
