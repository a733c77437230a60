"""What changes the step of training: one file a transform, and this registry of them.

A transform changes the objective, its gradient or the update, and is composed where its strength is above zero alone:
at zero the program is the plain one. docs/objectives.md says what each is for, its formula, its cost, and what it does
not compose with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxft.batch import COPY, UNLABELLED, Target
from jaxft.config import Experiment, Optimizer
from jaxft.models import Model, nn
from jaxft.objectives import average, layers
from jaxft.objectives.adversarial import adversarial, movable
from jaxft.objectives.checks import check, check_unlabelled, strengths
from jaxft.objectives.distill import distilled, taught
from jaxft.objectives.embeddings import Bits, Table
from jaxft.objectives.mixup import mixup
from jaxft.objectives.neftune import neftune
from jaxft.objectives.projection import projecting
from jaxft.objectives.r_drop import r_drop
from jaxft.objectives.sam import sam
from jaxft.objectives.smooth import KINDS, smooth
from jaxft.objectives.states import alike
from jaxft.objectives.uda import counting, uda
from jaxft.tasks import Task
from jaxft.train.gradient import Gradient
from jaxft.train.objective import Objective
from jaxft.train.state import State
from jaxft.train.step import UpdateStep
from jaxft.types import Array, Params


def passes(experiment: Experiment) -> int:
    """Returns how many passes forward and backward a step makes of each example."""
    on, options = strengths(experiment), experiment.objective
    steps = 0 if options.adversarial == "fgm" else options.adversarial_steps
    attacks = steps + (options.adversarial in ("fgm", *KINDS)) if "adversarial" in on else 0
    return (2 if "sam" in on else 1) * (2 if "r_drop" in on else 1) * (1 + attacks)


class Transforms(NamedTuple):
    """Those of the objective and of its gradient that an experiment asks for."""

    experiment: Experiment
    task: Task
    table: Table
    states: layers.States

    @classmethod
    def of(cls, experiment: Experiment, model: Model, task: Task, bits: Bits) -> Transforms:
        """Returns them; `bits` is the generator of noise.

        Raises:
          UserError: as `layers.States.of`.
        """
        words = model.facts.words
        width = nn.flatten(task.param_spec(model))[f"{words}/embedding"].shape[1]
        states = layers.States.of(experiment.objective, strengths(experiment), model)
        return cls(experiment, task, Table(words, width, model.facts.longest, bits), states)

    def objective(self, inner: Objective, given: Mapping[str, Array], rates: Collection[str]) -> Objective:
        """Returns what training makes small: what has no label and a teacher in noise, in what is smooth, in R-Drop.

        What moves embeddings is around it all.

        Args:
          given: the strengths, of the numbers.
          rates: as `check` takes them.

        Raises:
          UserError: as `check` does. Whoever only answers by a run's model does not ask.
        """
        check(self.experiment, self.task, rates)
        if "mixup" in given:
            inner = mixup(given["mixup"])(inner)
        if self.experiment.data.unlabelled:
            inner = counting(inner)
        if "uda" in given:
            inner = uda(given)(inner)
        if "distill" in given:
            inner = distilled(given["distill"], given["temperature"], self.task)(inner)
        if self.states.wanted:
            inner = alike(given, self.states.wanted, self.states.heads)(inner)
        if "neftune" in given:
            inner = neftune(given["neftune"], self.table)(inner)
        kind = self.experiment.objective.adversarial
        if "adversarial" in given and kind in KINDS:
            inner = smooth(self.experiment.objective, given, self.table, self.task)(inner)
        if "r_drop" in given:
            inner = r_drop(given["r_drop"], self.task)(inner)
        return movable(self.table.words)(inner) if "adversarial" in given and kind not in KINDS else inner

    def gradient(self, inner: Gradient, given: Mapping[str, Array]) -> Gradient:
        """Returns its gradient, of a whole batch or of a part of one."""
        if "adversarial" in given and self.experiment.objective.adversarial not in KINDS:
            return adversarial(self.experiment.objective, given, self.table)(inner)
        return inner

    def whole(self, inner: Gradient, given: Mapping[str, Array]) -> Gradient:
        """Returns the gradient of a whole batch, however it is computed."""
        return sam(given["sam"])(inner) if "sam" in given else inner


def unlabelled(experiment: Experiment) -> dict[str, Target]:
    """Returns the arrays that a batch has of texts without labels, by name."""
    names = (UNLABELLED, COPY)[: 2 if copied(experiment) else 1] if experiment.data.unlabelled else ()
    return {name: Target("example", np.float32) for name in names}


def copied(experiment: Experiment) -> bool:
    """Tells whether each text without a label has a copy beside it, in one row of a batch."""
    return "uda" in strengths(experiment)


def begun(state: State, options: Optimizer) -> State:
    """Returns the state before the first step, with the average that is asked for, if any."""
    return average.begun(state) if options.ema or options.swa else state


def update(inner: UpdateStep, options: Optimizer) -> UpdateStep:
    """Returns the update, with the average that is asked for, if any."""
    if options.ema or options.swa:
        return average.averaged(inner, average.exponential if options.ema else average.uniform)
    return inner


def evaluated(trainable: Params, opt_state: Any) -> Params:
    """Returns what is evaluated and exported of what learns: its average where the optimizer keeps one."""
    return opt_state.mean if isinstance(opt_state, average.Averaged) else trainable


__all__ = [
    "Transforms",
    "begun",
    "check",
    "check_unlabelled",
    "copied",
    "evaluated",
    "passes",
    "projecting",
    "strengths",
    "taught",
    "unlabelled",
    "update",
]
