"""What a teacher says of examples that a student learns from: computed once, and kept on disk by content."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxft.data import unlabelled
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.job import Job
from jaxft.objectives.distill import PREFIX
from jaxft.predict import keeping, states
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.likeness import check_mean, ordered, places
from jaxft.predict.predictor import Predictor
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
    own = job.features["train"]
    found, models = (_of_all if job.unlabelled else _of_split)(job, job.splits["train"], own)
    said = {per: {} for per in ("example", "token")}
    for name, target in job.program.taught.items():
        said[target.per][name] = found[name]
    features = dataclasses.replace(
        own, examples={**own.examples, **said["example"]}, tokens={**own.tokens, **said["token"]}
    )
    return dataclasses.replace(job, features={**job.features, "train": features}, teachers=models)


def _of_all(job: Job, labelled: Split, own: Features) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What is said of labelled rows and of texts without labels, as `_of_split`; of copies of these it is 0."""
    assert job.unlabelled
    kinds, models = unlabelled.kinds(own), ()
    sizes = {"example": len(own), "token": int(own.offsets[-1])}
    found = {
        name: np.zeros((sizes[target.per], *target.size), np.float32) for name, target in job.program.taught.items()
    }
    for kind, split in enumerate((labelled, job.unlabelled.texts)):
        here = {"example": kinds == kind, "token": np.repeat(kinds, own.lengths) == kind}
        part = own.take(np.flatnonzero(here["example"]))
        part = dataclasses.replace(part, examples={key: x for key, x in part.examples.items() if key != "row"})
        said, models = _of_split(job, split, part)
        for name, target in job.program.taught.items():
            found[name][here[target.per]] = said[name]
    return found, models


def _of_split(job: Job, split: Split, own: Features) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What the teachers say of the examples of a split by the names of a batch, and fingerprints of the teachers."""
    objective, cache, wanted = job.experiment.objective, job.experiment.data.cache, job.program.taught
    found, models = {}, ()
    answers = {f"{PREFIX}{name}" for name in job.task.outputs}
    if answers & wanted.keys():
        found, models = outputs(
            objective.teacher, split, own, job.table, job.task, cache, temperature=objective.temperature
        )
    if wanted.keys() - answers:
        between, models = states.outputs(job, split, own)
        found = {**found, **between}
    return {name: found[name.removeprefix(PREFIX)] for name in wanted}, models


def outputs(
    teachers: Sequence[str],
    split: Split,
    features: Features,
    table: Table,
    task: Task,
    cache: str,
    temperature: float = 1.0,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the outputs of a teacher for the examples of a student, or of several: of the mean of their answers.

    Divided by the temperature T, they are logits of the mean of the teachers' softmax(logits / T): the arithmetic mean
    of their distributions (Hinton et al. 2015, section 1), at T = 1 what they answer together (`predict/ensemble.py`).

    A teacher with the student's tokenizer answers the student's own examples. One with another tokenizer reads the rows
    by itself, where outputs are per example and each row is one.

    Args:
      teachers: runs, directories of trained models, or names on the Hub; see `Predictor.open`.
      split: the rows, as the student's table has read them.
      features: the student's examples.
      table, task: the student's.
      cache: a folder; empty: nothing is kept.
      temperature: at which the student compares itself with them.

    Returns:
      float32 by the names of `task.outputs`, `[examples, ...]` or, per token, `[tokens, ...]`; and a fingerprint of
      each teacher.

    Raises:
      UserError: a teacher that cannot be opened, has another task or other labels, or reads other tokens.
    """
    if len(teachers) > 1:
        check_mean(KEY, table)
    said = [_of_one(path, split, features, table, task, cache) for path in teachers]
    several = [{name: array.astype(np.float32) for name, array in one.items()} for one, _ in said]
    models = tuple(model for _, model in said)
    if len(several) == 1:
        return several[0], models
    scale = np.float32(temperature)
    cooled = [{name: array / scale for name, array in one.items()} for one in several]
    return {name: array * scale for name, array in table.mean(cooled, features).items()}, models


def _of_one(
    path: str, split: Split, features: Features, table: Table, task: Task, cache: str
) -> tuple[Mapping[str, np.ndarray], str]:
    """What one says, and its fingerprint."""
    predictor = Predictor.open(path)
    labels = places(f"{KEY} {path}", predictor.table.options, table.options)
    predictor.table = table  # which columns are read is the student's to say
    own = predictor.tokenized(split).features
    same = np.array_equal(own.offsets, features.offsets) and np.array_equal(
        own.tokens["input_ids"], features.tokens["input_ids"]
    )
    if not same:
        _check_apart(path, task, own, features)
    engine = predictor.engine
    assert isinstance(engine, CompiledEngine), "of parameters, as it is opened by default"
    file = keeping.file_of(engine, own, cache, "teacher")
    if file and file.is_file():
        say(f"teacher {path}: what it says is kept in {file}")
        with np.load(file) as held:
            return ordered({name: held[name] for name in task.outputs}, labels), engine.fingerprint
    say(f"teacher {path}: answers {len(own):,} examples")
    answered = {name: predictor.compute(features if same else own)[name] for name in task.outputs}
    if file:
        keeping.keep(file, answered)
    return ordered(answered, labels), engine.fingerprint


def _check_apart(path: str, task: Task, own: Features, features: Features) -> None:
    """Makes sure that examples can be told to be the same although their tokens are others."""
    if set(task.outputs.values()) != {"example"} or task.together or len(own) != len(features):
        raise UserError(
            f"{KEY} {path}: it reads other tokens than the student (another tokenizer or data.max_length), so that its "
            f"outputs for {type(task).__name__} are not of the same places; take a teacher with the student's tokenizer"
        )
