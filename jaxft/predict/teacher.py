"""What a teacher says of examples that a student learns from: computed once, and kept on disk by content."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.job import Job
from jaxft.objectives.distill import PREFIX
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Predictor
from jaxft.storage import fingerprint
from jaxft.tables import Table
from jaxft.tasks import Task

KEY = "config.objective.teacher"


def taught(job: Job) -> Job:
    """Returns the job, whose training examples have what the teachers of its experiment say, if there are any.

    Raises:
      UserError: as `outputs`.
    """
    if not job.program.taught:
        return job
    own, options = job.features["train"], job.experiment
    teachers, cache = options.objective.teacher, options.data.cache
    found = outputs(teachers, job.splits["train"], own, job.table, job.task, cache)
    said = {per: {} for per in ("example", "token")}
    for name, per in job.task.outputs.items():
        said[per][f"{PREFIX}{name}"] = found[name]
    features = dataclasses.replace(
        own, examples={**own.examples, **said["example"]}, tokens={**own.tokens, **said["token"]}
    )
    return dataclasses.replace(job, features={**job.features, "train": features})


def outputs(
    teachers: Sequence[str], split: Split, features: Features, table: Table, task: Task, cache: str
) -> dict[str, np.ndarray]:
    """Returns the outputs of one or more teachers, the mean of theirs, for the examples of a student.

    A teacher with the student's tokenizer answers the student's own examples. One with another tokenizer reads the rows
    by itself, where outputs are per example and each row is one.

    Args:
      teachers: runs, directories of trained models, or names on the Hub; see `Predictor.open`.
      split: the rows, as the student's table has read them.
      features: the student's examples.
      table, task: the student's.
      cache: a folder; empty: nothing is kept.

    Returns:
      float32 by the names of `task.outputs`, `[examples, ...]` or, per token, `[tokens, ...]`.

    Raises:
      UserError: a teacher that cannot be opened, has another task or other labels, or reads other tokens.
    """
    found: dict[str, np.ndarray] = {}
    for number, path in enumerate(teachers, 1):
        for name, array in _of_one(path, split, features, table, task, cache).items():
            before = found.get(name, np.float32(0))
            found[name] = before + (array.astype(np.float32) - before) / np.float32(number)
    return found


def _of_one(path: str, split: Split, features: Features, table: Table, task: Task, cache: str) -> dict[str, np.ndarray]:
    predictor = Predictor.open(path)
    places = _places(path, predictor.table.options, table.options)
    predictor.table = table  # which columns are read is the student's to say
    own = predictor.tokenized(split).features
    same = np.array_equal(own.offsets, features.offsets) and np.array_equal(
        own.tokens["input_ids"], features.tokens["input_ids"]
    )
    if not same:
        _check_apart(path, task, own, features)
    file = _kept(predictor, own, cache)
    if file and file.is_file():
        say(f"teacher {path}: what it says is kept in {file}")
        with np.load(file) as held:
            return {name: _ordered(held[name], places) for name in task.outputs}
    say(f"teacher {path}: answers {len(own):,} examples")
    answered = {name: predictor.compute(features if same else own)[name] for name in task.outputs}
    if file:
        _keep(file, answered)
    return {name: _ordered(array, places) for name, array in answered.items()}


def _places(path: str, teacher: Any, student: Any) -> np.ndarray | None:
    """Where the teacher has each label of the student; None: labels are not named, or in the same order.

    Raises:
      UserError: it has another task, or other labels.
    """
    if type(teacher) is not type(student) or getattr(teacher, "problem", "") != getattr(student, "problem", ""):
        kinds = [f"{type(one).__name__} {getattr(one, 'problem', '')}".strip() for one in (teacher, student)]
        raise UserError(f"{KEY} {path}: its task is {kinds[0]}, that of the run {kinds[1]}; take a teacher of the same")
    if getattr(teacher, "windows", "") != getattr(student, "windows", ""):
        raise UserError(f"{KEY} {path}: it does not read long texts as the run does; give both the same task.windows")
    mine, theirs = (tuple(getattr(one, "labels", ())) for one in (student, teacher))
    if sorted(mine) != sorted(theirs):
        raise UserError(f"{KEY} {path}: its labels are {', '.join(theirs)}, those of the run {', '.join(mine)}")
    return None if mine == theirs else np.asarray([theirs.index(name) for name in mine])


def _ordered(array: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    return array if places is None else array[..., places]


def _check_apart(path: str, task: Task, own: Features, features: Features) -> None:
    """Makes sure that examples can be told to be the same although their tokens are others."""
    if set(task.outputs.values()) != {"example"} or task.together or len(own) != len(features):
        raise UserError(
            f"{KEY} {path}: it reads other tokens than the student (another tokenizer or data.max_length), so that its "
            f"outputs for {type(task).__name__} are not of the same places; take a teacher with the student's tokenizer"
        )


def _kept(predictor: Predictor, own: Features, cache: str) -> Path | None:
    """The file of what a teacher says of these examples; None: nothing is kept."""
    engine = predictor.engine
    if not cache or jax.process_count() > 1 or not isinstance(engine, CompiledEngine):
        return None
    trainable, frozen = engine.weights
    said = [
        fingerprint.of_params({"trainable": trainable, "frozen": frozen}),
        fingerprint.of_columns({"offsets": own.offsets, **own.tokens}),
        str(engine.task.options),
        str(engine.model.cfg),
    ]
    return Path(cache).expanduser() / "teacher" / f"{fingerprint.of_values(said)}.npz"


def _keep(file: Path, answered: dict[str, Any]) -> None:
    """Writes the file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as out:
            np.savez(out, **answered)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
