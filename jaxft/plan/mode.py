"""What `run.py --mode=plan` does."""

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxft import config, program, sharding, tasks
from jaxft.batch import BatchShape
from jaxft.errors import UserError
from jaxft.flops import train_flops
from jaxft.job import Body, prepare
from jaxft.models import Model, nn
from jaxft.plan import planned, show, topology
from jaxft.plan import search as searching
from jaxft.report import page
from jaxft.tasks import Task


@dataclass(frozen=True)
class Subject:
    """What is planned, on whatever mesh.

    Attributes:
      lengths: of the examples of a batch, in tokens.
      shape: the largest batch shape of the run, with rows that are a multiple of so many.
    """

    experiment: config.Experiment
    model: Model
    task: Task
    lengths: np.ndarray
    shape: Callable[[int], BatchShape]

    def plan(self, experiment: config.Experiment, mesh: Mesh, exact: bool = False) -> dict[str, Any]:
        """What plan.json holds, of this experiment (which may differ in `mesh`, `compute` and `accumulate`)."""
        composed = program.compose(experiment, self.model, self.task, steps=1000, mesh=mesh)
        shape = self.shape(composed.row_shards * experiment.train.accumulate)
        return planned.plan(experiment, composed, shape, self.lengths, experiment.data.cache, exact)


def subject(experiment: config.Experiment, mesh: Mesh) -> Subject:
    """Reads the model's config.json and, where the experiment names data, the lengths of its examples.

    Without data (`config.data.source` is empty) each row is full: one example of `config.data.max_length` tokens.

    Raises:
      UserError: as `jaxft.job.prepare`.
    """
    data, batch = experiment.data, experiment.train.batch_size
    if data.source:
        job = prepare(experiment, mesh=mesh)
        lengths = job.order.lengths[job.order[0]]
        return Subject(job.experiment, job.body.model, job.task, lengths, lambda parts: job.batch_shapes(parts)[-1])
    model = Body.of(experiment.model, data.max_length).model
    full = lambda parts: BatchShape(-(-batch // parts) * parts, data.max_length, 1)  # noqa: E731
    return Subject(experiment, model, tasks.build(experiment.task), np.full(batch, data.max_length), full)


def plan(
    experiment: config.Experiment, name: str, workdir: str = "", *, exact: bool = False, search: bool = False
) -> dict[str, Any]:
    """Plans the experiment for a topology, prints the plan, and writes it into `workdir` if one is given.

    Args:
      exact: compiles as a run does; see `jaxft.plan.build.QUICK`.
      search: also plans other meshes and ways to compute, prints them ranked, and plans the best.

    Raises:
      UserError: the topology, the experiment, the model or the data cannot be used.
    """
    devices = topology.devices(name)
    mesh = sharding.make_mesh(experiment.mesh, devices)
    experiment = config.check(experiment, data=False)
    about = subject(experiment, mesh)
    experiment, ranked = about.experiment, []
    if search:
        ranked = _search(about, name, devices, mesh, exact)
        experiment = ranked[0][0].of(experiment)
        mesh = sharding.make_mesh(experiment.mesh, devices)
    facts = {"topology": name} | about.plan(experiment, mesh, exact)
    facts["experiment"] = config.to_dict(experiment)
    facts["search"] = [one._asdict() | {"flags": one.flags(), "plan": found} for one, found in ranked]
    print(show.text(facts))
    if workdir:
        write(Path(workdir).expanduser(), facts)
    return facts


def _search(
    about: Subject, name: str, devices: list[Any], mesh: Mesh, exact: bool
) -> list[tuple[searching.Setting, dict[str, Any]]]:
    chip = topology.chip(devices[0])
    if chip is None:
        raise UserError(
            f"--plan.search: how fast a {devices[0].device_kind} is, is not known; search for a TPU or a GPU"
        )
    start = searching.setting(about.experiment, dict(mesh.shape))
    spec = nn.flatten(about.task.param_spec(about.model))
    parameters = sum(math.prod(leaf.shape) for leaf in spec.values())
    flops = train_flops(about.model, nn.unflatten(spec))(about.lengths) / len(devices)
    chosen = searching.candidates(len(devices), about.model, parameters, flops, about.shape(1), chip)

    def one(setting: searching.Setting) -> dict[str, Any]:
        experiment = setting.of(about.experiment)
        return about.plan(experiment, sharding.make_mesh(experiment.mesh, devices), exact)

    note = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    ranked = searching.search(start, chosen, one, note)
    print(f"search for {name}\n" + show.ranking(ranked, start) + "\n")
    return ranked


def write(folder: Path, facts: dict[str, Any]) -> None:
    """Writes plan.json and the page report/plan.html, each whole or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    temporary = folder / f".plan.json.{os.getpid()}"
    about = show.head(facts)
    try:
        (folder / "report").mkdir(parents=True, exist_ok=True)
        page.write_tables(folder / "report" / "plan.html", about["plan"], about["verdict"], show.sections(facts))
        temporary.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, folder / "plan.json")
    except OSError as error:
        raise UserError(f"--workdir {folder}: {error.strerror}; choose a folder that can be written") from error
