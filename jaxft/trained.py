"""What a run leaves behind: the weights that are its best, its thresholds, its model, and how sure that is."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import jax

from jaxft import config, hub, program, sharding
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.pretrained import load
from jaxft.storage import fingerprint
from jaxft.storage.workdir import Workdir
from jaxft.sure import kept
from jaxft.tables import Table
from jaxft.train.checkpoint import Checkpoints
from jaxft.types import Params


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
    checkpoints, frozen = _to_read(folder, composed, base)
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


def kept_weights(
    folder: Workdir, composed: program.Program, base: Path, origin: Mapping[str, str]
) -> Iterator[tuple[int, tuple[Params, Params]]]:
    """Yields the step of each checkpoint that a run has kept, ascending, and what learned and what did not by then.

    Of what learned it is not the average, where the run keeps one.

    Args:
      base: as of `best_weights`.
      origin: fingerprints that checkpoints must agree with, see `jaxft.train.checkpoint.ORIGINS`.

    Raises:
      UserError: a checkpoint was made from something else.
    """
    if not folder.checkpoints.is_dir():
        return
    checkpoints, frozen = _to_read(folder, composed, base, origin)
    for step, trainable in checkpoints.each(composed.state):
        yield step, (trainable, frozen)
    checkpoints.close()


def _to_read(
    folder: Workdir, composed: program.Program, base: Path, origin: Mapping[str, str] = MappingProxyType({})
) -> tuple[Checkpoints, Params]:
    """The checkpoints of a run, only to be read, and what does not learn, which is in none of them."""
    frozen = {}
    if jax.tree.leaves(composed.state.frozen):
        made = folder.experiment()  # a new head that does not learn is that of its seed
        frozen = composed.split(load(base, composed, made.seed, made.model.head, made.model.reinit)[0])[1]
        origin = {**origin, "frozen": fingerprint.of_params(frozen)}
    return Checkpoints(folder.checkpoints, None, say, origin), frozen


def thresholds(validated: Mapping[str, float]) -> dict[str, float]:
    """Those that validation has chosen, by name; see `jaxft.tables.Table.decide`."""
    prefix = "threshold/"
    return {name.removeprefix(prefix): value for name, value in validated.items() if name.startswith(prefix)}


def calibrated(table: Table, directory: Path, engine: str) -> Table:
    """The table, whose answers are as `--mode=calibrate` has left it in the directory of their model; says so."""
    calibration, lines = kept.read(directory, engine)
    for line in lines:
        say(line)
    return table.calibrated(calibration)


def model_of(folder: Workdir, experiment: config.Experiment) -> config.Model:
    """Where config.json and the tokenizer are: in the export, once there is one."""
    export = folder.exported()
    return config.Model(path=str(export)) if export else experiment.model


def as_computed(folder: Workdir) -> config.Experiment:
    """The experiment of a run whose best weights are to be computed with, on the devices at hand.

    An export holds what training has made of all parameters, in float32, and they are kept so: in the form that frozen
    ones had they would be others.
    """
    experiment = on_these_devices(folder.experiment())
    return with_frozen(experiment, "float32") if folder.exported() else experiment


def with_frozen(experiment: config.Experiment, form: str) -> config.Experiment:
    """The experiment, whose parameters that do not learn are kept in a form."""
    return dataclasses.replace(experiment, compute=dataclasses.replace(experiment.compute, frozen=form))


def on_these_devices(experiment: config.Experiment) -> config.Experiment:
    """The experiment of a run that may have been trained on others: where its mesh does not fit, on a plain one."""
    try:
        sharding.make_mesh(experiment.mesh)
    except UserError:
        return dataclasses.replace(experiment, mesh=config.Mesh())
    return experiment
