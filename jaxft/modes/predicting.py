"""--mode=predict: answers for new inputs."""

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from jaxft import config, program, sharding, tasks
from jaxft.batch import BatchShape
from jaxft.data import packing, sources
from jaxft.data.batches import Feed
from jaxft.data.features import Items
from jaxft.devices import distributed
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.job import Body, Compiled, check_length, load, with_trusted_attention
from jaxft.modes.shared import best_weights, model_of, on_these_devices, say
from jaxft.storage import paths
from jaxft.storage.workdir import Workdir
from jaxft.train.evaluate import evaluate as run_evaluation


def predict(workdir: str, inputs: str, output: str = "", adapter: str = "") -> None:
    """Writes a JSON line for each example of a text file (a line an example), CSV or JSON lines file.

    Args:
      inputs: the file; its columns are those the run was trained on, labels not needed.
      output: a file, written whole or not at all; empty: standard output.
      adapter: the directory of an adapter, see `jaxft.hub.adapters`, put on the run's base model in place of its own.

    Raises:
      UserError: the file cannot be read or lacks a column, the adapter does not fit, or the output cannot be written.
    """
    folder = Workdir(workdir)
    experiment = on_these_devices(folder.experiment())
    chosen = Path(adapter).expanduser() if adapter else None
    if chosen:
        experiment = dataclasses.replace(experiment, **adapters.options(chosen))
    task = tasks.build(experiment.task)
    split = _read_inputs(inputs, experiment, task)
    rows = zip(split.table.to_pylist(), _predictions(folder, experiment, task, split, chosen), strict=True)

    def write() -> None:
        with _opened(output) as out:
            for row, answer in rows:
                out.write(json.dumps(row | answer, ensure_ascii=False, default=str) + "\n")

    distributed.once(write)


def _predictions(
    folder: Workdir, experiment: config.Experiment, task: tasks.Task, split: sources.Split, adapter: Path | None
) -> Iterator[dict[str, Any]]:
    body = Body.of(experiment.model if adapter else model_of(folder, experiment), experiment.data.max_length)
    split = tasks.read(experiment.task, split, labelled=False)
    features = body.features(split, task, experiment.data, labelled=False)
    items, mesh = features.items(task.together), sharding.make_mesh(experiment.mesh)
    experiment, doubts = with_trusted_attention(experiment, mesh, body.model, int(items.lengths.max()))
    for line in doubts:
        say(line)
    composed = program.compose(experiment, body.model, task, steps=10**9, mesh=mesh)
    check_length(experiment, composed)
    shapes = _prediction_shapes(items, experiment, composed.row_shards)
    feed = Feed(features, task.targets, shapes, composed.batch_sharding, together=task.together)
    distributed.wait_for_all("prepared")
    if adapter:
        trainable, frozen = composed.split(load(experiment, composed)[0])
        weights, thresholds = (adapters.read(adapter, composed, trainable), frozen), {}
    else:
        weights, thresholds = best_weights(folder, composed)
    abstract = (composed.state.trainable, composed.state.frozen)
    step = Compiled(composed.eval_step, abstract, composed.abstract_batch, shapes)
    found = run_evaluation(step, weights, feed, task.outputs)
    return task.decide(thresholds).predictions(found.outputs, features, split)


def _read_inputs(inputs: str, experiment: config.Experiment, task: tasks.Task) -> sources.Split:
    if not Path(inputs).expanduser().is_file():
        raise UserError(f"--input: {paths.missing(inputs)}")
    encoding = sources.encoding_of(inputs, otherwise=experiment.data.encoding)
    if inputs.endswith(".txt"):
        split = sources.read_lines(inputs, task.inputs[0], encoding)
    else:
        data = dataclasses.replace(
            experiment.data, encoding=encoding, source=inputs, train="", validation="", test="", subset=""
        )
        split = sources.read(data)["train"]
    have = split.table.column_names
    for column in task.inputs:
        if column not in have:
            listed = ", ".join(repr(name[:40]) for name in have[:20])
            raise UserError(f"{split.origin} has no column {column!r}, which the run reads; it has {listed}")
    return split


def _prediction_shapes(items: Items, experiment: config.Experiment, parts: int) -> list[BatchShape]:
    """One shape, of about as many items as a training batch."""
    lengths, size = items.lengths, experiment.train.batch_size
    sample = np.sort(lengths)[:: max(len(lengths) // size, 1)][-size:]
    packed = experiment.data.packing != "off"
    return packing.plan(
        [sample],
        longest=int(lengths.max()),
        packing=packed,
        rows_multiple=parts,
        count=1,
        cost=lambda r, n: r * n,
        most=items.most,
    )


@contextmanager
def _opened(output: str) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole at the end or not at all."""
    if not output:
        yield sys.stdout
        return
    file = Path(output).expanduser()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        out = open(temporary, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"--output {file}: {error.strerror}; choose a file that can be written") from error
    try:
        with out:
            yield out
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink()
        raise
