"""What the modes have in common: a run's parameters, thresholds and evaluation."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxft import config, hub, program, sharding
from jaxft.devices import distributed
from jaxft.errors import UserError
from jaxft.job import Job, load
from jaxft.storage import fingerprint
from jaxft.storage.workdir import Workdir
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.compiled import Compiled
from jaxft.train.evaluate import Evaluated
from jaxft.train.evaluate import evaluate as run_evaluation
from jaxft.types import Params


def say(text: str) -> None:
    """A line for a person, from one process of the run."""
    if distributed.primary():
        print(text, file=sys.stderr, flush=True)


def cache_programs(cache: str) -> None:
    """Keeps compiled programs on disk, so that the second run starts quickly."""
    if cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def on_these_devices(experiment: config.Experiment) -> config.Experiment:
    """The experiment of a run that may have been trained on others: where its mesh does not fit, on a plain one."""
    try:
        sharding.make_mesh(experiment.mesh)
    except UserError:
        return dataclasses.replace(experiment, mesh=config.Mesh())
    return experiment


def compiled_evaluation(job: Job) -> Compiled:
    """The evaluation step, compiled for the shapes that evaluation uses."""
    weights = program.weights(job.program.state)
    full = [shape for shape in job.shapes if shape.rows == job.shapes[-1].rows]
    return Compiled(job.program.eval_step, weights, job.program.abstract_batch, full)


def measure(job: Job, step: Any, split: str, weights: tuple[Params, Params]) -> tuple[dict[str, float], Evaluated]:
    found = run_evaluation(step, weights, job.feed(split), job.task.outputs)
    data = (job.features[split], job.splits[split])
    # By one process, so that all choose the same best step, whatever the rounding on their machines.
    return distributed.once(lambda: {"loss": found.loss} | job.table.metrics(found.outputs, *data)), found


def best_weights(
    folder: Workdir, composed: program.Program, base: Path, checkpoint: bool = False
) -> tuple[tuple[Params, Params], dict[str, float]]:
    """What learns, and what does not: of the export where there is one and it will do, else of the best checkpoint.

    With them the thresholds that validation has chosen.

    Args:
      base: the directory of the pretrained model. What does not learn is in no checkpoint.
      checkpoint: whether an export will not do.

    Raises:
      UserError: there is neither, or a checkpoint was made from something else, or does not hold the thresholds.
    """
    if not checkpoint and (export := folder.exported()):
        key, prefix = jax.random.key(0), composed.model.prefix
        places = composed.param_shardings
        params = hub.load_parameters(export, composed.spec, key=key, base_prefix=prefix, shardings=places)[0]
        return composed.split(params), hub.read_config(export).get("thresholds", {})
    empty = UserError(f"{folder} holds no checkpoint and no export yet; train first")
    if not folder.checkpoints.is_dir():
        raise empty
    frozen, origin = {}, {}
    if jax.tree.leaves(composed.state.frozen):
        made = folder.experiment()  # a new head that does not learn is that of its seed
        frozen = composed.split(load(base, composed, made.seed, made.model.head)[0])[1]
        origin = {"frozen": fingerprint.of_params(frozen)}
    checkpoints = Checkpoints(folder.checkpoints, None, say, origin)
    if not (found := checkpoints.restore(composed.state, frozen, composed.placed_numbers())):
        raise empty
    state, position = checkpoints.best(composed.state, found)
    checkpoints.close()
    if "validated" not in position:
        raise UserError(
            f"{folder}: its checkpoints, of jaxft 0.1.0, do not hold the thresholds of validation; start the command "
            "that trains it again: it measures them and exports"
        )
    return program.weights(state), thresholds(position["validated"])


def model_of(folder: Workdir, experiment: config.Experiment) -> config.Model:
    """Where config.json and the tokenizer are: in the export, once there is one."""
    export = folder.exported()
    return config.Model(path=str(export)) if export else experiment.model


def thresholds(validated: Mapping[str, float]) -> dict[str, float]:
    """Those that validation has chosen, by name; see `jaxft.tables.Table.decide`."""
    prefix = "threshold/"
    return {name.removeprefix(prefix): value for name, value in validated.items() if name.startswith(prefix)}
