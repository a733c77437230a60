"""What a transform of docs/objectives.md adds to the time of a step: steps with it and plain ones, in turns.

  python benchmarks/transforms.py --rounds=9 --out=transforms.json
  python benchmarks/transforms.py --only=ema,r_drop

MiniLM on 7 rows of 128 positions, 6 examples each; weights and tokens are random. A turn is a plain step and one with
the transform, each waited for; a row says the median over the turns of their ratio, and both medians in milliseconds.
"distilled" has a teacher's answers in the batch, as a run reads them from disk; "three layers" is the plain step of a
model with half of the layers.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from step import MODELS, full_batch

from jaxft import config, models, program, tasks
from jaxft.batch import BatchShape
from jaxft.models import nn

SHAPE = BatchShape(7, 128, 6)

ROWS: dict[str, dict[str, Any]] = {
    "ema": {"optimizer.ema": 0.99},
    "r_drop": {"objective.r_drop": 1.0},
    "distilled": {"objective.teacher": ("of no run",), "objective.distill": 0.5},
    "fgm": {"objective.adversarial": "fgm"},
    "freelb": {"objective.adversarial": "freelb"},
    "three layers": {"layers": 3},
}


def made(keys: Mapping[str, Any]) -> Callable[[], float]:
    """Compiles the step of an experiment with these keys; the function makes one, and returns its seconds."""
    sizes = {"model_type": "bert", **MODELS["minilm"]}
    task = config.SequenceClassification(labels=("negative", "neutral", "positive"))
    experiment = config.Experiment(task=task, optimizer=config.Optimizer(learning_rate=1e-5))
    for key, value in keys.items():
        if key == "layers":
            sizes["num_hidden_layers"] = value
            continue
        section, name = key.split(".")
        setattr(getattr(experiment, section), name, value)
    model = models.build(sizes)
    composed = program.compose(experiment, model, tasks.build(task), steps=1000)
    key = jax.random.key(0)
    params = {path: leaf.initial(nn.path_key(key, path)) for path, leaf in nn.flatten(composed.spec).items()}
    state = composed.init(nn.unflatten(params))
    abstract, rng = composed.abstract_batch(SHAPE), np.random.default_rng(0)
    host = full_batch(SHAPE, model.facts.vocabulary)
    host |= {name: rng.normal(size=abstract[name].shape) for name in composed.taught}
    batch = {name: jnp.asarray(host[name], x.dtype) for name, x in abstract.items()}
    step = composed.train_step.lower(composed.state, abstract).compile()  # pyright: ignore[reportFunctionMemberAccess]

    def once() -> float:
        nonlocal state
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - started

    return once


def compared(plain: Callable[[], float], other: Callable[[], float], rounds: int) -> dict[str, float]:
    """In turns, of which the first two are not counted; who begins changes from turn to turn."""
    pairs = []
    for turn in range(rounds + 2):
        first, second = (plain, other) if turn % 2 else (other, plain)
        one, two = first(), second()
        pairs.append((one, two) if turn % 2 else (two, one))
    counted = pairs[2:]
    return {
        "ratio": statistics.median(b / a for a, b in counted),
        "plain_ms": 1000 * statistics.median(a for a, _ in counted),
        "ms": 1000 * statistics.median(b for _, b in counted),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="of all rows, JSON")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=",".join(ROWS))
    options = parser.parse_args()
    plain, found = made({}), {}
    for row in options.only.split(","):
        found[row] = compared(plain, made(ROWS[row]), options.rounds)
        print(f"{row:14}{found[row]['ratio']:>8.3f}{found[row]['ms']:>10.0f} ms beside {found[row]['plain_ms']:.0f}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
