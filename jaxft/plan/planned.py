"""A plan: what one compiled step needs and does, and what it should cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxft import config, objectives, sharding, tasks
from jaxft.batch import BatchShape
from jaxft.devices import flops
from jaxft.job import Body
from jaxft.plan import hlo, topology
from jaxft.plan.build import Built, build, versions
from jaxft.plan.reading import Collective, Work, read
from jaxft.plan.topology import Chip
from jaxft.program import Program, compose


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step by the roofline model (Williams et al. 2009); see `estimate`."""

    compute: float
    memory: float
    communication: float
    exposed: float
    step: float


def estimate(work: Work, chip: Chip, program: Program) -> Estimate:
    """What a step should take.

    Each operation takes the longer of its arithmetic at the peak rate and its memory traffic at full bandwidth, one
    after the other; a collective its bytes in a ring over all links along its axes. A hidden collective costs nothing
    as long as all of them together take no longer than the operations. A bound rather than a forecast: no operation
    reaches the peak, and arithmetic other than matrix products counts nothing.
    """
    flops, moved = work.times.T
    together = float(np.maximum(flops / chip.peak, moved / chip.bandwidth).sum())
    each = [(c, c.wire / _ring(c, chip, program)) for c in work.collectives]
    hidden = sum(seconds for c, seconds in each if c.hidden)
    exposed = sum(seconds for c, seconds in each if not c.hidden) + max(0.0, hidden - together)
    communication = sum(seconds for _, seconds in each)
    return Estimate(work.flops / chip.peak, work.bytes / chip.bandwidth, communication, exposed, together + exposed)


def _ring(collective: Collective, chip: Chip, program: Program) -> float:
    """Bytes/s of a device in a ring along these mesh axes."""
    index = tuple(slice(None) if name in collective.axes else 0 for name in program.mesh.axis_names)
    members = list(np.atleast_1d(program.mesh.devices[index]).flat)
    return topology.bandwidth(chip, members, list(program.mesh.devices.flat))


def state_bytes(program: Program, shape: BatchShape) -> dict[str, int]:
    """Bytes a device of what lives between steps and of the batch, by arithmetic."""
    state, batch = program.state, program.abstract_batch(shape)
    parameters, optimizer = _bytes((state.trainable, state.frozen)), _bytes(state.opt_state)
    counters = _bytes(state) - parameters - optimizer
    return {"parameters": parameters, "optimizer": optimizer, "counters": counters, "batch": _bytes(batch)}


def _bytes(tree: Any) -> int:
    """Of the share of one device."""
    share = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape))  # noqa: E731
    return sum(share(leaf) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def plan(
    experiment: config.Experiment,
    program: Program,
    shape: BatchShape,
    lengths: Sequence[int] | np.ndarray,
    cache: str = "",
    exact: bool = False,
) -> dict[str, Any]:
    """Compiles the step for the program's devices, and returns what plan.json holds.

    Args:
      shape: of the batch.
      lengths: of its examples, in tokens.
      cache, exact: as `jaxft.plan.build.build`.
    """
    lowered = program.train_step.lower(program.state, program.abstract_batch(shape))  # pyright: ignore
    built = build(lowered, program.mesh, cache, exact)
    device = program.mesh.devices.flat[0]
    chip, count = topology.chip(device), flops.train_flops(program.model, program.task)
    facts = {
        "device": device.device_kind,
        "devices": program.mesh.size,
        "mesh": dict(program.mesh.shape),
        "shape": shape._asdict(),
        "examples": len(lengths),
        "tokens": int(np.sum(lengths)),
        "accumulate": experiment.train.accumulate,
        "remat": experiment.compute.remat,
        "dtype": experiment.compute.dtype,
        "versions": versions(),
        "compile_seconds": built.seconds,
        "cached": built.cached,
        "exact": exact,
        "memory": memory(built, state_bytes(program, shape), chip),
        "model_flops": objectives.passes(experiment) * count(np.asarray(lengths)) / program.mesh.size,
    }
    if not built.compiled:
        return facts | {"message": built.message}
    work = read(hlo.parse(built.text), dict(program.mesh.shape))
    facts |= {
        "flops": work.flops,
        "float32_share": work.wide,
        "hbm_bytes": work.bytes,
        "collectives": [c._asdict() for c in work.collectives],
        "largest": [{"bytes": size, "array": array, "source": source} for size, array, source in work.largest],
    }
    return facts | ({"estimate": speed(facts, estimate(work, chip, program), chip)} if chip else {})


def memory(built: Built, held: Mapping[str, int], chip: Chip | None) -> dict[str, Any]:
    """Bytes a device. `needed` is at the step's peak; what does not fit lacks `short`, which is 0 if nobody knows."""
    limit = built.limit or (round(chip.memory) if chip else 0)
    if built.compiled:
        parts = {
            **held,
            "padding": built.arguments - sum(held.values()),
            "outputs": built.outputs - built.aliased,
            "temporaries": built.temporaries,
            "code": built.code,
        }
        needed = sum(parts.values())
    else:
        parts, needed = dict(held), built.needed + ("HLO temporaries" in built.message) * sum(held.values())
    short = max(needed - limit, 0) if limit else 0
    return {**parts, "needed": needed, "limit": limit, "short": short, "fits": built.compiled and not short}


def speed(facts: Mapping[str, Any], seconds: Estimate, chip: Chip) -> dict[str, float]:
    """An estimate in the units that people compare."""
    return {
        "compute_seconds": seconds.compute,
        "memory_seconds": seconds.memory,
        "communication_seconds": seconds.communication,
        "exposed_seconds": seconds.exposed,
        "step_seconds": seconds.step,
        "utilization": facts["model_flops"] / seconds.step / chip.peak,
        "examples_per_second": facts["examples"] / seconds.step,
        "tokens_per_day": facts["tokens"] / seconds.step * 86400,
    }


def one(
    experiment: config.Experiment,
    devices: Sequence[Any],
    shape: BatchShape,
    lengths: Sequence[int] | np.ndarray,
    exact: bool = False,
) -> dict[str, Any]:
    """What plan.json holds of a checked and resolved experiment on these devices, by `plan`."""
    model, task = Body.of(experiment.model, experiment.data.max_length).model, tasks.build(experiment.task)
    mesh = sharding.make_mesh(experiment.mesh, devices)
    composed = compose(experiment, model, task, steps=1000, mesh=mesh, longest=experiment.data.max_length)
    objectives.check(experiment, task, {**model.rates(), **composed.adaptation.rates})
    return plan(experiment, composed, shape, lengths, experiment.data.cache, exact)
