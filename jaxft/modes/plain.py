"""A trained model as a plain one, that another is made of: opened, measured, and written as a directory."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxft import config, hub, models, program, tables, tasks
from jaxft.data.batches import Feed
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.hub import card as hub_card
from jaxft.hub import export
from jaxft.job import Body
from jaxft.models import Model
from jaxft.modes.exporting import command_line
from jaxft.out import record
from jaxft.out.prune import Sized
from jaxft.predict import directory, reference
from jaxft.predict.predictor import run_in
from jaxft.predict.shapes import shape_for
from jaxft.pretrained import load
from jaxft.storage.workdir import Workdir
from jaxft.tables import Table
from jaxft.tasks import Task
from jaxft.train.compiled import Compiled
from jaxft.train.evaluate import evaluate
from jaxft.types import Params

Measure = Callable[[Params], dict[str, float]]
"""Parameters -> what labelled rows say of them: metrics by name, thresholds among them."""


class Source(NamedTuple):
    """A trained model.

    Attributes:
      path: as it was given.
      of_run: whether that is a run, whose data may be used.
    """

    path: str
    of_run: bool
    experiment: config.Experiment
    body: Body
    task: Task
    table: Table
    sized: Sized


def free(output: str) -> Path:
    """Returns the folder to write, which is not there or empty.

    Raises:
      UserError: it is there, or the folder that it would be in is not.
    """
    target = Path(output).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--output {target} is there already; choose a new folder")
    if not (parent := target.absolute().parent).is_dir():
        raise UserError(f"--output {target}: there is no folder {parent}; make it, or choose another")
    return target


def opened(path: str) -> Source:
    """Returns the model of a run's export, or of a directory.

    Raises:
      UserError: there is none, or its weights lack a part.
    """
    if folder := run_in(path):
        experiment, there = folder.experiment(), folder.exported()
        if there is None:
            raise UserError(
                f"{folder} holds no export/, the plain model that this is made of: the run is not finished, or "
                f"no plain model computes what config.adapt={experiment.adapt} has added"
            )
        experiment = dataclasses.replace(experiment, model=config.Model(path=str(there)), adapt="full")
    else:
        experiment = directory.experiment(path)
    experiment = config.check(dataclasses.replace(experiment, mesh=config.Mesh()), data=False)
    body, task = Body.of(experiment.model, experiment.data.max_length), tasks.build(experiment.task)
    params, accounting = load(body.directory, composed(experiment, body.model, task))
    if new := accounting.new:
        raise UserError(f"{body.directory}: the weights have no {', '.join(new[:3])}; train the model first")
    sized = Sized(dict(body.hf), params)
    return Source(path, bool(folder), experiment, body, task, tables.build(experiment.task), sized)


def composed(experiment: config.Experiment, model: Model, task: Task) -> program.Program:
    """Returns the program of a plain model of any sizes."""
    return program.compose(experiment, model, task, steps=10**9, longest=experiment.data.max_length)


def features(source: Source, split: Split, hf: Mapping[str, Any], folder: Path) -> Features:
    """Returns the tokens of labelled rows, by the tokenizer of a folder."""
    body = Body(folder, dict(hf), models.build(hf, source.experiment.model.dropout))
    found = body.features(split, source.table, dataclasses.replace(source.experiment.data, cache=""))
    return reference.of_rows(found, source.task, Workdir(source.path) if source.of_run else None)


def feed(source: Source, features: Features, composed: program.Program) -> Feed:
    """Returns the batches of all examples, which have one shape."""
    together = source.task.together
    shape = shape_for(features.items(together), source.experiment, composed.row_shards)
    return Feed(features, composed.targets, [shape], composed.batch_sharding, together=together)


def measuring(
    source: Source, split: Split, hf: Mapping[str, Any], folder: Path
) -> Callable[[Params], dict[str, float]]:
    """Returns what measures parameters of one size on labelled rows.

    Args:
      hf: the values of the model's config.json.
      folder: where its tokenizer is.
    """
    made = composed(source.experiment, models.build(dict(hf), source.experiment.model.dropout), source.task)
    read = features(source, split, hf, folder)
    batches = feed(source, read, made)
    step = Compiled(made.eval_step, program.weights(made.state), made.abstract_batch, batches.shapes)

    def measure(params: Params) -> dict[str, float]:
        found = evaluate(step, made.split(params), batches, source.task.outputs)
        return {"loss": found.loss} | source.table.metrics(found.outputs, read, split)

    return measure


def write(
    target: Path,
    source: Source,
    sized: Sized,
    tokenizer: Path,
    files: Mapping[str, Any],
    card: Callable[[record.About], str],
) -> None:
    """Writes a model as a Hugging Face directory.

    Args:
      tokenizer: the folder of its tokenizer.
      files: further files; the value of the first is what became of the model, with `measured_on`.
      card: makes the text of README.md.
    """
    model = models.build(sized.hf)
    published = source.table.published(model, source.experiment.data.max_length)
    measured_on = next(iter(files.values()))["measured_on"]
    about = record.About(
        name=target.name,
        source=source.path,
        measured=f"{measured_on} (validation)" if measured_on else "",
        base=hub_card.front_matter(source.body.directory),
        pipeline=published.pipeline,
        usage=published.usage,
        library=published.library,
        command=command_line(sys.argv),
    )
    further = {**published.files, **files}
    if source.table.words:
        further |= hub.settings_for_words(tokenizer)
    architecture = model.hf_class(source.task.hf_class)
    export.export(target, sized.params, sized.hf, architecture, tokenizer, card(about), files=further)
