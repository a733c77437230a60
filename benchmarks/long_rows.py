"""What a sliding layer of ModernBERT costs by the length of its rows; and whether a whole model trains on long ones.

  python benchmarks/long_rows.py --out=long_rows.json
  python benchmarks/long_rows.py --whole --out=long_rows.json

A layer has the shapes of ModernBERT-base, one row of one example, forward and backward: milliseconds, the median of
`--steps` after two, the lengths in turns; and the peak of what the compiled program holds. `--whole` instead makes two
training steps of the whole model, recomputing layers in the backward pass, on one row of 8,192 tokens.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config, models, program, tasks
from jaxft.devices import memory
from jaxft.models import nn

LENGTHS = (512, 2048, 8192)
LAYER = {"model_type": "modernbert", "num_hidden_layers": 1, "layer_types": ["sliding_attention"], "vocab_size": 64}


def example(length: int, vocabulary: int) -> dict[str, jax.Array]:
    """One row that is one example of so many tokens."""
    at = jnp.arange(length)[None]
    ids = jnp.asarray(np.random.default_rng(0).integers(3, vocabulary, (1, length)))
    one = {"input_ids": ids, "token_type_ids": 0 * at, "positions": at, "segment_ids": 1 + 0 * at}
    slots = {"starts": jnp.zeros((1, 1), jnp.int32), "order": jnp.zeros((1, 1), jnp.int32)}
    return one | slots | {"weights": jnp.ones((1, 1)), "labels": jnp.ones((1, 1), jnp.int32)}


def initial(spec: nn.Spec) -> Any:
    key = jax.random.key(0)
    return nn.unflatten({path: leaf.initial(nn.path_key(key, path)) for path, leaf in nn.flatten(spec).items()})


def of_a_layer(steps: int) -> dict[str, dict[str, float]]:
    """Measures forward and backward of one sliding layer, its parameters and hidden states learning, by length."""
    model = models.build(LAYER)
    params, programs = initial(model.param_spec()), {}

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.square(model.encode(params, batch, nn.Run())).sum()

    for length in LENGTHS:
        batch = example(length, 64)
        programs[length] = jax.jit(jax.grad(loss)).lower(params, batch).compile(), batch
    seconds: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for _ in range(steps + 2):
        for length, (compiled, batch) in programs.items():  # in turns, so that they meet the same machine
            started = time.perf_counter()
            jax.block_until_ready(compiled(params, batch))
            seconds[length].append(time.perf_counter() - started)
    return {
        str(length): {"ms": 1e3 * float(np.median(seconds[length][2:])), "peak_mb": held(compiled) / 1e6}
        for length, (compiled, _) in programs.items()
    }


def held(compiled: Any) -> int:
    """Returns the bytes that a program holds at most: what it is given, what it gives, and what it keeps meanwhile."""
    sizes = compiled.memory_analysis()
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes


def of_the_whole(length: int) -> dict[str, float]:
    """Makes two training steps of ModernBERT-base."""
    model, options = models.build({"model_type": "modernbert"}), config.SequenceClassification(labels=("a", "b"))
    task = tasks.build(options)
    learn = config.Optimizer(warmup=0)
    experiment = config.Experiment(task=options, optimizer=learn, compute=config.Compute(remat=True, scan=True))
    composed = program.compose(experiment, model, task, steps=10)
    state, batch = composed.init(initial(composed.spec)), example(length, model.facts.vocabulary)
    abstract = composed.abstract_batch(program.BatchShape(1, length, 1))
    batch = {name: x.astype(abstract[name].dtype) for name, x in batch.items()}
    seconds, losses = [], []
    for _ in range(2):
        started = time.perf_counter()
        state, metrics = composed.train_step(state, batch)
        losses.append(float(metrics["loss"]))
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"length": length, "seconds": seconds[1], "first_loss": losses[0], "loss": losses[1], "peak_memory_gb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--whole", action="store_true", help="train the whole model instead")
    parser.add_argument("--out", default="long_rows.json")
    arguments = parser.parse_args()
    memory.keep()  # as run.py does
    file = Path(arguments.out)
    found = json.loads(file.read_text()) if file.exists() else {"device": jax.devices()[0].device_kind}
    if arguments.whole:
        found["whole"] = of_the_whole(LENGTHS[-1])
    else:
        found["layer"] = of_a_layer(arguments.steps)
        short, long = (found["layer"][str(length)] for length in LENGTHS[-2:])
        found["times"] = {name: long[name] / short[name] for name in short}
    file.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
