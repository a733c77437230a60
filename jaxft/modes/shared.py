"""What training and evaluation have in common: programs kept on disk, and how a split is measured."""

from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax

from jaxft import program
from jaxft.devices import distributed
from jaxft.job import Job
from jaxft.train.compiled import Compiled
from jaxft.train.evaluate import Evaluated
from jaxft.train.evaluate import evaluate as run_evaluation
from jaxft.types import Params

began: ContextVar[float | None] = ContextVar("began", default=None)
"""When the command line began, where there is one, in seconds since the epoch: the time to the first step counts from
there, and else from the call of `train`."""


def cache_programs(cache: str) -> None:
    """Keeps compiled programs on disk, so that the second run starts quickly."""
    if cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def compiled_evaluation(job: Job) -> Compiled:
    """The evaluation step, compiled for the shapes that evaluation uses."""
    weights = program.weights(job.program.state)
    full = [shape for shape in job.shapes if shape.rows == job.shapes[-1].rows]
    return Compiled(job.program.eval_step, weights, job.program.abstract_batch, full)


def measure(job: Job, step: Any, split: str, weights: tuple[Params, Params]) -> tuple[dict[str, float], Evaluated]:
    """Returns the metrics of a split, and what they are of. Validation alone chooses thresholds; see `Table.decide`."""
    table = job.table if split == "validation" else job.table.decide(job.table.undecided())
    found = run_evaluation(step, weights, job.feed(split), job.task.outputs)
    data = (job.features[split], job.splits[split])
    # By one process, so that all choose the same best step, whatever the rounding on their machines.
    return distributed.once(lambda: {"loss": found.loss} | table.metrics(found.outputs, *data)), found
