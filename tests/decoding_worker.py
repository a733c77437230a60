"""Answers on eight simulated devices, by one of them and by meshes of all: prints them as JSON; see test_decoding."""

import json
import os
import sys
from typing import Any

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import numpy as np
import support

from jaxft import config, models, program, sharding, tasks
from jaxft.generate import writing
from jaxft.generate.options import Options
from jaxft.predict.engine import CompiledEngine

MESHES: dict[str, tuple[int, dict[str, Any], bool]] = {
    "one": (1, {}, False),
    "data, fsdp, tensor": (8, {"data": 2, "fsdp": 2, "tensor": 2}, False),
    "fsdp, tensor, a loop": (8, {"data": 1, "fsdp": 4, "tensor": 2}, True),
}


def engine(hf: dict[str, Any], devices: int, sizes: dict[str, Any], scan: bool) -> CompiledEngine:
    model, task = models.build(hf), tasks.build(config.CausalLM())
    e = config.Experiment(task=config.CausalLM(), mesh=config.Mesh(**sizes), compute=config.Compute(scan=scan))
    composed = program.compose(e, model, task, steps=1, mesh=sharding.make_mesh(e.mesh, jax.devices()[:devices]))
    trainable, frozen = composed.split(support.random_params(task, model, 0))
    places = jax.tree.map(lambda x: x.sharding, composed.state.trainable)
    return CompiledEngine(e, composed, (jax.device_put(trainable, places), frozen))


def main() -> None:
    rng = np.random.default_rng(0)
    asked = [rng.integers(3, 40, rng.integers(1, 16)).tolist() for _ in range(13)]
    hf = support.with_layers(support.ARCHITECTURES[sys.argv[1]], 4)
    for name, mesh in MESHES.items():
        made = engine(hf, *mesh)
        for beams in (1, 3):
            found = writing.written(made, asked, (2, 9), Options(max_new_tokens=8, beams=beams))
            print(json.dumps([name, beams, [one.tokens for one in found], [sum(one.log_probs) for one in found]]))


if __name__ == "__main__":
    main()
