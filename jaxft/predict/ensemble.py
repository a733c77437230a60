"""The engine of several models that answer as one, by the mean of what each says (`jaxft.tables.Table.mean`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft import config, hub
from jaxft.batch import BatchShape
from jaxft.data import truncation
from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.job import check_features
from jaxft.models import Model
from jaxft.predict.engine import Engine, measured
from jaxft.predict.likeness import Places, check_mean, ordered, places
from jaxft.predict.vectors import without_vectors
from jaxft.tables import Table
from jaxft.tasks import Task
from jaxft.train.evaluate import Evaluated


class Member(NamedTuple):
    """One of the models.

    Attributes:
      path: what the user calls it.
      experiment, table, engine: see `jaxft.predict.predictor.Predictor`.
      directory: of its tokenizer.
    """

    path: str
    experiment: config.Experiment
    table: Table
    engine: Engine
    directory: Path


class EnsembleEngine:
    """Several engines: each computes the same examples, and the outputs are those of the mean of their answers.

    Attributes:
      engines: the first says which shapes a loss is computed in, and is the `task` and the `model`.
      positions: see `jaxft.predict.engine.Engine`; of one member.
    """

    def __init__(self, members: Sequence[Member], labels: Sequence[Places]):
        """Of members that fit together, see `joined`; `labels` says where each has those of the first."""
        self.engines: list[Engine] = [without_vectors(member.engine) for member in members]
        self.positions = 0
        self._first, self._labels = members[0], labels

    @property
    def task(self) -> Task:
        return self.engines[0].task

    @property
    def model(self) -> Model:
        return self.engines[0].model

    @property
    def device(self) -> str:
        return self.engines[0].device

    def compute(self, features: Features) -> Mapping[str, np.ndarray]:
        for engine in self.engines:  # of the first model's tokens, which the others have to know
            check_features(features, engine.model, self._first.experiment.data.max_length)
        pairs = zip(self.engines, self._labels, strict=True)
        several = [ordered(engine.compute(features), at) for engine, at in pairs]
        self.positions = self.engines[0].positions
        table = self._first.table
        return {**table.mean(several, features), **table.disagreement(several)}

    def evaluate(self, features: Features) -> Evaluated:
        return measured(self.compute(features), features, self.task, self._first.experiment)

    def warm(self, tokens: int) -> list[BatchShape]:
        return list(dict.fromkeys(shape for engine in self.engines for shape in engine.warm(tokens)))

    def check(self, features: Features, origin: str) -> None:
        for engine in self.engines:
            engine.check(features, origin)


def check_runs(paths: Sequence[str | Path]) -> None:
    """Makes sure that there are several models, each named once.

    Args:
      paths: --workdir, and what --runs names.

    Raises:
      UserError: there are not.
    """
    if len(paths) < 2 or len({Path(path).expanduser().resolve() for path in paths}) < len(paths):
        raise UserError(
            f"--runs={','.join(map(str, paths[1:]))}: a mean is of two runs or more, each once; give others than "
            "--workdir"
        )


def joined(members: Sequence[Member]) -> tuple[EnsembleEngine, dict[str, float]]:
    """Returns the engine of the members' mean, and its thresholds, the mean of theirs; the first reads the rows.

    Raises:
      UserError: they do not fit together: another task, other labels, another tokenizer, or texts that are cut
        elsewhere; or of the task's answers there is no mean.
    """
    first = members[0]
    check_mean("--runs", first.table)
    if jax.process_count() > 1:
        raise UserError("--runs is for one process; start it with --processes=1")
    labels: list[Places] = [None]
    for other in members[1:]:
        labels.append(places(f"--runs {other.path}", other.table.options, first.table.options))
        _check_reads_alike(first, other)
    chosen = [member.table.thresholds() for member in members]
    means = {name: float(np.mean([one[name] for one in chosen])) for name in first.table.thresholds()}
    return EnsembleEngine(members, labels), means


def _check_reads_alike(first: Member, other: Member) -> None:
    """Makes sure that both models would read the same tokens of a row.

    Raises:
      UserError: they would not.
    """
    if hub.tokenizer_fingerprint(first.directory) != hub.tokenizer_fingerprint(other.directory):
        raise UserError(f"--runs {other.path}: it has another tokenizer than {first.path}; take runs that share one")
    mine, theirs = _reading(first), _reading(other)
    for key, value in mine.items():
        if theirs[key] != value:
            raise UserError(
                f"--runs {other.path}: {key} is {theirs[key]!r} there and {value!r} in {first.path}; take runs that "
                "read texts alike"
            )


def _reading(member: Member) -> dict[str, Any]:
    """What decides which tokens of a row are read, by key of an experiment, and whether there may be no answer."""
    data, task = member.experiment.data, member.table.options
    found = {"data.max_length": data.max_length, "the number of columns": len(member.table.inputs)}
    if truncation.cuts(task):
        return found | {"data.truncate": data.truncate}
    keys = ("stride", "question_length", "unanswerable")
    return found | {f"task.{key}": getattr(task, key) for key in keys if hasattr(task, key)}
