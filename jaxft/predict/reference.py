"""What the model that a run begins with says of its answers: computed once, before the first step.

That is the frozen start, and what an adapter computes that adds nothing yet: no second model is held while one learns.
"""

import dataclasses
from pathlib import Path

import numpy as np

from jaxft import config, program
from jaxft.data.features import Features
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.job import Body, Job
from jaxft.predict import keeping
from jaxft.predict.engine import CompiledEngine
from jaxft.pretrained import load, load_adapter
from jaxft.program import Program
from jaxft.storage.workdir import Workdir
from jaxft.tasks import Task
from jaxft.tasks.preference import REFERENCE
from jaxft.trained import on_these_devices, with_frozen


def wanted(task: Task) -> bool:
    """Tells whether the loss of a task compares with the model that a run begins with."""
    return REFERENCE in task.targets


def referred(job: Job, form: str = "") -> Job:
    """Returns the job, whose examples have what its start says of them where its task wants it.

    Args:
      form: how the start's frozen parameters are kept, where it is not as the job's; see `config.Compute`.

    Raises:
      UserError: the start cannot be read; see `jaxft.pretrained.load`.
    """
    if not wanted(job.task):
        return job
    experiment, composed = job.experiment, job.program
    if form and form != experiment.compute.frozen:
        experiment = with_frozen(experiment, form)
        composed = program.compose(
            experiment, job.body.model, job.task, steps=10**9, longest=experiment.data.max_length
        )
    engine = _start(experiment, composed, job.body.directory)
    features = {name: _with(part, engine, job.experiment.data.cache, name) for name, part in job.features.items()}
    return dataclasses.replace(job, features=features)


def of_rows(features: Features, task: Task, run: Workdir | None) -> Features:
    """Returns the same of examples that a trained model is measured on.

    Args:
      run: that made the model, and says what it began with; None: no run has.

    Raises:
      UserError: it is not known what the model began with.
    """
    if not wanted(task):
        return features
    if run is None:
        raise UserError(
            f"config.task.loss is {task.options.loss}, which compares with the model that a run begins with, but this "
            "is a model without its run; measure it by --mode=evaluate --workdir=RUN --input=FILE"
        )
    experiment = on_these_devices(run.experiment())
    body = Body.of(experiment.model, experiment.data.max_length)
    composed = program.compose(experiment, body.model, task, steps=10**9, longest=experiment.data.max_length)
    return _with(features, _start(experiment, composed, body.directory), experiment.data.cache, "given")


def _start(experiment: config.Experiment, composed: Program, directory: Path) -> CompiledEngine:
    """The engine of the model that a run begins with, with an adapter that it may go on from."""
    options = experiment.model
    params, _ = load(directory, composed, experiment.seed, options.head, options.reinit)
    trainable, frozen = composed.split(params)
    if options.adapter:
        trainable, _ = load_adapter(Path(options.adapter).expanduser(), composed, trainable, options.head)
    return CompiledEngine(experiment, composed, (trainable, frozen))


def _with(features: Features, engine: CompiledEngine, cache: str, name: str) -> Features:
    """The features with a column of log probabilities, from the file that keeps them where there is one."""
    file = keeping.file_of(engine, features, cache, "reference")
    if file and file.is_file():
        with np.load(file) as held:
            found = held[REFERENCE]
    else:
        say(f"reference: the model as it begins answers {len(features):,} {name} examples")
        found = engine.compute(features)["log_prob"].astype(np.float32)
        if file:
            keeping.keep(file, {REFERENCE: found})
    return dataclasses.replace(features, examples={**features.examples, REFERENCE: found})
