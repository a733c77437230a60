"""One training step at given shapes, by the core alone: it runs where only jax, flax, optax and numpy are installed.

  python benchmarks/step.py --model=minilm --length=128 --rows=8 --examples=4 --out=step.json

Weights and tokens are random. `--examples` is how many examples, all of one length, share a row; 1 is the padded batch
of full rows. Milliseconds are the median over `--steps`, each waited for; utilization is model FLOPs a second over the
device's peak.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config, models, program, tasks
from jaxft.batch import BatchShape
from jaxft.devices import flops, memory
from jaxft.models import nn

MODELS = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "bert-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}


def full_batch(shape: BatchShape, vocabulary: int) -> dict[str, np.ndarray]:
    """Rows without padding, cut into `shape.slots` examples of equal length."""
    rng = np.random.default_rng(0)
    size = shape.length // shape.slots
    segment = np.minimum(np.arange(shape.length) // size, shape.slots - 1)
    rows = lambda x: np.broadcast_to(x, (shape.rows, len(x)))  # noqa: E731
    return {
        "input_ids": rng.integers(1000, vocabulary, (shape.rows, shape.length)),
        "token_type_ids": rows(np.zeros(shape.length)),
        "positions": rows(np.arange(shape.length) - segment * size),
        "segment_ids": rows(segment + 1),
        "starts": rows(np.arange(shape.slots) * size),
        "weights": rows(np.ones(shape.slots)),
        "order": np.arange(shape.rows * shape.slots).reshape(shape.rows, shape.slots),
        "labels": rng.integers(0, 2, (shape.rows, shape.slots)),
    }


def measure(name: str, shape: BatchShape, compute: config.Compute, steps: int) -> dict[str, Any]:
    """Compiles the step, runs it, and returns what came out."""
    model = models.build({"model_type": "bert", **MODELS[name]})
    task = config.SequenceClassification(labels=("negative", "positive"))
    experiment = config.Experiment(compute=compute, task=task)
    composed = program.compose(experiment, model, tasks.build(task), steps=1000)
    places = nn.flatten(composed.param_shardings)
    key = jax.random.key(0)
    params = {
        path: jax.jit(leaf.initial, out_shardings=places[path])(nn.path_key(key, path))
        for path, leaf in nn.flatten(composed.spec).items()
    }
    state = composed.init(nn.unflatten(params))
    abstract = composed.abstract_batch(shape)
    host = full_batch(shape, model.facts.vocabulary)
    batch = {k: jax.device_put(jnp.asarray(v, abstract[k].dtype), abstract[k].sharding) for k, v in host.items()}
    started = time.perf_counter()
    step = composed.train_step.lower(composed.state, abstract).compile()  # pyright: ignore[reportFunctionMemberAccess]
    compiled = time.perf_counter() - started
    seconds = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - started)
    device, memory = composed.mesh.devices.flat[0], step.memory_analysis()
    lengths = np.full(shape.rows * shape.slots, shape.length // shape.slots)
    useful, peak = flops.train_flops(model, composed.task)(lengths), flops.peak_flops(composed.mesh)
    median = float(np.median(seconds[2:]))
    return {
        "model": name,
        "rows": shape.rows,
        "length": shape.length,
        "examples_per_row": shape.slots,
        "dtype": compute.dtype,
        "device": device.device_kind,
        "devices": composed.mesh.size,
        "milliseconds": 1000 * median,
        "tokens_per_second": shape.rows * shape.length / median,
        "utilization": useful / median / peak if peak else None,
        "peak_flops": peak,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "state_bytes": memory.argument_size_in_bytes if memory else None,
        "compile_seconds": compiled,
        "loss": float(metrics["loss"]),
    }


def main() -> None:
    memory.keep()  # as run.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--examples", type=int, default=4, help="examples a row")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--dropout", choices=("hash", "threefry"), default="hash")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", help="JSON file to write; without it standard output alone")
    a = parser.parse_args()
    compute = config.Compute(dtype=a.dtype, dropout=a.dropout, remat=a.remat)
    found = measure(a.model, BatchShape(a.rows, a.length, a.examples), compute, a.steps)
    print(json.dumps(found, indent=2))
    if a.out:
        Path(a.out).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
