"""The engine of an ONNX graph: onnxruntime computes a predictor's outputs on this machine's CPU."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from jaxft import config, tasks
from jaxft.batch import BatchShape
from jaxft.data.batches import assemble
from jaxft.data.features import Features
from jaxft.data.packing import Rows
from jaxft.errors import UserError
from jaxft.job import Body
from jaxft.models import Model
from jaxft.out.answers import Answers
from jaxft.out.files import GRAPHS, ONNX
from jaxft.predict import directory
from jaxft.predict.engine import measured
from jaxft.storage.workdir import Workdir
from jaxft.tasks import Task
from jaxft.train.evaluate import Evaluated, scatter

TOKENS = 1024
"""Positions of a batch, about: few enough that examples of like lengths share it; a graph is as fast on small ones."""


class GraphEngine:
    """An ONNX graph: one example a row, those of about the same length together, padded to the longest of them.

    Attributes:
      file: of the graph.
      positions: see `jaxft.predict.engine.Engine`.
    """

    device = "cpu"

    def __init__(self, experiment: config.Experiment, task: Task, model: Model, file: Path):
        """Opens a graph that `--mode=export` wrote.

        Args:
          experiment: `data.max_length`, `data.packing` and `train.batch_size` are what is read of it.

        Raises:
          ImportError: onnxruntime is not installed.
        """
        from jaxft.out.runtime import Runtime

        self.positions, self.file = 0, file
        self.task, self.model = task, model
        self._experiment = experiment
        self._runtime = Runtime(file, Answers(task, model))

    def compute(self, features: Features) -> Mapping[str, np.ndarray]:
        targets = {name: self.task.targets[name] for name in self.task.reads}
        outputs: dict[str, np.ndarray] = {}
        self.positions = 0
        for examples in _batches(features, self.task.together):
            count, first = np.arange(len(examples)), np.zeros(len(examples), np.int64)
            shape = BatchShape(len(examples), int(features.lengths[examples].max()), 1)
            host = assemble(features, examples, Rows(count, first, first), shape, targets)
            self.positions += shape.rows * shape.length
            found = self._runtime(host.arrays)
            scatter(outputs, jax.device_get(found), self.task.outputs, host, features)
        return outputs

    def evaluate(self, features: Features) -> Evaluated:
        return measured(self.compute(features), features, self.task, self._experiment)

    def warm(self, tokens: int) -> list[BatchShape]:
        """Does nothing, as a graph takes any shape."""
        return []

    def check(self, features: Features, origin: str) -> None:
        """Does nothing, as a graph takes any shape."""


def opened(
    folder: Workdir | None, path: str, task: config.Task | None, name: str
) -> tuple[config.Experiment, Body, GraphEngine]:
    """Returns what a predictor needs to answer by a graph: of a run's export, or of a trained model's directory.

    Args:
      folder: the run that `path` is; None: it is no run.
      name: the engine, one of `jaxft.out.files.GRAPHS`.

    Raises:
      UserError: there is no such model or graph, it is of other weights, or onnxruntime is not installed.
    """
    if jax.process_count() > 1:
        raise UserError(f"--engine={name} is for one process; start it with --processes=1")
    if folder:
        if not (exported := folder.exported()):
            raise UserError(f"--engine={name}: {folder} has no export/, which a graph would be in")
        experiment = folder.experiment()
        model = dataclasses.replace(experiment.model, path=str(exported))
        experiment = dataclasses.replace(experiment, model=model)
    else:
        experiment = directory.experiment(path, task)
    body = Body.of(experiment.model, experiment.data.max_length)
    file = body.directory / ONNX / GRAPHS[name]
    write = f"--mode=export --workdir={path} --format={name}"
    if not file.is_file():
        raise UserError(f"--engine={name}: there is no {file}; write it first: {write}")
    try:
        from jaxft.out.runtime import is_of_weights

        if not is_of_weights(file, body.directory):
            raise UserError(
                f"--engine={name}: {file} does not say that it was made of the weights beside it, which have perhaps "
                f"been trained on since; write it anew: {write}"
            )
        return experiment, body, GraphEngine(experiment, tasks.build(experiment.task), body.model, file)
    except ImportError as error:
        raise UserError(f"--engine={name}: {error.name} is not installed; try: pip install 'jaxft[onnx]'") from error


def _batches(features: Features, together: bool) -> Iterator[np.ndarray]:
    """Numbers of examples, the longest first, so many as have `TOKENS` positions; those of an item side by side."""
    items = np.split(np.arange(len(features)), features.items(together).bounds[1:-1])
    longest = [int(features.lengths[item].max()) for item in items]
    batch: list[np.ndarray] = []
    rows, length = 0, 0
    for number in np.argsort(longest)[::-1]:
        if batch and (rows + len(items[number])) * length > TOKENS:
            yield np.concatenate(batch)
            batch, rows = [], 0
        length = length if batch else longest[number]
        batch.append(items[number])
        rows += len(items[number])
    yield np.concatenate(batch)
