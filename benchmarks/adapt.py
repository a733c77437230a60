"""What each method of `config.adapt` costs and reaches on the quickstart's data, as JSON: the table of docs/adapt.md.

  python benchmarks/adapt.py --out=adapt.json           # tunes each method's rate, then trains it with three seeds
  python benchmarks/adapt.py --out=adapt.json --times   # milliseconds a step of all methods, in turns; quietly, and
                                                        # twice, the second time without compiling anything
  python benchmarks/adapt.py --out=adapt.json --show    # the table

What the file holds is not made again. A method's rate is the one of those below that has the least loss on the
validation tweets with seed 0. Accuracy is that on the test tweets after the last step. A run is one epoch; seeds are of
the order of the data, of new parameters and of dropout, and all runs see the same tweets. A method is compiled once, as
its rate is in the optimizer's state here.

FLOPs, memory and time are of a step of the larger one of the two batch shapes of these runs. FLOPs are counted before
XLA optimizes the step; memory is that of the state, of a batch and of what a step keeps meanwhile, as XLA's analysis of
the compiled step has it. The checkpoint is what learns, in float32, without the optimizer's state.

The table of docs/adapt.md: --examples=1000 --validation=500 --test=2000 --batch=16.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.adapt import get_config
from jaxft import config, program
from jaxft.job import Job, prepare
from jaxft.modes.shared import cache_programs
from jaxft.pretrained import load
from jaxft.train.evaluate import evaluate
from jaxft.train.optimizer import Depth, Schedule, make_optimizer
from jaxft.train.state import State
from jaxft.types import Array, Batch, Params

METHODS: dict[str, tuple[str, dict[str, Any], tuple[float, ...]]] = {
    "full": ("full", {}, (1e-4, 3e-4, 9e-4)),
    "freeze, last layer": ("freeze", {}, (3e-4, 1e-3, 3e-3)),
    "freeze, last 2 layers": ("freeze", {"freeze": config.Freeze(last_layers=2)}, (1e-4, 3e-4, 1e-3)),
    "bitfit": ("bitfit", {}, (1e-3, 3e-3, 1e-2)),
    "lora": ("lora", {}, (1e-3, 3e-3, 9e-3)),
    "lora, dora": ("lora", {"lora": config.Lora(dora=True)}, (1e-3, 3e-3, 9e-3)),
    "adalora": ("adalora", {}, (1e-3, 3e-3, 1e-2)),
    "adapter, pfeiffer": ("adapter", {}, (1e-3, 3e-3, 9e-3)),
    "adapter, houlsby": ("adapter", {"adapter": config.Adapter(placement="houlsby")}, (1e-3, 3e-3, 9e-3)),
    "ia3": ("ia3", {}, (1e-3, 3e-3, 1e-2)),
    "prefix": ("prefix", {}, (1e-3, 3e-3, 1e-2)),
    "prompt": ("prompt", {}, (1e-3, 3e-3, 1e-2)),
}
"""Argument of configs/adapt.py, other keys of the experiment, and the rates that are tried."""

SEEDS = (0, 1, 2)
TIMED_STEPS = 9


class Rate(NamedTuple):
    """A state of the optimizer: the peak of the learning rate."""

    peak: Array


def rated(options: config.Optimizer, schedule: Schedule, depth: Depth) -> optax.GradientTransformation:
    """The optimizer of a peak rate of 1, times the rate that its state holds: AdamW's update is linear in the rate."""
    times = optax.GradientTransformation(
        lambda params: Rate(jnp.ones(())),
        lambda updates, state, params=None: (jax.tree.map(lambda x: x * state.peak, updates), state),  # pyright: ignore
    )
    return optax.chain(make_optimizer(options, schedule, depth), times)


def at_rate(state: State, peak: float) -> State:
    def place(x: Any) -> Any:
        return Rate(jax.device_put(jnp.float32(peak), x.peak.sharding)) if isinstance(x, Rate) else x

    return state.replace(opt_state=jax.tree.map(place, state.opt_state, is_leaf=lambda x: isinstance(x, Rate)))


class Method:
    """One method on the data of a job: composed, and compiled for its shapes."""

    def __init__(self, name: str, job: Job):
        kind, keys, self.rates = METHODS[name]
        self.experiment = dataclasses.replace(job.experiment, adapt=kind, **keys)
        self.steps = job.order.batches_per_epoch
        composed = self.compose(job, seed=0)
        self.job = dataclasses.replace(job, program=composed)
        state, largest = composed.state, job.shapes[-1]
        lowered = composed.train_step.lower(state, composed.abstract_batch(largest))  # pyright: ignore
        self._steps: dict[int, Any] = {largest.rows: lowered.compile()}
        memory: Any = self._steps[largest.rows].memory_analysis()
        size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
        self.costs = {
            "trainable_parameters": size(state.trainable) // 4,
            "checkpoint_bytes": size(state.trainable),
            "optimizer_bytes": size(state.opt_state),
            "step_flops": lowered.cost_analysis()["flops"],
            "step_bytes": memory.argument_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes,
        }

    def step(self, state: State, batch: Batch) -> Any:
        rows = len(batch["input_ids"])
        if rows not in self._steps:
            self._steps[rows] = self.job.program.train_step.lower(state, batch).compile()  # pyright: ignore
        return self._steps[rows](state, batch)

    def compose(self, job: Job, seed: int) -> program.Program:
        experiment = dataclasses.replace(self.experiment, seed=seed)
        return program.compose(experiment, job.body.model, job.task, self.steps, parts=program.Parts(optimizer=rated))

    def start(self, seed: int, rate: float) -> State:
        composed = self.compose(self.job, seed)
        return at_rate(composed.init(load(self.job.body.directory, composed, seed)[0]), rate)

    def batches(self, seed: int) -> Any:
        """An epoch: that of the number of the seed."""
        return self.job.feed("train").train(self.job.order, seed * self.steps, (seed + 1) * self.steps)

    def train(self, seed: int, rate: float) -> tuple[Params, Params]:
        """What learns and what does not, after the last step."""
        state = self.start(seed, rate)
        for _, batch in self.batches(seed):
            state, _ = self.step(state, batch)
        return program.weights(state)

    def measure(self, weights: tuple[Params, Params], split: str) -> dict[str, float]:
        found = evaluate(self.job.program.eval_step, weights, self.job.feed(split), self.job.task.outputs)
        metrics = self.job.table.metrics(found.outputs, self.job.features[split], self.job.splits[split])
        return {"loss": found.loss, "accuracy": metrics["accuracy"]}


def run(method: Method, entry: dict[str, Any], log: Any) -> None:
    """Tries the rates with seed 0, then trains with each seed at the best; what the entry holds is not made again."""
    kept: dict[float, tuple[Params, Params]] = {}
    for rate in method.rates:
        if rate not in [values["learning_rate"] for values in entry["tried"]]:
            kept[rate] = method.train(SEEDS[0], rate)
            entry["tried"].append({"learning_rate": rate, **method.measure(kept[rate], "validation")})
            log(entry["tried"][-1])
    least = min(entry["tried"], key=lambda values: (not math.isfinite(values["loss"]), values["loss"]))
    if (best := least["learning_rate"]) != entry.get("learning_rate", best):  # a rate has come that is better
        entry["runs"] = []
    entry["learning_rate"] = best
    for seed in SEEDS[len(entry["runs"]) :]:
        weights = kept[best] if seed == SEEDS[0] and best in kept else method.train(seed, best)
        entry["runs"].append({"seed": seed, **method.measure(weights, "test")})
        log(entry["runs"][-1])


def times(methods: list[Method]) -> list[float]:
    """Milliseconds of a training step, the median, all methods in turns."""
    states = [(method, method.start(0, method.rates[0])) for method in methods]
    largest = methods[0].job.shapes[-1].rows
    batch = next(batch for _, batch in methods[0].batches(0) if len(batch["input_ids"]) == largest)
    taken: list[list[float]] = [[] for _ in methods]
    for _ in range(TIMED_STEPS):
        for i, (method, state) in enumerate(states):
            started = time.perf_counter()
            state, metrics = method.step(state, batch)
            jax.block_until_ready((state.trainable, metrics))
            taken[i].append(1000 * (time.perf_counter() - started))
            states[i] = method, state
    return [statistics.median(each[1:]) for each in taken]


def show(found: dict[str, Any]) -> str:
    """A table in Markdown."""
    rows = ["| method | parameters | rate | accuracy | FLOPs | step | memory | checkpoint |", "|" + "---|" * 8]
    full = found["methods"]["full"]
    for name, entry in ((name, found["methods"][name]) for name in METHODS if name in found["methods"]):
        scores = [100 * run["accuracy"] for run in entry["runs"]]
        accuracy = f"{statistics.mean(scores):.1f} ({min(scores):.1f} to {max(scores):.1f})" if scores else ""
        step = f"{entry['step_milliseconds']:.0f} ms" if "step_milliseconds" in entry else ""
        rows.append(
            f"| {name} | {entry['trainable_parameters']:,} | {entry.get('learning_rate', '')} | {accuracy} "
            f"| {100 * entry['step_flops'] / full['step_flops']:.0f}% | {step} "
            f"| {entry['step_bytes'] / 1e6:.0f} MB | {entry['checkpoint_bytes'] / 1e6:.1f} MB |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="which, with ; between them; without it all", default=";".join(METHODS))
    parser.add_argument("--examples", type=int, default=8000, help="training tweets")
    parser.add_argument("--validation", type=int, default=1000, help="validation tweets")
    parser.add_argument("--test", type=int, default=2000, help="test tweets")
    parser.add_argument("--batch", type=int, default=32, help="tweets a step")
    parser.add_argument("--times", action="store_true", help="measure steps instead of training")
    parser.add_argument("--show", action="store_true", help="print the table of what the file holds")
    parser.add_argument("--out", required=True, help="JSON file to write, after each run")
    a = parser.parse_args()
    out = Path(a.out)
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"methods": {}}
    if a.show:
        print(show(found))
        return
    experiment = get_config("full")
    experiment.data = dataclasses.replace(
        experiment.data, train_examples=a.examples, validation_examples=a.validation, test_examples=a.test, shapes=2
    )
    experiment.train.batch_size, experiment.train.epochs = a.batch, len(SEEDS)  # so that the shapes hold all of them
    experiment.optimizer.learning_rate = 1.0
    cache_programs(experiment.data.cache)
    job = prepare(config.check(experiment))
    found |= {"device": jax.devices()[0].device_kind, "examples": a.examples, "shape": str(job.shapes[-1])}
    names = a.methods.split(";")

    def write() -> None:
        out.write_text(json.dumps(found, indent=2) + "\n")

    if a.times:
        methods = [Method(name, job) for name in names]
        for name, method, milliseconds in zip(names, methods, times(methods), strict=True):
            entry = {"tried": [], "runs": []} | found["methods"].get(name, {})
            found["methods"][name] = method.costs | entry | {"step_milliseconds": milliseconds}
        write()
        return
    for name in names:
        entry = found["methods"].get(name, {"tried": [], "runs": []})
        tried = {values["learning_rate"] for values in entry["tried"]}
        if len(entry["runs"]) == len(SEEDS) and tried.issuperset(METHODS[name][2]):
            continue
        method, started = Method(name, job), time.time()
        found["methods"][name] = entry = method.costs | entry

        def log(values: dict[str, float], name: str = name, started: float = started) -> None:
            print(f"{time.time() - started:4.0f} s  {name}  {values}", flush=True)
            write()

        run(method, entry, log)


if __name__ == "__main__":
    main()
