"""Mixout: all parameters learn, and in training weights fall back to where they began (Lee et al. 2020, section 3).

A weight w that began as s is computed with as s + (w - s) / (1 - rate), or, with the probability `rate`, as s: dropout
of the difference, so that its mean is w. As in the authors' code it is for the matrices of dense layers of the body. A
step has one mask, of the parameters, for all its examples. It costs a copy of what it is for.
"""

import zlib

import jax
import jax.numpy as jnp

from jaxft.adapt.base import Adaptation, dense_layers
from jaxft.config import Experiment
from jaxft.models import Model, nn
from jaxft.types import Params

SITE = zlib.crc32(b"mixout")
"""Part number of the masks, no layer's."""


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    rate, flat = experiment.mixout.rate, nn.flatten(spec)
    if not rate:
        return Adaptation(lambda path: True)
    kernels = [f"{path}/kernel" for path in dense_layers(flat, model, "mixout.targets", experiment.mixout.targets)]
    starts = {f"mixout/{path}/start": path for path in kernels}

    def prepare(params: Params) -> Params:
        flat = nn.flatten(params)
        return nn.unflatten(flat | {start: flat[path] for start, path in starts.items()})

    def own(params: Params) -> Params:
        return nn.unflatten({path: x for path, x in nn.flatten(params).items() if path not in starts})

    def drop(params: Params, run: nn.Run) -> Params:
        rate, flat = run.rate("mixout"), nn.flatten(params)
        if rate is None or run.key is None:
            return params
        key = jax.random.fold_in(run.key, SITE)
        for start, path in starts.items():
            moved = flat[path] - flat[start]
            bits = run.bits(nn.path_key(key, path), nn.count(jnp.arange(len(moved)), moved.shape))
            flat[path] = flat[start] + nn.dropout(moved, rate, bits)
        return nn.unflatten(flat)

    added = nn.unflatten({start: flat[path]._replace(init="zeros") for start, path in starts.items()})
    return Adaptation(
        lambda path: path not in starts, added, prepare, own, merge=own, drop=drop, rates={"mixout": rate}
    )
