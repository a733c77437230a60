"""--extend: more steps of a run that has been trained, from its last checkpoint on.

Batches are those of the longer run: batch i is a function of the seed and i. The learning rate is from there on that of
the longer run's schedule.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxft import config
from jaxft.errors import UserError
from jaxft.job import Job, steps_of
from jaxft.storage import fingerprint
from jaxft.storage.workdir import Workdir
from jaxft.train import numbers
from jaxft.train.loop import Position
from jaxft.train.optimizer import make_schedule
from jaxft.train.state import State


def is_longer(folder: Workdir, job: Job) -> bool:
    """Returns whether the job is the folder's run made longer; False: it is that run as it stands.

    Raises:
      UserError: the folder holds no run, or one that differs in more than its length, or is as long already.
    """
    held, e = folder.experiment(), job.experiment
    different = config.differences(held, e)
    if others := config.beyond_length(different):
        raise UserError(
            f"--extend: {folder} holds a different experiment ({'; '.join(others[:3])}); a run that goes on may differ "
            f"in {', '.join(config.EXTENDABLE)}: bring back the rest, or choose another --workdir"
        )
    if not different:
        return False
    before, patience = steps_of(held.train, job.order), held.train.patience
    more_patience = patience > 0 and (e.train.patience == 0 or e.train.patience > patience)
    stopped = (folder.results() or {}).get("train/steps", 0) < before
    if job.steps < before or (job.steps == before and not (more_patience and stopped)):
        raise _too_short(folder, before, job.steps)
    return True


def earlier_origins(folder: Workdir, job: Job, held: config.Experiment | None = None) -> list[str]:
    """Returns the fingerprints of the job's experiment as it was each time before it was made longer.

    Args:
      held: that of the folder, where it is being made longer now.
    """
    shorter = [dict(zip(config.EXTENDABLE, _length(held), strict=True))] if held else []
    found = []
    for record in [*folder.extensions(), *shorter]:
        length = {key.removeprefix("train."): record[key] for key in config.EXTENDABLE}
        train = dataclasses.replace(job.experiment.train, **length)
        found.append(fingerprint.of_values(config.defining(dataclasses.replace(job.experiment, train=train))))
    return found


def begin(folder: Workdir, job: Job, state: State, position: Position) -> str:
    """Makes the folder's run the longer one, which `position` is in; returns what there is to say of it.

    Raises:
      UserError: no step is left, as patience has ended the run.
    """
    held = folder.experiment()
    before, patience = steps_of(held.train, job.order), job.experiment.train.patience
    if position.step >= job.steps:
        raise _too_short(folder, position.step, job.steps)
    if position.still_finished(job.steps, patience):
        raise UserError(
            f"--extend: {folder} was stopped at step {position.step:,} by config.train.patience {held.train.patience}, "
            f"after {position.bad_evals} evaluations without a better one; raise it, or set it to 0, to go on"
        )
    record = dict(zip(config.EXTENDABLE, _length(held), strict=True)) | {"steps": before, "at": position.step}
    folder.extend(job.experiment, record)
    updates = position.step - int(jax.device_get(state.skipped))
    rate = rates(job.experiment.optimizer, before, job.steps, position.step, updates)
    return f"extended from {before:,} to {job.steps:,} steps; {rate}"


def _too_short(folder: Workdir, before: int, steps: int) -> UserError:
    return UserError(
        f"--extend: {folder} has {before:,} steps, and {steps:,} are asked for; give more by config.train.epochs or "
        "config.train.steps"
    )


def _length(experiment: config.Experiment) -> list[Any]:
    return [getattr(experiment.train, key.removeprefix("train.")) for key in config.EXTENDABLE]


def rates(options: config.Optimizer, before: int, steps: int, step: int, updates: int) -> str:
    """Returns what becomes of the learning rate at a step, after so many updates, where `before` steps become more."""
    schedule = make_schedule(options.schedule)
    old, new = (float(schedule(jnp.int32(updates), numbers.of(options, count))) for count in (before, steps))
    if old == new:
        return f"the learning rate stays {new:.3g}"
    return (
        f"at step {step:,} the learning rate goes from {old:.3g} to {new:.3g}, where the {options.schedule} schedule "
        f"of {steps:,} steps has it"
    )
