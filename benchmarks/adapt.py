"""What each method of `config.adapt` costs and reaches on the quickstart's data, as JSON: the table of docs/adapt.md.

  python benchmarks/adapt.py --out=adapt.json                      # parameters, bytes and FLOPs of the training step
  python benchmarks/adapt.py --memory --seeds=3 --out=adapt.json   # and memory, and training, a run a seed
  python benchmarks/adapt.py --methods=lora --rates=3e-4,1e-3,3e-3 --seeds=1 --out=tuning.json

FLOPs (before optimization) and memory are those that XLA counts for one step of 8 rows of 128 positions, 4 examples a
row. The checkpoint is what learns, in float32, without the optimizer's state.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.adapt import get_config
from jaxft import config, modes, program, tasks
from jaxft.batch import BatchShape
from jaxft.job import Body

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("full", {}),
    "freeze, last layer": ("freeze", {}),
    "freeze, last 2 layers": ("freeze", {"freeze": config.Freeze(last_layers=2)}),
    "bitfit": ("bitfit", {}),
    "lora": ("lora", {}),
    "dora": ("lora", {"lora": config.Lora(dora=True)}),
    "adalora": ("adalora", {}),
    "adapter, pfeiffer": ("adapter", {}),
    "adapter, houlsby": ("adapter", {"adapter": config.Adapter(placement="houlsby")}),
    "ia3": ("ia3", {}),
    "prefix": ("prefix", {}),
}
"""Argument of configs/adapt.py, and other keys of the experiment."""


def costs(experiment: config.Experiment, memory: bool) -> dict[str, float]:
    """Of the training step; memory is known once it is compiled."""
    body = Body.of(experiment.model, experiment.data.max_length)
    options = dataclasses.replace(experiment.task, labels=("negative", "neutral", "positive"), problem="single_label")  # pyright: ignore
    composed = program.compose(experiment, body.model, tasks.build(options), steps=1000)
    step = composed.train_step.lower(composed.state, composed.abstract_batch(BatchShape(8, 128, 4)))  # pyright: ignore
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    return {
        "trainable_parameters": size(composed.state.trainable) // 4,
        "checkpoint_bytes": size(composed.state.trainable),
        "optimizer_bytes": size(composed.state.opt_state),
        "step_flops": step.cost_analysis()["flops"],
    } | ({"step_temporary_bytes": step.compile().memory_analysis().temp_size_in_bytes} if memory else {})


def trained(experiment: config.Experiment) -> dict[str, float]:
    """The results of one run, and milliseconds a step."""
    with tempfile.TemporaryDirectory() as folder:
        results = modes.train(experiment, f"{folder}/run")
    milliseconds = 1000 * results["train/seconds"] / results["train/steps"]
    return {"accuracy": results["test/accuracy"], "step_milliseconds": milliseconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="which; without it all", default=";".join(METHODS))
    parser.add_argument("--seeds", type=int, default=0, help="runs of each method and rate; 0: nothing is trained")
    parser.add_argument("--memory", action="store_true", help="compile the step and tell how much memory it takes")
    parser.add_argument("--rates", default="", help="learning rates, instead of each method's own")
    parser.add_argument("--examples", type=int, default=8000, help="training examples")
    parser.add_argument("--out", required=True, help="JSON file to write, after each run")
    a = parser.parse_args()
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "examples": a.examples, "methods": {}}
    for name in a.methods.split(";"):
        method, keys = METHODS[name]
        experiment = dataclasses.replace(get_config(method), **keys)
        entry: dict[str, Any] = {**costs(experiment, a.memory), "runs": []}
        found["methods"][name] = entry
        for rate in [float(x) for x in a.rates.split(",") if x] or [experiment.optimizer.learning_rate]:
            for seed in range(a.seeds):
                data = dataclasses.replace(experiment.data, train_examples=a.examples)
                optimizer = dataclasses.replace(experiment.optimizer, learning_rate=rate)
                started = time.time()
                run = trained(dataclasses.replace(experiment, seed=seed, data=data, optimizer=optimizer))
                entry["runs"].append({"learning_rate": rate, "seed": seed, "seconds": time.time() - started, **run})
                Path(a.out).write_text(json.dumps(found, indent=2) + "\n")
        Path(a.out).write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps({name: entry}), flush=True)


if __name__ == "__main__":
    main()
