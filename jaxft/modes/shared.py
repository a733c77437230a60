"""What modes have in common: programs kept on disk, how a split is measured, folders of several runs, tasks refused."""

import json
import os
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax

from jaxft import config, program
from jaxft.devices import distributed
from jaxft.errors import UserError
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


def claim(folder: Path, name: str, mine: Mapping[str, Any], what: str) -> None:
    """Makes a folder that of several runs, or finds that it is.

    Args:
      name: of the file in it that says so.
      mine: what they are of, as JSON has it.
      what: an error calls them.

    Raises:
      UserError: it is of others, holds something else, or cannot be written.
    """
    file = folder / name
    try:
        if file.exists():
            held = json.loads(file.read_text())
            if changed := [key for key, value in mine.items() if held.get(key) != value]:
                raise UserError(
                    f"{folder} holds {what} of others ({changed[0]}: {held.get(changed[0])} there, "
                    f"{mine[changed[0]]} here); choose another --workdir"
                )
            return
        begun = file.with_name(f".{name}")
        if folder.exists() and {*folder.iterdir()} - {begun}:
            raise UserError(f"{folder} is not empty and holds no {what}; choose another --workdir")
        folder.mkdir(parents=True, exist_ok=True)
        begun.write_text(json.dumps(mine) + "\n")
        os.replace(begun, file)
    except OSError as error:
        raise UserError(f"--workdir {folder}: {error.strerror}; choose a folder that can be written") from error


def of_classes(task: config.Task, mode: str, without: str = "") -> config.SequenceClassification:
    """Returns the options of a task that gives each text one class of several.

    Args:
      mode: that asks for it.
      without: a key of the task that has to be unset; empty: none.

    Raises:
      UserError: it is another task, or has the key.
    """
    kind, bare = f"{type(task).__name__} {getattr(task, 'problem', '')}".strip(), f", and no task.{without}"
    if isinstance(task, config.SequenceClassification) and task.problem == "single_label":
        if not (without and getattr(task, without)):
            return task
        kind += f", task.{without} set"
    raise UserError(
        f"--mode={mode} is for SequenceClassification with a class a text (problem single_label)"
        f"{bare if without else ''}; this is {kind}"
    )
