"""Bottleneck adapters: h + W_up f(W_down h) after the layers that end a sublayer (Houlsby et al. 2019, section 2.1).

Houlsby puts one after attention and one after the feed-forward layer, Pfeiffer (2021, section 3.1.1) the latter alone.
Both stand before dropout, residual and LayerNorm; the papers' own code has the dropout before them.
"""

from flax import struct

from jaxft.adapt.base import Adaptation, dense_layers
from jaxft.config import Experiment
from jaxft.models import Model, nn
from jaxft.types import Array, Params

PLACES = {"houlsby": ("attention", "mlp"), "pfeiffer": ("mlp",)}
"""`config.adapter.placement` -> the parts of a layer that end with one; see `jaxft.models.interface.PARTS`."""


class Bottleneck(struct.PyTreeNode):
    """An `nn.Change`."""

    down: Params
    up: Params
    act: str = struct.field(pytree_node=False)

    def __call__(self, p: Params, x: Array, run: nn.Run | None) -> Array:
        h = nn.linear(p, x)
        return h + nn.linear(self.up, nn.ACTIVATIONS[self.act](nn.linear(self.down, h)))


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    options, flat = experiment.adapter, nn.flatten(spec)
    parts = PLACES[options.placement]
    patterns = options.targets or [pattern for part in parts for pattern in model.part("adapter.targets", part)]
    new = {}
    for path in dense_layers(flat, model, "adapter.targets", patterns):
        kernel = flat[f"{path}/kernel"]
        size, axis = kernel.shape[1], kernel.axes[1]
        new[path] = {
            "down": nn.dense_spec(size, options.size, (axis, None), 1e-2),
            "up": nn.dense_spec(options.size, size, (None, axis), 0.0),
        }
    names = {f"adapter/{path}/{name}" for path, part in new.items() for name in nn.flatten(part)}

    def apply(params: Params) -> Params:
        flat = nn.flatten(params)
        changes = {}
        for path in new:
            own = nn.flatten(new[path])
            parts = nn.unflatten({name: flat[f"adapter/{path}/{name}"] for name in own})
            changes[f"{path}/change"] = Bottleneck(parts["down"], parts["up"], options.activation)
        return nn.unflatten({path: x for path, x in flat.items() if path not in names} | changes)

    added = nn.unflatten({f"adapter/{path}": part for path, part in new.items()})
    return Adaptation(lambda path: path in names or model.is_head(path), added, apply=apply, merge=None)
