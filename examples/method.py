"""A method of one's own: VeRA (Kopiczko et al. 2024), vectors that learn between random matrices that do not.

    program = jaxft.compose(experiment, model, task, steps, parts=Parts(adaptation=build))

docs/adapt.md says what an `Adaptation` is.
"""

from flax import struct

from jaxft.adapt.base import Adaptation, dense_layers
from jaxft.models import nn
from jaxft.types import Array

RANK = 16


class Vera(struct.PyTreeNode):
    """Stands in a dense layer's parameters as `change`, and computes the layer: x W + ((x A) * d) B * e + bias."""

    a: Array
    b: Array
    d: Array
    e: Array

    def __call__(self, p, x, run):
        low = (nn.product(x, self.a) * self.d).astype(x.dtype)
        return (nn.linear(p, x) + nn.product(low, self.b) * self.e).astype(x.dtype)


def build(experiment, spec, model):
    """Two vectors a layer learn; A and B are random, of low rank, and stay as they are."""
    flat, new = nn.flatten(spec), {}
    paths = dense_layers(flat, model, "vera", ("query", "value"))
    for path in paths:
        (inputs, outputs), axes, *_ = flat[f"{path}/kernel"]
        new[f"vera/{path}/a"] = nn.Leaf((inputs, RANK), (axes[0], None), stddev=inputs**-0.5)
        new[f"vera/{path}/b"] = nn.Leaf((RANK, outputs), (None, axes[1]), stddev=RANK**-0.5)
        new[f"vera/{path}/d"] = nn.Leaf((RANK,), (None,), "ones")
        new[f"vera/{path}/e"] = nn.Leaf((outputs,), axes[1:], "zeros")

    def apply(params):
        flat = nn.flatten(params)
        changes = {f"{path}/change": Vera(*(flat[f"vera/{path}/{name}"] for name in "abde")) for path in paths}
        return nn.unflatten({path: x for path, x in flat.items() if path not in new} | changes)

    def learns(path):
        return path.endswith(("/d", "/e")) if path in new else model.is_head(path)

    return Adaptation(learns, nn.unflatten(new), apply=apply, merge=None)
