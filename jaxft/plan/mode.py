"""What `run.py --mode=plan` does."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxft import config, objectives, sharding, tables, tasks
from jaxft.batch import BatchShape
from jaxft.devices.flops import train_flops
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.job import Body, prepare
from jaxft.models import nn
from jaxft.plan import apart, planned, show, topology
from jaxft.plan import search as searching
from jaxft.report import page

WORKERS = 4
"""Plans made at the same time, at most: a large model's compiler takes gigabytes."""


@dataclass(frozen=True)
class Subject:
    """What is planned, on whatever mesh.

    Attributes:
      experiment: checked and resolved.
      lengths: of the examples of a batch, in tokens.
      shape: the largest batch shape of the run, with rows that are a multiple of so many.
      assumed: what only data would tell, `config.KEY=VALUE` and the like.
    """

    experiment: config.Experiment
    lengths: np.ndarray
    shape: Callable[[int], BatchShape]
    assumed: tuple[str, ...] = ()

    def shape_on(self, experiment: config.Experiment, devices: Sequence[Any]) -> BatchShape:
        """That of this experiment, which may differ in `mesh`, `compute` and `accumulate`."""
        mesh = sharding.make_mesh(experiment.mesh, devices)
        shards = sharding.row_shards(mesh, sharding.read_rules(experiment.mesh.rules))
        return self.shape(shards * experiment.train.accumulate)


def subject(experiment: config.Experiment, mesh: Mesh) -> Subject:
    """Reads, where the experiment names data, the lengths of its examples.

    Without data (`config.data.source` is empty) each row is full: one example of `config.data.max_length` tokens, or as
    many side by side as a row of the table becomes.

    Raises:
      UserError: as `jaxft.job.prepare`.
    """
    data, batch = experiment.data, experiment.train.batch_size
    if data.source:
        job = prepare(experiment, mesh=mesh)
        features, first = job.features["train"], job.order[0]
        bounds = features.items(job.together).bounds
        lengths = np.concatenate([features.lengths[bounds[item] : bounds[item + 1]] for item in first])
        return Subject(job.experiment, lengths, lambda parts: job.batch_shapes(parts)[-1])
    table = tables.build(experiment.task)
    known, count = table.assume(), table.examples
    full = lambda parts: BatchShape(-(-batch // parts) * parts, count * data.max_length, count)  # noqa: E731
    told = tuple(f"config.task.{key}={value}" for key, value in known.items())
    told += (f"{count} examples a row of the table",) if count > 1 else ()
    experiment = config.check(
        dataclasses.replace(experiment, task=dataclasses.replace(experiment.task, **known)), False
    )
    return Subject(experiment, np.full(batch * count, data.max_length), full, told)


def plan(
    experiment: config.Experiment, name: str, workdir: str = "", *, exact: bool = False, search: bool = False
) -> dict[str, Any]:
    """Plans the experiment for a topology, prints the plan, and writes it into `workdir` if one is given.

    Args:
      exact: compiles as a run does; see `jaxft.plan.build.QUICK`.
      search: also plans other meshes and ways to compute, prints them ranked, and plans the best, as a run compiles it.

    Raises:
      UserError: the topology, the experiment, the model or the data cannot be used.
    """
    devices = topology.devices(name)
    mesh = sharding.make_mesh(experiment.mesh, devices)
    about = subject(adapters.adopted(config.check(experiment, data=False)), mesh)
    facts: dict[str, Any] = {"topology": name, "assumed": about.assumed}
    if search:
        facts |= _search(about, name, devices, mesh)
    else:
        shape = about.shape_on(about.experiment, devices)
        facts |= planned.one(about.experiment, devices, shape, about.lengths, exact)
        facts |= {"experiment": config.to_dict(about.experiment), "search": []}
    print(show.text(facts))
    if workdir:
        write(Path(workdir).expanduser(), facts)
    return facts


def _search(about: Subject, name: str, devices: list[Any], mesh: Mesh) -> dict[str, Any]:
    """The plan of the best setting, with the others."""
    chip = topology.chip(devices[0])
    if chip is None:
        raise UserError(
            f"--plan.search: how fast a {devices[0].device_kind} is, is not known; search for a TPU or a GPU"
        )
    body, task = Body.of(about.experiment.model, about.experiment.data.max_length), tasks.build(about.experiment.task)
    spec = nn.flatten(task.param_spec(body.model))
    work = searching.Work(
        body.model,
        sum(math.prod(leaf.shape) for leaf in spec.values()),
        objectives.passes(about.experiment) * train_flops(body.model, task)(about.lengths) / len(devices),
        about.shape(1),
        scores=about.experiment.compute.attention == "xla",
    )
    # Elsewhere, where that can be: not where devices are held, nor with a task that only this process knows.
    elsewhere = name in topology.names() and type(about.experiment.task).__module__.startswith("jaxft.")

    def plan(setting: searching.Setting, exact: bool = False) -> dict[str, Any]:
        experiment = setting.of(about.experiment)
        shape = about.shape_on(experiment, devices)
        if elsewhere:
            return apart.plan(experiment, name, shape, about.lengths, exact)
        return planned.one(experiment, devices, shape, about.lengths, exact)

    start = searching.setting(about.experiment, dict(mesh.shape))
    note = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    workers = min(os.cpu_count() or 1, WORKERS) if elsewhere else 1
    ranked = searching.search(start, searching.candidates(len(devices), work, chip), plan, note, workers)
    ranked = searching.confirm(ranked, lambda setting: plan(setting, exact=True), note)
    print(f"search for {name}\n" + show.ranking(ranked, start) + "\n")
    best, facts = ranked[0]
    others = [setting._asdict() | {"flags": setting.flags(), "plan": found} for setting, found in ranked]
    return facts | {"experiment": config.to_dict(best.of(about.experiment)), "search": others}


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Writes plan.json and the page report/plan.html, each whole or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    temporary = folder / f".plan.json.{os.getpid()}"
    about = show.head(facts)
    try:
        (folder / "report").mkdir(parents=True, exist_ok=True)
        sections = [(title, page.table((), rows)) for title, rows in show.sections(facts)]
        page.write_sections(folder / "report" / "plan.html", about["plan"], about["verdict"], sections)
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, folder / "plan.json")
    except OSError as error:
        raise UserError(f"--workdir {folder}: {error.strerror}; choose a folder that can be written") from error
