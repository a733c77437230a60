"""--mode=evaluate and --mode=export: of a run that is there."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxft import config, hub, program, tables, tasks
from jaxft.data import rows, sources
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.job import Body, Job, prepare
from jaxft.modes.shared import compiled_evaluation, measure
from jaxft.program import Program
from jaxft.storage import paths
from jaxft.storage.workdir import Workdir
from jaxft.tables import Table
from jaxft.tasks import Task
from jaxft.trained import best_weights, on_these_devices, thresholds
from jaxft.types import Params

STARTED_AS = {"__main__.py": ("python", "-m", "jaxft"), "jaxft": ("jaxft",)}
"""Name of the program in `sys.argv` -> the words that start it; any other is a Python file."""


def evaluate(
    workdir: str | Path, data: Mapping[str, rows.Rows] | None = None, inputs: str | Path = ""
) -> dict[str, float]:
    """Measures the best parameters of a finished or interrupted run on its validation and test splits, or on a file.

    Args:
      data: the rows in memory that it was trained on, where it was; see `jaxft.modes.train`.
      inputs: a labelled file of any format that the run's task reads, instead of the run's own splits. Its metrics are
        also written into `evaluations/` of the workdir.

    Returns:
      `SPLIT/METRIC` -> value; of a file `input/METRIC`.

    Raises:
      UserError: there is no such run or file, or a row or a label of it cannot be used.
    """
    from jaxft.report import tables as shown

    if inputs:
        if data is not None:
            raise UserError("data and inputs are both given; leave one of them out")
        return _evaluate_file(Workdir(workdir), str(inputs))
    folder = Workdir(workdir)
    experiment, given = rows.given(on_these_devices(folder.experiment()), data)
    job = prepare(experiment, given=given)
    weights, _ = best_weights(folder, job.program, job.body.directory)
    step = compiled_evaluation(job)
    results = {}
    for split in (name for name in ("validation", "test") if name in job.features):
        values, found = measure(job, step, split, weights)
        job = dataclasses.replace(job, table=job.table.decide(thresholds(values)))
        results |= {f"{split}/{k}": v for k, v in values.items()}
        names = job.table.plots(found.outputs, job.features[split], job.splits[split]).get("names", ())
        say(shown.metrics_table(results, split, names))
    return results


def _evaluate_file(folder: Workdir, inputs: str) -> dict[str, float]:
    """Measures a file, says what was found, and writes it into the workdir."""
    from jaxft.predict.predictor import Predictor
    from jaxft.report import tables as shown

    file = paths.file_of("--input", inputs)
    experiment = folder.experiment()  # there is one: Predictor would take the directory of a model too
    split = sources.read_input(str(file), experiment.data)
    found = Predictor.open(str(folder)).evaluate(split)
    for line in found.notes:
        say(line)
    results = {f"input/{name}": value for name, value in found.metrics.items()}
    say(f"{file}: {found.rows:,} of {found.read:,} rows")
    say(shown.metrics_table(results, "input", found.classes))
    written = distributed.once(lambda: folder.write_evaluation(file, {"rows": found.rows, **results}))
    say(f"metrics: {written}")
    return results


class Trained(NamedTuple):
    """What an export takes of a run: of its data no more than where they come from, and none once they have gone."""

    experiment: config.Experiment
    body: Body
    task: Task
    table: Table
    program: Program
    origins: Mapping[str, str]

    @classmethod
    def of(cls, job: Job) -> "Trained":
        origins = {name: split.origin for name, split in job.splits.items()}
        return cls(job.experiment, job.body, job.task, job.table, job.program, origins)


def export(workdir: str) -> None:
    """Writes `export/` and `adapter/`, as far as the method has them, from the best checkpoint.

    The workdir holds all that it takes but the pretrained model: the data may be gone.
    """
    folder = Workdir(workdir)
    experiment = config.check(on_these_devices(folder.experiment()))
    body, task = Body.of(experiment.model, experiment.data.max_length), tasks.build(experiment.task)
    composed = program.compose(experiment, body.model, task, steps=10**9)
    distributed.wait_for_all("prepared")
    best = best_weights(folder, composed, body.directory, checkpoint=True)
    trained = Trained(experiment, body, task, tables.build(experiment.task), composed, {})
    write_export(trained, folder, *best, folder.results() or {})
    distributed.once(lambda: folder.publish("export", "adapter"))
    say(f"exported: {folder}/{'export' if composed.merge else 'adapter'}")


def command_line(argv: list[str]) -> str:
    """Returns what a person types to start a process that has these `sys.argv`."""
    return shlex.join([*STARTED_AS.get(Path(argv[0]).name, ("python", argv[0])), *argv[1:]])


def write_export(
    run: Trained,
    folder: Workdir,
    weights: tuple[Params, Params],
    thresholds: Mapping[str, float],
    results: Mapping[str, float],
) -> None:
    from jaxft.hub import export as hf
    from jaxft.hub.card import About, front_matter, model_card

    e = run.experiment
    published = run.table.published(run.body.model, e.data.max_length)
    about = About(
        name=e.name or str(folder).split("/")[-1],
        experiment=config.to_dict(e),
        origins=run.origins,
        results=dict(results),
        command=command_line(sys.argv),
        base=front_matter(run.body.directory),
        pipeline=published.pipeline,
        usage=published.usage,
        library=published.library,
    )
    if e.adapt in adapters.TYPES:
        card = model_card(dataclasses.replace(about, adapter=True, **adapters.published(e, run.table.inputs)))
        adapters.write(folder.adapter, e, weights[0], thresholds, card)
        say(f"adapter: {folder}/adapter")
    if run.program.merge is None:
        return  # no Hugging Face model has layers like these
    architecture = run.body.model.hf_class(run.task.hf_class)
    files = {**published.files, **(hub.settings_for_words(run.body.directory) if run.table.words else {})}
    hf_config = settings(run.body.hf, published.settings, thresholds)
    params = run.program.merge(*weights)
    hf.export(folder.export, params, hf_config, architecture, run.body.directory, model_card(about), files=files)


def settings(base: Mapping[str, Any], head: Mapping[str, Any], thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Returns the config.json of an export: the base's, but for what that decided itself, and what the run did."""
    kept = {key: value for key, value in base.items() if key not in ("thresholds", "problem_type", "windows")}
    return kept | {**head} | ({"thresholds": dict(thresholds)} if thresholds else {})
