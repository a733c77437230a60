"""--mode=export: a run as directories and files that other programs read."""

import dataclasses
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxft import config, hub, program, tables, tasks
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError, nearest
from jaxft.hub import adapters
from jaxft.job import Body, Job
from jaxft.out.files import GRAPHS, ONNX
from jaxft.predict.predictor import run_in
from jaxft.program import Program
from jaxft.storage.workdir import Workdir
from jaxft.tables import Table
from jaxft.tasks import Task
from jaxft.trained import best_weights, on_these_devices
from jaxft.types import Params

STARTED_AS = {"__main__.py": ("python", "-m", "jaxft"), "jaxft": ("jaxft",)}
"""Name of the program in `sys.argv` -> the words that start it; any other is a Python file."""

MAX_LOSS = 0.01
"""The metric of an int8 graph may be so much worse."""


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


def export(workdir: str, formats: Sequence[str] = (), inputs: str = "", max_loss: float = MAX_LOSS) -> None:
    """Writes `export/` and `adapter/`, as far as the method has them, from the best checkpoint.

    The workdir holds all that it takes but the pretrained model: the data may be gone.

    Args:
      workdir: of a run; with `formats` also the directory of a trained model.
      formats: what is to be written into the export, one that is there already included; see `FORMATS`.
      inputs: int8 is measured on this labelled file; empty: on the run's validation split.
      max_loss: int8 may make the metric worse by so much.

    Raises:
      UserError: there is no such run, format or model, or it cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--format {name}: there is no such format; {nearest(name, FORMATS)}")
    folder = run_in(workdir)
    if not formats or (folder and not folder.exported()):
        _export_run(folder or Workdir(workdir))
    if inputs and "int8" not in formats:
        raise UserError("--input is what int8 is measured on; add --format=int8, or leave it out")
    if max_loss != MAX_LOSS and "int8" not in formats:
        raise UserError("--max_loss is what int8 may cost; add --format=int8, or leave it out")
    if formats:
        _write_formats(folder, Path(workdir).expanduser(), formats, inputs, max_loss)


def _export_run(folder: Workdir) -> None:
    experiment = config.check(on_these_devices(folder.experiment()))
    body, task = Body.of(experiment.model, experiment.data.max_length), tasks.build(experiment.task)
    composed = program.compose(experiment, body.model, task, steps=10**9)
    distributed.wait_for_all("prepared")
    if (exported := folder.exported()) and (exported / hub.CALIBRATION).exists():
        say(f"{exported / hub.CALIBRATION} goes with the export that is replaced; --mode=calibrate makes it anew")
    best = best_weights(folder, composed, body.directory, checkpoint=True)
    trained = Trained(experiment, body, task, tables.build(experiment.task), composed, {})
    write_export(trained, folder, *best, folder.results() or {})
    distributed.once(lambda: folder.publish("export", "adapter"))
    say(f"exported: {folder}/{'export' if composed.merge else 'adapter'}")


class Target(NamedTuple):
    """Where a format is written, and what it is made of.

    Attributes:
      folder: the run; None: there is none.
      directory: of the trained model, the run's export where there is one.
      inputs, max_loss: as in `export`.
    """

    folder: Workdir | None
    directory: Path
    inputs: str
    max_loss: float

    @property
    def task(self) -> config.Task | None:
        return self.folder.experiment().task if self.folder else None


def _write_formats(
    folder: Workdir | None, directory: Path, formats: Sequence[str], inputs: str, max_loss: float
) -> None:
    """Writes further formats of the model in a run's export, or in a directory."""
    if folder:
        if not (exported := folder.exported()):
            raise UserError(f"{folder} has no export/: no plain model computes what its method does")
        directory = exported
    elif not directory.is_dir():
        raise UserError(
            f"--workdir {directory} is no folder of this machine; give that of a run, or of a trained model"
        )
    target = Target(folder, directory, inputs, max_loss)

    def write() -> None:
        for name in (name for name in FORMATS if name in formats):
            say(f"{name}: {FORMATS[name](target)}")
        if folder:
            folder.publish("export")

    distributed.once(write)


def _onnx(target: Target) -> Path:
    try:
        from jaxft.out import answers, onnx
    except ImportError as error:
        raise _lacking("onnx", error) from error
    made_of = answers.of_directory(target.directory, target.task)
    return onnx.write(target.directory, *made_of, hub.digest(target.directory))


def _int8(target: Target) -> Path:
    try:
        from jaxft.modes import quantizing
        from jaxft.out.runtime import is_of_weights
    except ImportError as error:
        raise _lacking("int8", error) from error
    file = target.directory / ONNX / GRAPHS["onnx"]
    if not (file.is_file() and is_of_weights(file, target.directory)):
        say(f"onnx: {_onnx(target)}")
    path = target.folder or target.directory
    return quantizing.write(target.folder, str(path), target.inputs, target.max_loss)


def _lacking(name: str, error: ImportError) -> UserError:
    return UserError(f"--format={name}: {error.name} is not installed; try: pip install 'jaxft[onnx]'")


def _stablehlo(target: Target) -> Path:
    from jaxft.out import answers, stablehlo

    return stablehlo.write(target.directory, *answers.of_directory(target.directory, target.task))


FORMATS = {"onnx": _onnx, "int8": _int8, "stablehlo": _stablehlo}
"""Name of a format -> what writes it into a model's directory, and says where; int8 is made of onnx, which comes first.
"""


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
