"""Which mesh, how much recomputation, how many parts: many settings by arithmetic, the best dozen by compiling."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from jaxft import config
from jaxft.batch import BatchShape
from jaxft.models import Model
from jaxft.plan.topology import Chip

MOST = 12
"""How many settings are compiled."""

EFFICIENCY = 0.5
"""Share of the peak rate that matrix products reach, to weigh them against communication before compiling."""

KEPT = 34
"""Bytes a token and hidden unit that a layer keeps for the backward pass, but for attention."""


class Setting(NamedTuple):
    """What a search may change of an experiment, none of which changes what is learned."""

    data: int
    fsdp: int
    tensor: int
    accumulate: int
    remat: bool
    scan: bool

    def of(self, experiment: config.Experiment) -> config.Experiment:
        """The experiment with this setting."""
        mesh = dataclasses.replace(experiment.mesh, data=self.data, fsdp=self.fsdp, tensor=self.tensor)
        compute = dataclasses.replace(experiment.compute, remat=self.remat, scan=self.scan)
        train = dataclasses.replace(experiment.train, accumulate=self.accumulate)
        return dataclasses.replace(experiment, mesh=mesh, compute=compute, train=train)

    def flags(self) -> str:
        """The same, to paste behind a command."""
        mesh = [f"--config.mesh.{axis}={getattr(self, axis)}" for axis in ("data", "fsdp", "tensor")]
        compute = [f"--config.compute.{key}={str(getattr(self, key)).lower()}" for key in ("remat", "scan")]
        return " ".join([*mesh, *compute, f"--config.train.accumulate={self.accumulate}"])


def setting(experiment: config.Experiment, mesh: dict[str, int]) -> Setting:
    """That of an experiment on this mesh."""
    compute = experiment.compute
    return Setting(**mesh, accumulate=experiment.train.accumulate, remat=compute.remat, scan=compute.scan)


class Rough(NamedTuple):
    """Bytes a device and seconds a step, by arithmetic."""

    bytes: float
    seconds: float


class Work(NamedTuple):
    """What a step has to do.

    Attributes:
      parameters: how many there are.
      flops: of the model, a device and step.
      shape: of the batch.
      scores: attention keeps its probabilities, rather than computing them again in a kernel.
    """

    model: Model
    parameters: int
    flops: float
    shape: BatchShape
    scores: bool = False


def rough(one: Setting, work: Work, chip: Chip) -> Rough:
    """What a setting should need.

    Activations are those of Korthikanti et al. 2022, equations 1 and 2 (with recomputation: the input of each layer,
    and all of one), less what this project's layers compute again; sums over devices are rings over two links.
    """
    facts, shards, shape = work.model.facts, one.data * one.fsdp, work.shape
    layers = len(facts.layers) * facts.repeats
    tokens = shape.rows * shape.length / shards / one.accumulate
    scores = 5 * facts.heads * shape.length if work.scores else 0
    layer = tokens * (KEPT * facts.width + scores) / one.tensor
    kept = tokens * 2 * facts.width * layers + layer if one.remat else layer * layers
    whole = work.parameters / one.tensor
    ring = lambda n: (n - 1) / n  # noqa: E731
    sums = one.accumulate * tokens * 2 * facts.width * layers * (6 if one.remat else 4)
    sent = (
        2 * sums * ring(one.tensor)
        + 2 * whole / one.fsdp * 2 * ring(one.data)
        + one.accumulate * (4 + 2) * whole * ring(one.fsdp)
    )
    arithmetic = work.flops * (4 / 3 if one.remat else 1) / chip.peak / EFFICIENCY
    state = 4 * whole * (3 / one.fsdp + 2 * one.accumulate)  # read and written, and the gradient of each part
    return Rough(
        12 * whole / one.fsdp + 4 * whole / one.fsdp + kept,
        arithmetic + sent / (2 * chip.link) + state / chip.bandwidth,
    )


def settings(devices: int, model: Model, rows: int) -> Iterator[Setting]:
    """Every setting that divides the heads among `tensor` and the rows among the rest."""
    heads = model.facts.heads
    for tensor in (n for n in range(1, min(heads, devices) + 1) if heads % n == 0 and devices % n == 0):
        for fsdp in (n for n in range(1, devices // tensor + 1) if devices // tensor % n == 0):
            data = devices // tensor // fsdp
            for accumulate in (1, 2, 4, 8, 16):
                if rows % (data * fsdp * accumulate) == 0:
                    for remat, scan in ((False, False), (True, False), (True, True)):
                        yield Setting(data, fsdp, tensor, accumulate, remat, scan)


def candidates(devices: int, work: Work, chip: Chip, most: int = MOST) -> list[Setting]:
    """The settings worth compiling: those that may fit, the quickest first, `scan` behind the same without it.

    May: what XLA fuses need not be kept, so that twice the memory is let through; the compiler decides.
    """
    found = {one: rough(one, work, chip) for one in settings(devices, work.model, work.shape.rows)}
    fitting = [one for one in found if found[one].bytes < 2 * chip.memory] or list(found)
    safe = [one for one in fitting if found[one].bytes < chip.memory]
    order = lambda one: (found[one].seconds, one.scan)  # noqa: E731
    bold = sorted(fitting, key=order)[: most // 2]
    return list(dict.fromkeys([*bold, *sorted(safe, key=order)]))[:most]


Ranked = list[tuple[Setting, dict[str, Any]]]
"""Settings and their plans; those that fit come first, the quickest at the top."""


def search(
    start: Setting,
    chosen: Sequence[Setting],
    plan: Callable[[Setting], dict[str, Any]],
    note: Callable[[str], None],
    workers: int = 1,
) -> Ranked:
    """Plans the setting to begin with and the chosen ones.

    Args:
      plan: compiles one.
      note: is told of each.
      workers: how many are planned at a time.
    """
    everything = list(dict.fromkeys([start, *chosen]))
    plans = []
    with ThreadPoolExecutor(workers) as pool:
        for setting, facts in zip(everything, pool.map(plan, everything), strict=True):
            plans.append((setting, facts))
            note(f"{len(plans)} of {len(everything)}: {setting.flags()}")
    return sorted(plans, key=lambda pair: rank(pair[1]))


def confirm(ranked: Ranked, plan: Callable[[Setting], dict[str, Any]], note: Callable[[str], None]) -> Ranked:
    """The same with a best that also fits as `plan` compiles it, in that plan; those that then do not, go back."""
    while ranked[0][1]["memory"]["fits"]:
        setting, rest = ranked[0][0], ranked[1:]
        note(f"as a run compiles it: {setting.flags()}")
        facts = plan(setting)
        if facts["memory"]["fits"]:
            return [(setting, facts), *rest]
        ranked = sorted([(setting, facts), *rest], key=lambda pair: rank(pair[1]))
    return ranked


def rank(facts: dict[str, Any]) -> tuple[int, float]:
    """Sorts plans: those that fit by the time of a step, the others by what they lack, then what does not compile."""
    held = facts["memory"]
    if held["fits"]:
        return 0, facts["estimate"]["step_seconds"]
    return (1, held["short"]) if held["short"] else (2, 0.0)
