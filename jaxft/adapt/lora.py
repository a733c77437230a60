"""LoRA: each dense layer gets a correction of low rank, W + s A B with s = alpha / rank (Hu et al. 2022).

It is computed as x W + s (x A) B, so that no gradient of the size of W is. With rslora, s = alpha / sqrt(rank)
(Kalajdzievski 2023). With dora, each column of W + s A B has a length that is learned, m, apart from its direction:
m (W + s A B) / |W + s A B| (Liu et al. 2024, eq. 5; the length below the line counts as constant, section 4.3).
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxft.adapt.base import Adaptation, dense_layers, dropout_site
from jaxft.config import Experiment
from jaxft.models import Model, nn
from jaxft.types import Array, Params


class LowRank(struct.PyTreeNode):
    """An `nn.Change`: `a` is `[inputs, rank]`, `b` `[rank, outputs]`; `gain` `[outputs]` is for all but the bias."""

    a: Array
    b: Array
    gain: Array | None
    drops: bool = struct.field(pytree_node=False)
    site: int = struct.field(pytree_node=False)

    def __call__(self, p: Params, x: Array, run: nn.Run | None) -> Array:
        low = x
        if self.drops:
            assert run is not None, "a model whose dense layers are to have dropout hands them its run"
            low = run.drop(x, "adapt", self.site)
        y = nn.product(x, p["kernel"]) + nn.product(nn.product(low, self.a), self.b)
        y = y if self.gain is None else y * self.gain
        return (y + p["bias"] if "bias" in p else y).astype(x.dtype)


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    options, flat = experiment.lora, nn.flatten(spec)
    scale = options.alpha / (options.rank**0.5 if options.rslora else options.rank)
    paths = dense_layers(flat, model, "lora.targets", options.targets)
    new = {}
    for path in paths:
        (inputs, outputs), axes, *_ = flat[f"{path}/kernel"]
        # Of the variance of PyTorch's default for a dense layer, which `peft` takes for A.
        new[f"lora/{path}/a"] = nn.Leaf((inputs, options.rank), (axes[0], None), stddev=(3 * inputs) ** -0.5)
        new[f"lora/{path}/b"] = nn.Leaf((options.rank, outputs), (None, axes[1]), "zeros")
        if options.dora:
            new[f"lora/{path}/magnitude"] = nn.Leaf((outputs,), axes[1:], "ones")

    def sum_of(flat: Params, path: str) -> Array:
        return nn.wide(flat[f"{path}/kernel"], jnp.float32) + scale * flat[f"lora/{path}/a"] @ flat[f"lora/{path}/b"]

    def gain(flat: Params, path: str) -> Array:
        return flat[f"lora/{path}/magnitude"] / jnp.linalg.norm(jax.lax.stop_gradient(sum_of(flat, path)), axis=0)

    def prepare(params: Params) -> Params:
        flat = nn.flatten(params)
        lengths = {f"lora/{path}/magnitude": jnp.linalg.norm(sum_of(flat, path), axis=0) for path in paths}
        return nn.unflatten(flat | (lengths if options.dora else {}))

    def apply(params: Params) -> Params:
        flat = nn.flatten(params)
        changes = {
            f"{path}/change": LowRank(
                a=flat[f"lora/{path}/a"],
                b=scale * flat[f"lora/{path}/b"],
                gain=gain(flat, path) if options.dora else None,
                drops=options.dropout > 0,
                site=dropout_site(path),
            )
            for path in paths
        }
        return nn.unflatten({path: x for path, x in flat.items() if path not in new} | changes)

    def merge(params: Params) -> Params:
        flat = nn.flatten(params)
        kernels = {f"{path}/kernel": sum_of(flat, path) * (gain(flat, path) if options.dora else 1) for path in paths}
        return nn.unflatten({path: x for path, x in (flat | kernels).items() if path not in new})

    rates = {"adapt": options.dropout} if options.dropout > 0 else {}
    return Adaptation(
        lambda path: path in new or model.is_head(path), nn.unflatten(new), prepare, apply, merge, rates=rates
    )
