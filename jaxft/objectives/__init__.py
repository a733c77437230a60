"""What changes the step of training: one file a transform, and this registry of them.

A transform changes the objective, its gradient or the update, and is composed where its strength is above zero alone:
at zero the program is the plain one. docs/objectives.md says what each is for, its formula, its cost, and what it does
not compose with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import optax

from jaxft.config import Experiment, Optimizer
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.objectives.adversarial import adversarial, movable
from jaxft.objectives.average import Averaged, averaged, exponential, uniform
from jaxft.objectives.distill import distilled, taught
from jaxft.objectives.embeddings import Bits, Table
from jaxft.objectives.neftune import neftune
from jaxft.objectives.r_drop import r_drop
from jaxft.objectives.sam import sam
from jaxft.tasks import Task
from jaxft.train.gradient import Gradient
from jaxft.train.objective import Objective
from jaxft.types import Array, Params


def strengths(experiment: Experiment) -> dict[str, float]:
    """Returns the numbers of the transforms that an experiment asks for, all above zero, by name."""
    update, objective = experiment.optimizer, experiment.objective
    found = {"ema": update.ema, "swa": update.swa, "l2_sp": update.l2_sp}
    found |= {"r_drop": objective.r_drop, "neftune": objective.neftune, "sam": objective.sam}
    if objective.teacher and objective.distill:
        found |= {"distill": objective.distill, "temperature": objective.temperature}
    if objective.adversarial and objective.adversarial_weight and objective.adversarial_radius:
        found |= {"adversarial": objective.adversarial_weight, "adversarial_radius": objective.adversarial_radius}
        if objective.adversarial != "fgm":
            found["adversarial_step"] = objective.adversarial_step
    return {name: value for name, value in found.items() if value}


def check(experiment: Experiment, task: Task, rates: Collection[str]) -> None:
    """Makes sure that the transforms compose with each other, with the task and with the method.

    Args:
      rates: names of the dropout rates above zero.

    Raises:
      UserError: saying what does not, and why.
    """
    on, method = strengths(experiment), experiment.adapt
    if "ema" in on and "swa" in on:
        raise UserError(
            "config.optimizer.ema and config.optimizer.swa are both set, but one average is evaluated and exported; "
            "unset one of them"
        )
    if "l2_sp" in on and method not in ("full", "mixout", "freeze"):
        raise UserError(
            f"config.optimizer.l2_sp draws pretrained matrices back to where they began, but with adapt={method} none "
            "learns; unset it"
        )
    if "r_drop" in on and not rates:
        raise UserError(
            "config.objective.r_drop compares two passes with other dropout masks, but no dropout rate is above zero; "
            "set config.model.dropout"
        )
    if "r_drop" in on and type(task).divergence is Task.divergence:
        raise UserError(
            f"config.objective.r_drop compares distributions, but the outputs of {type(task.options).__name__} are none"
        )
    if "distill" in on and type(task).divergence is Task.divergence:
        raise UserError(
            f"config.objective.teacher is set, but the outputs of {type(task.options).__name__} are no distributions, "
            "which could be compared with its; unset it"
        )
    if "distill" in on and method == "prompt" and "token" in task.outputs.values():
        raise UserError(
            "config.objective.teacher says something of each token, among which adapt=prompt puts others; unset one of "
            "them"
        )
    moved = [name for name in ("neftune", "adversarial") if name in on]
    if moved and method == "prompt":
        raise UserError(
            f"config.objective.{moved[0]} changes the embeddings of an example's own tokens, which adapt=prompt puts "
            "others between; unset one of them"
        )
    if experiment.objective.adversarial in ("pgd", "freelb") and "adversarial" in on and "adversarial_step" not in on:
        raise UserError("config.objective.adversarial_step is 0, so that nothing moves; set it above 0")


def passes(experiment: Experiment) -> int:
    """Returns how many passes forward and backward a step makes of each example."""
    on, options = strengths(experiment), experiment.objective
    attacks = 0 if "adversarial" not in on else 1 if options.adversarial == "fgm" else options.adversarial_steps
    return (2 if "sam" in on else 1) * (2 if "r_drop" in on else 1) * (1 + attacks)


class Transforms(NamedTuple):
    """Those of the objective and of its gradient that an experiment asks for."""

    experiment: Experiment
    task: Task
    table: Table

    @classmethod
    def of(cls, experiment: Experiment, model: Model, task: Task, bits: Bits) -> Transforms:
        """Returns them; `bits` is the generator of noise."""
        words = model.facts.words
        width = nn.flatten(task.param_spec(model))[f"{words}/embedding"].shape[1]
        return cls(experiment, task, Table(words, width, model.facts.longest, bits))

    def objective(self, inner: Objective, given: Mapping[str, Array], rates: Collection[str]) -> Objective:
        """Returns what training makes small: a teacher within noise, noise within R-Drop, R-Drop within what moves.

        Args:
          given: the strengths, of the numbers.
          rates: as `check` takes them.

        Raises:
          UserError: as `check` does. Whoever only answers by a run's model does not ask.
        """
        check(self.experiment, self.task, rates)
        if "distill" in given:
            inner = distilled(given["distill"], given["temperature"], self.task)(inner)
        if "neftune" in given:
            inner = neftune(given["neftune"], self.table)(inner)
        if "r_drop" in given:
            inner = r_drop(given["r_drop"], self.task)(inner)
        return movable(self.table.words)(inner) if "adversarial" in given else inner

    def gradient(self, inner: Gradient, given: Mapping[str, Array]) -> Gradient:
        """Returns its gradient, of a whole batch or of a part of one."""
        if "adversarial" in given:
            return adversarial(self.experiment.objective, given, self.table)(inner)
        return inner

    def whole(self, inner: Gradient, given: Mapping[str, Array]) -> Gradient:
        """Returns the gradient of a whole batch, however it is computed."""
        return sam(given["sam"])(inner) if "sam" in given else inner


def optimizer(inner: optax.GradientTransformation, options: Optimizer) -> optax.GradientTransformation:
    """Returns the optimizer with the average that is asked for, if any."""
    if options.ema or options.swa:
        return averaged(inner, exponential if options.ema else uniform)
    return inner


def evaluated(trainable: Params, opt_state: Any) -> Params:
    """Returns what is evaluated and exported of what learns: its average where the optimizer keeps one."""
    return opt_state.mean if isinstance(opt_state, Averaged) else trainable


__all__ = ["Transforms", "check", "evaluated", "optimizer", "passes", "strengths", "taught"]
