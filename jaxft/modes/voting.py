"""--mode=pate: public rows labelled by noisy votes of teachers, each of whom saw a part of the private rows alone."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft import config, tables
from jaxft.data import rows, sources, splits
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.modes.predicting import beside, opened, rows_of
from jaxft.modes.shared import claim, of_classes
from jaxft.modes.training import train
from jaxft.predict.predictor import Predictor
from jaxft.storage import paths
from jaxft.sure import private

CLAIM = "teachers.json"
"""File that says of which rows, and how many teachers, a folder is."""

STUDENT, ROWS, RECORD = "student", "labelled.jsonl", "pate.json"
"""The one folder of the workdir that may leave the house, and what is in it."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How teachers vote.

    Attributes:
      teachers: how many.
      sigma: standard deviation of the noise on each count of votes.
      delta: with what probability the promise of privacy may fail.
    """

    teachers: int = 10
    sigma: float = 2.0
    delta: float = 1e-5

    def check(self) -> "Options":
        """Raises UserError where votes so counted would not be private, or not be votes."""
        if self.teachers < 2:
            raise UserError(f"--pate.teachers is {self.teachers}; it must be at least 2")
        if not self.sigma > 0:
            raise UserError(f"--pate.sigma is {self.sigma}; without noise nothing is private, so it must be above 0")
        if not 0 < self.delta < 1:
            raise UserError(f"--pate.delta is {self.delta}; it must be between 0 and 1, well below 1 / private rows")
        return self


class Pool(NamedTuple):
    """Private rows in parts, and public ones without labels.

    Attributes:
      experiment: whose task has the labels in the order of their ids.
      part_of: the teacher that sees a row, `[n]`.
    """

    experiment: config.Experiment
    split: Split
    part_of: np.ndarray
    public: Split


def pate(
    experiment: config.Experiment,
    workdir: str,
    inputs: str,
    options: Options = Options(),
    data: Mapping[str, rows.Rows] | None = None,
) -> dict[str, Any]:
    """Trains a teacher on each part of the rows, and labels public rows by their votes, with noise on the counts.

    Cut off, the same call goes on where it was. The votes are counted once: what they said is never drawn again.

    Args:
      workdir: a new folder, or that of the same call. All in it but the folder `student` is private.
      inputs: a file of public rows, labels not needed.
      data: rows in memory instead of what `data.source` has; see `jaxft.modes.train`.

    Returns:
      What student/pate.json holds.

    Raises:
      UserError, TrainingError, Preempted: as `jaxft.modes.train`; or the task has no classes, a part has no rows, or
        the workdir is of other rows.
    """
    options.check()
    if jax.process_count() > 1:
        raise UserError("--mode=pate is for one process; start it with --processes=1")
    if "://" in workdir:
        raise UserError(f"--workdir {workdir}: teachers are written to a folder of this machine; give one")
    paths.file_of("--input", inputs)
    pool = _pool(*rows.given(experiment, data), inputs, options)
    folder = Path(workdir).expanduser()
    claim(folder, CLAIM, _of(pool, options), "teachers")
    if (record := folder / STUDENT / RECORD).exists():
        say(f"{folder} is finished; votes are counted once")
        return json.loads(record.read_text())
    names = _names(pool)
    votes = np.zeros((pool.public.table.num_rows, len(names)))
    for teacher in range(options.teachers):
        run = str(folder / f"teacher-{teacher}")
        own = pool.split.take(np.flatnonzero(pool.part_of == teacher))
        say(f"teacher {teacher + 1} of {options.teachers}: {own.table.num_rows:,} rows")
        train(_of_teacher(pool.experiment, teacher, options), run, data={"train": _read(pool, own)})
        said = [names.index(answer["prediction"]) for answer in Predictor.open(run).answers(pool.public)]
        votes[np.arange(len(said)), said] += 1
    return _write(folder, pool, options, private.noisy_votes(votes, options.sigma, np.random.default_rng()))


def _pool(experiment: config.Experiment, given: Mapping[str, Split] | None, inputs: str, options: Options) -> Pool:
    """The training rows, none left out, in parts; splits for validation and test are not looked at.

    Raises:
      UserError: they cannot be used, the task has no classes, or a part has no rows.
    """
    experiment = config.check(experiment)
    if experiment.data.train_examples:
        raise UserError(
            "config.data.train_examples chooses rows by how many others there are, so that more than one teacher knows "
            "of a row; leave it at 0"
        )
    unresolved = tables.build(experiment.task)
    train = unresolved.read((given or sources.read(experiment.data))["train"])
    task = of_classes(unresolved.resolve({"train": train}), "pate")
    # Weights of classes are each teacher's to find.
    task = dataclasses.replace(task, class_weights=getattr(experiment.task, "class_weights", ()))
    part_of = parts(train, tables.build(task).inputs, options.teachers, experiment.seed)
    if missing := [n for n in range(options.teachers) if not (part_of == n).any()]:
        raise UserError(f"--pate.teachers is {options.teachers}, but teacher {missing[0] + 1} has no rows; give fewer")
    experiment = dataclasses.replace(experiment, task=task)
    return Pool(experiment, train, part_of, _public(inputs, experiment))


def parts(split: Split, inputs: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Returns the part of each row, `[n]` of 0 .. count - 1: by what it says and the seed, whatever others there are.

    So a row more or less changes one part alone; rows that say the same are in one.
    """
    said = zip(*(split.table.column(name).to_pylist() for name in inputs), strict=True)
    return np.asarray([
        int.from_bytes(hashlib.blake2b(json.dumps([seed, *row], default=str).encode()).digest()) % count
        for row in said
    ])  # fmt: skip


def _public(inputs: str, experiment: config.Experiment) -> Split:
    """The public rows that hold a text.

    Raises:
      UserError: they cannot be read, or none does.
    """
    columns = tables.build(experiment.task).inputs
    split = rows_of(inputs, experiment.data, columns[0])
    if missing := [name for name in columns if name not in split.table.column_names]:
        raise UserError(f"{split.origin} has no column {missing[0]!r}, which the teachers read")
    blank = sources.blank(split, columns)
    if blank.all():
        raise UserError(f"{split.origin} is empty: none of its {len(blank):,} rows holds {columns[0]!r}")
    if blank.any():
        say(f"{split.origin}: {blank.sum():,} of {len(blank):,} rows are blank; they are left out")
    return split.take(np.flatnonzero(~blank))


def _names(pool: Pool) -> list[str]:
    task = pool.experiment.task
    assert isinstance(task, config.SequenceClassification)
    return list(task.labels)


def _of(pool: Pool, options: Options) -> dict[str, Any]:
    """What the folder is of."""
    return {
        **dataclasses.asdict(options),
        "seed": pool.experiment.seed,
        "data": splits.fingerprint(pool.split.table),
        "public": splits.fingerprint(pool.public.table),
    }


def _of_teacher(experiment: config.Experiment, teacher: int, options: Options) -> config.Experiment:
    """The experiment of a teacher's run, which carves what it is chosen on off its own rows."""
    name = f"{experiment.name or 'pate'}, teacher {teacher + 1} of {options.teachers}"
    return dataclasses.replace(
        experiment, name=name, data=dataclasses.replace(experiment.data, source="", test_examples=0)
    )


def _read(pool: Pool, split: Split) -> list[dict[str, Any]]:
    """The columns that a teacher's run reads."""
    task = pool.experiment.task
    assert isinstance(task, config.SequenceClassification)
    columns = [*tables.build(task).inputs, task.label, *([task.weight] if task.weight else [])]
    return split.table.select(columns).to_pylist()


def _write(folder: Path, pool: Pool, options: Options, answers: np.ndarray) -> dict[str, Any]:
    """Writes the folder for the student, whole or not at all: labelled rows, and what they tell of a private one."""
    task, names = pool.experiment.task, _names(pool)
    assert isinstance(task, config.SequenceClassification)
    results = {
        "epsilon": private.epsilon(len(answers), options.sigma, options.delta),
        **dataclasses.asdict(options),
        "queries": len(answers),
        "labels": names,
        "public": pool.public.origin,
    }
    begun = folder / f".{STUDENT}"
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir()
    with opened(str(begun / ROWS)) as out:
        for row, answer in zip(pool.public.table.to_pylist(), answers, strict=True):
            line = beside(row, {task.label: names[answer]})
            out.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    (begun / RECORD).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    os.replace(begun, folder / STUDENT)
    said = f"({results['epsilon']:.3g}, {options.delta:g})-differentially private"
    say(f"{len(answers):,} public rows are labelled: {folder}/{STUDENT}/{ROWS}; they are {said}")
    return results
