"""A part of the model learns: the last layers, the embeddings, or what patterns name; and the head."""

from jaxft.adapt.base import Adaptation, check_patterns, is_head, layer_of, matches
from jaxft.config import Experiment
from jaxft.errors import UserError
from jaxft.models import nn


def build(experiment: Experiment, spec: nn.Spec, prefix: str) -> Adaptation:
    options, paths = experiment.freeze, list(nn.flatten(spec))
    layers = 1 + max(layer for path in paths if (layer := layer_of(path)) is not None)
    if options.last_layers > layers:
        raise UserError(f"config.freeze.last_layers is {options.last_layers}, but the model has only {layers} layers")
    check_patterns("freeze.learn", options.learn, paths)
    check_patterns("freeze.still", options.still, paths)
    first = layers - options.last_layers if options.last_layers >= 0 else 0

    def learns(path: str) -> bool:
        if is_head(path, prefix):
            return True
        layer = layer_of(path)
        chosen = (options.embeddings and "embeddings" in path.split("/")) or (layer is not None and layer >= first)
        return (chosen or any(matches(p, path) for p in options.learn)) and not any(
            matches(p, path) for p in options.still
        )

    return Adaptation(learns)
