"""A part of the model learns: the last layers, the embeddings, or what patterns name; and the head."""

from jaxft.adapt.base import Adaptation, check_patterns, matches
from jaxft.config import Experiment
from jaxft.errors import UserError
from jaxft.models import Model, nn


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    options, paths = experiment.freeze, list(nn.flatten(spec))
    layers = len(model.facts.layers)
    if options.last_layers > layers:
        raise UserError(f"config.freeze.last_layers is {options.last_layers}, but the model has only {layers} layers")
    check_patterns("freeze.learn", options.learn, paths)
    check_patterns("freeze.still", options.still, paths)
    last = options.last_layers if options.last_layers >= 0 else layers

    def learns(path: str) -> bool:
        if model.is_head(path):
            return True
        depth = model.depth(path)
        chosen = 1 <= depth <= last or (options.embeddings and depth > layers)
        return (chosen or any(matches(p, path) for p in options.learn)) and not any(
            matches(p, path) for p in options.still
        )

    return Adaptation(learns)
