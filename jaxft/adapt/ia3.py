"""(IA)^3: keys, values and the hidden units of the feed-forward layers are rescaled (Liu et al. 2022, section 3.3)."""

import dataclasses

from flax import struct

from jaxft import config
from jaxft.adapt.base import Adaptation, dense_layers
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.types import Array, Params

AUTO = ("auto",)
"""In an experiment: the model's own layers for this."""


class Rescale(struct.PyTreeNode):
    """An `nn.Change`: `scale` multiplies what goes into the layer, `[inputs]`, or what comes out of it, `[outputs]`."""

    scale: Array
    inputs: bool = struct.field(pytree_node=False)

    def __call__(self, p: Params, x: Array, run: nn.Run | None) -> Array:
        if self.inputs:
            return nn.linear(p, (x * self.scale).astype(x.dtype))
        return (nn.linear(p, x) * self.scale).astype(x.dtype)


def resolved(options: config.IA3, model: Model) -> config.IA3:
    """Returns the same options with the model's own layers in place of "auto".

    Raises:
      UserError: the model has no such layers.
    """
    outputs, inputs = options.outputs, options.inputs
    if outputs == AUTO:
        outputs = (*model.part("ia3.outputs", "key"), *model.part("ia3.outputs", "value"))
    if inputs == AUTO:
        inputs = model.part("ia3.inputs", "mlp")
    return dataclasses.replace(options, outputs=outputs, inputs=inputs)


def build(experiment: config.Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    options, flat = resolved(experiment.ia3, model), nn.flatten(spec)
    if not options.inputs and not options.outputs:
        raise UserError("config.ia3.outputs and config.ia3.inputs are both empty; name layers in one of them")
    inputs = dense_layers(flat, model, "ia3.inputs", options.inputs) if options.inputs else []
    outputs = dense_layers(flat, model, "ia3.outputs", options.outputs) if options.outputs else []
    new = {}
    for axis, paths in enumerate((inputs, [path for path in outputs if path not in inputs])):
        for path in paths:
            kernel = flat[f"{path}/kernel"]
            new[f"ia3/{path}/scale"] = nn.Leaf((kernel.shape[axis],), (kernel.axes[axis],), "ones")

    def scales(params: Params) -> tuple[Params, dict[str, Array]]:
        flat = nn.flatten(params)
        return {path: x for path, x in flat.items() if path not in new}, {
            path.removeprefix("ia3/").removesuffix("/scale"): flat[path] for path in new
        }

    def apply(params: Params) -> Params:
        flat, found = scales(params)
        return nn.unflatten(flat | {f"{path}/change": Rescale(x, path in inputs) for path, x in found.items()})

    def merge(params: Params) -> Params:
        flat, found = scales(params)
        for path, x in found.items():
            kernel, bias = flat[f"{path}/kernel"], f"{path}/bias"
            flat[f"{path}/kernel"] = x[:, None] * kernel if path in inputs else kernel * x
            if bias in flat and path not in inputs:
                flat[bias] = flat[bias] * x
        return nn.unflatten(flat)

    return Adaptation(lambda path: path in new or model.is_head(path), nn.unflatten(new), apply=apply, merge=merge)
