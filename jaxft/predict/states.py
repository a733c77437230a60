"""What lies between the layers of a teacher, for examples that a student learns from: computed once, and kept."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxft import config, objectives, program, sharding
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.job import Body, Job
from jaxft.objectives import layers
from jaxft.predict import keeping
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Predictor, run_in
from jaxft.program import Program
from jaxft.trained import model_of

KEY = "config.objective.teacher"

Parts = tuple[tuple[str, int], ...]
"""Parts of layers; see `jaxft.objectives.layers.told`."""


def resolved(experiment: config.Experiment) -> config.Experiment:
    """Returns the experiment, which says how wide states of the teacher are where they are compared.

    Raises:
      UserError: there is no such teacher.
    """
    options = experiment.objective
    asked = {"teacher_width": options.relations, "teacher_hidden": options.hidden}
    unknown = [key for key, weight in asked.items() if weight and not getattr(options, key)]
    if not unknown or len(options.teacher) != 1:
        return experiment
    folder = run_in(options.teacher[0])
    where = model_of(folder, folder.experiment()) if folder else config.Model(path=options.teacher[0])
    model = Body.of(where, 1).model
    widths = {"teacher_width": layers.across(model), "teacher_hidden": model.facts.width}
    read = {key: widths[key] for key in unknown}
    return config.check(dataclasses.replace(experiment, objective=dataclasses.replace(options, **read)))


def outputs(job: Job, split: Split, own: Features) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the states of the teacher of a job by the names of the student's, `query/3`; and its fingerprint.

    Args:
      split: rows, as the job's table has read them.
      own: the examples of the job that they make.

    Returns:
      float32 `[tokens, numbers]`, of these examples.

    Raises:
      UserError: the teacher cannot be opened, has other sizes where they are compared, or reads other tokens.
    """
    experiment = job.experiment
    (path,) = experiment.objective.teacher
    predictor = Predictor.open(path)
    engine = predictor.engine
    assert isinstance(engine, CompiledEngine), "of parameters, as it is opened by default"
    wanted = layers.States.of(experiment.objective, objectives.strengths(experiment), job.body.model)
    _check_sizes(path, wanted, engine, job)
    predictor.table = job.table  # which columns are read, and how far, is the student's to say
    length = dataclasses.replace(predictor.experiment.data, max_length=experiment.data.max_length)
    predictor.experiment = dataclasses.replace(predictor.experiment, data=length)
    theirs = predictor.tokenized(split).features
    same = np.array_equal(theirs.offsets, own.offsets)
    if not (same and np.array_equal(theirs.tokens["input_ids"], own.tokens["input_ids"])):
        raise UserError(
            f"{KEY} {path}: it reads other tokens than the student (another tokenizer or data.truncate), so that "
            "states cannot be compared one by one; take a teacher with the student's tokenizer"
        )
    of = layers.pairs(experiment.objective, layers.depth(job.body.model), layers.depth(engine.model))
    asked = {f"{part}/{layer}": (part, of[layer]) for part, layer in wanted.names}
    parts = tuple(dict.fromkeys(asked.values()))
    room = "-".join(["states", *(f"{part}{layer}" for part, layer in parts)])
    file = keeping.file_of(engine, own, experiment.data.cache, room)
    if file and file.is_file():
        say(f"teacher {path}: its states are kept in {file}")
        with np.load(file) as held:
            found = {f"{part}/{layer}": held[f"{part}/{layer}"] for part, layer in parts}
    else:
        say(f"teacher {path}: its states at {len(own.tokens['input_ids']):,} tokens")
        reads = {name: engine.task.targets[name] for name in engine.task.reads}
        kinds = {f"{part}/{layer}": "token" for part, layer in parts}
        found = engine.collect(engine.function(_states, parts), own, reads, kinds)
        if file:
            keeping.keep(file, found)
    return {name: found[f"{part}/{layer}"] for name, (part, layer) in asked.items()}, (engine.fingerprint,)


def _states(composed: Program, parts: Parts) -> Callable[..., Any]:
    """A jitted function of parameters and inputs that gives parts of layers alone, float32."""

    def states(pair: Any, inputs: Any) -> dict[str, jax.Array]:
        told = composed.told(pair, inputs, parts)
        return {name: told[name].astype("float32") for name in (f"{part}/{layer}" for part, layer in parts)}

    places = jax.tree.map(lambda x: x.sharding, program.weights(composed.state))
    everywhere = sharding.replicated(composed.mesh)
    return jax.jit(states, in_shardings=(places, composed.batch_sharding), out_shardings=everywhere)


def _check_sizes(path: str, wanted: layers.States, engine: CompiledEngine, job: Job) -> None:
    """Makes sure that what is compared number by number, and head by head, is of the same sizes.

    Raises:
      UserError: it is not; or the teacher has tokens of its own among those of a text.
    """
    own, theirs = job.body.model.facts, engine.model.facts
    if engine.composed.adaptation.tokens:
        raise UserError(f"{KEY} {path}: it has virtual tokens among those of a text, whose states the student has not")
    if theirs.longest < job.experiment.data.max_length:
        raise UserError(
            f"config.data.max_length is {job.experiment.data.max_length}, but {KEY} {path} has only {theirs.longest} "
            "positions"
        )
    if "hidden" in wanted.wanted and wanted.hidden != theirs.width:
        raise UserError(
            f"config.objective.teacher_hidden is {wanted.hidden}, but hidden states of {KEY} {path} have "
            f"{theirs.width} numbers; unset it"
        )
    if "attention" in wanted.wanted and own.heads != theirs.heads:
        raise UserError(
            f"config.objective.attention compares heads, of which the teacher has {theirs.heads}, the model "
            f"{own.heads}; use config.objective.relations"
        )
