"""--mode=evaluate and --mode=export: of a run that is there."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft import config, hub
from jaxft.data import rows, sources
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.job import Job, prepare
from jaxft.modes.shared import compiled_evaluation, measure
from jaxft.storage import paths
from jaxft.storage.workdir import Workdir
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
    from jaxft.report import tables

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
        say(tables.metrics_table(results, split, names))
    return results


def _evaluate_file(folder: Workdir, inputs: str) -> dict[str, float]:
    """Measures a file, says what was found, and writes it into the workdir."""
    from jaxft.predict.predictor import Predictor
    from jaxft.report import tables

    file = paths.file_of("--input", inputs)
    experiment = folder.experiment()  # there is one: Predictor would take the directory of a model too
    split = sources.read_input(str(file), experiment.data)
    found = Predictor.open(str(folder)).evaluate(split)
    for line in found.notes:
        say(line)
    results = {f"input/{name}": value for name, value in found.metrics.items()}
    say(f"{file}: {found.rows:,} of {found.read:,} rows")
    say(tables.metrics_table(results, "input", found.classes))
    written = distributed.once(lambda: folder.write_evaluation(file, {"rows": found.rows, **results}))
    say(f"metrics: {written}")
    return results


def export(workdir: str) -> None:
    """Writes `export/` and `adapter/`, as far as the method has them, from the best checkpoint."""
    folder = Workdir(workdir)
    job = prepare(on_these_devices(folder.experiment()))
    best = best_weights(folder, job.program, job.body.directory, checkpoint=True)
    write_export(job, folder, *best, folder.results() or {})
    distributed.once(lambda: folder.publish("export", "adapter"))
    say(f"exported: {folder}/{'export' if job.program.merge else 'adapter'}")


def command_line(argv: list[str]) -> str:
    """Returns what a person types to start a process that has these `sys.argv`."""
    return shlex.join([*STARTED_AS.get(Path(argv[0]).name, ("python", argv[0])), *argv[1:]])


def write_export(
    job: Job,
    folder: Workdir,
    weights: tuple[Params, Params],
    thresholds: Mapping[str, float],
    results: Mapping[str, float],
) -> None:
    from jaxft.hub import export as hf
    from jaxft.hub.card import About, front_matter, model_card

    e = job.experiment
    published = job.table.published(job.body.model, e.data.max_length)
    about = About(
        name=e.name or str(folder).split("/")[-1],
        experiment=config.to_dict(e),
        origins={name: split.origin for name, split in job.splits.items()},
        results=dict(results),
        command=command_line(sys.argv),
        base=front_matter(job.body.directory),
        pipeline=published.pipeline,
        usage=published.usage,
        library=published.library,
    )
    if e.adapt in adapters.TYPES:
        card = model_card(dataclasses.replace(about, adapter=True, **adapters.published(e, job.table.inputs)))
        adapters.write(folder.adapter, e, weights[0], thresholds, card)
        say(f"adapter: {folder}/adapter")
    if job.program.merge is None:
        return  # no Hugging Face model has layers like these
    architecture = job.body.model.hf_class(job.task.hf_class)
    files = {**published.files, **(hub.settings_for_words(job.body.directory) if job.table.words else {})}
    hf_config = settings(job.body.hf, published.settings, thresholds)
    params = job.program.merge(*weights)
    hf.export(folder.export, params, hf_config, architecture, job.body.directory, model_card(about), files=files)


def settings(base: Mapping[str, Any], head: Mapping[str, Any], thresholds: Mapping[str, float]) -> dict[str, Any]:
    """Returns the config.json of an export: the base's, but for what that decided itself, and what the run did."""
    kept = {key: value for key, value in base.items() if key not in ("thresholds", "problem_type")}
    return kept | {**head} | ({"thresholds": dict(thresholds)} if thresholds else {})
