"""Which transforms of the step compose with each other, with a task and with a method; and how strong each is."""

from __future__ import annotations

from collections.abc import Collection

from jaxft.config import Experiment, SequenceClassification
from jaxft.errors import UserError
from jaxft.objectives.layers import STATES
from jaxft.objectives.smooth import KINDS
from jaxft.tasks import Task


def strengths(experiment: Experiment) -> dict[str, float]:
    """Returns the numbers of the transforms that an experiment asks for, all above zero, by name."""
    update, objective = experiment.optimizer, experiment.objective
    found = {"ema": update.ema, "swa": update.swa, "l2_sp": update.l2_sp}
    found |= {"r_drop": objective.r_drop, "neftune": objective.neftune, "sam": objective.sam}
    found["mixup"] = getattr(experiment.task, "mixup", 0.0)
    if objective.uda:
        found |= {key: getattr(objective, key) for key in ("uda", "uda_confidence", "uda_temperature")}
    if objective.teacher and objective.distill:
        found |= {"distill": objective.distill, "temperature": objective.temperature}
    if objective.teacher:
        found |= {kind: getattr(objective, kind) for kind in STATES}
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
    _check_mixed(experiment, on)
    check_unlabelled(experiment)
    _check_states(experiment)
    if "r_drop" in on and not rates:
        raise UserError(
            "config.objective.r_drop compares two passes with other dropout masks, but no dropout rate is above zero; "
            "set config.model.dropout"
        )
    if "r_drop" in on and type(task).divergence is Task.divergence:
        raise UserError(
            f"config.objective.r_drop compares distributions, but the outputs of {type(task.options).__name__} are none"
        )
    if "adversarial" in on and experiment.objective.adversarial in KINDS and type(task).divergence is Task.divergence:
        raise UserError(
            f"config.objective.adversarial={experiment.objective.adversarial} compares distributions, but the outputs "
            f"of {type(task.options).__name__} are none; use fgm, pgd or freelb"
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
    if experiment.objective.adversarial != "fgm" and "adversarial" in on and "adversarial_step" not in on:
        raise UserError("config.objective.adversarial_step is 0, so that nothing moves; set it above 0")


def _check_mixed(experiment: Experiment, on: Collection[str]) -> None:
    """Makes sure that what compares or mixes the texts of a batch sees them all, and knows what they are.

    Raises:
      UserError: it does not.
    """
    for key, does in (("contrastive", "compares all"), ("mixup", "mixes the")):
        if getattr(experiment.task, key, 0) and experiment.train.accumulate > 1:
            raise UserError(
                f"config.task.{key} {does} texts of a batch, but config.train.accumulate={experiment.train.accumulate} "
                "computes it in parts, which do not see each other; set one of them back"
            )
    if "mixup" not in on:
        return
    if getattr(experiment.task, "contrastive", 0):
        raise UserError("config.task.mixup gives texts two labels, and config.task.contrastive compares one; unset one")
    if getattr(experiment.task, "windows", ""):
        raise UserError("config.task.mixup mixes texts that are one example each, not task.windows; unset one of them")
    for names, why in (
        (["r_drop"], "objective.r_drop compares two passes, which would mix other texts"),
        (["distill", *STATES], "objective.teacher has answered texts, not their mixtures"),
    ):
        if {*names} & {*on}:
            raise UserError(f"config.task.mixup mixes texts, but config.{why}; unset one of them")


def check_unlabelled(experiment: Experiment) -> None:
    """Makes sure that something is learned from texts without labels, and that no label is asked of them.

    Raises:
      UserError: there is not, or one is.
    """
    task, on, given = experiment.task, strengths(experiment), experiment.data.unlabelled
    if "uda" in on and not given:
        raise UserError("config.objective.uda compares texts without labels; name a file of them in data.unlabelled")
    if not given:
        return
    if not {"uda", "distill", *STATES} & {*on}:
        raise UserError(
            "config.data.unlabelled is set, but nothing is learned from texts without labels; set objective.uda or "
            "objective.teacher, or unset it"
        )
    kind = f"{type(task).__name__} {getattr(task, 'problem', '')}".strip()
    if not isinstance(task, SequenceClassification) or task.windows:
        windows = " in windows" if getattr(task, "windows", "") else ""
        raise UserError(
            f"config.data.unlabelled is for SequenceClassification without windows; this is {kind}{windows}"
        )
    if "uda" in on and task.problem != "single_label":
        raise UserError(f"config.objective.uda compares classes, one a text (problem single_label); this is {kind}")
    if task.class_weights or "mixup" in on:
        key = "class_weights (or task.balanced, class_balance)" if task.class_weights else "mixup"
        raise UserError(f"config.task.{key} asks for the label of each text, which those of data.unlabelled lack")


def _check_states(experiment: Experiment) -> None:
    """Makes sure that there is one teacher whose states can be compared, token by token.

    Raises:
      UserError: there is not.
    """
    options = experiment.objective
    for key in (kind for kind in STATES if getattr(options, kind)):
        if len(options.teacher) != 1:
            raise UserError(
                f"config.objective.{key} compares with the states of one teacher, but config.objective.teacher names "
                f"{len(options.teacher) or 'none'}; name one"
            )
        if experiment.adapt == "prompt":
            raise UserError(
                f"config.objective.{key} compares token by token, among which adapt=prompt puts others; unset one of "
                "them"
            )
