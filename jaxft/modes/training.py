"""--mode=train: from an experiment to a finished folder."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

import jaxft
from jaxft import config, objectives, program
from jaxft.data import rows
from jaxft.devices import distributed, flops
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.job import Job, check_metric, prepare
from jaxft.models import nn
from jaxft.modes import extending
from jaxft.modes.exporting import Trained, write_export
from jaxft.modes.shared import began, cache_programs, compiled_evaluation, measure
from jaxft.modes.watching import watched
from jaxft.predict import reference, states, teacher
from jaxft.pretrained import load, load_adapter
from jaxft.report import tables
from jaxft.report.profile import tracing
from jaxft.report.progress import Progress
from jaxft.report.tensorboard import TensorBoard
from jaxft.report.watch import Watch
from jaxft.storage import fingerprint
from jaxft.storage.workdir import Workdir
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.compiled import Compiled
from jaxft.train.loop import Course, Events, Interrupted, Position, fit
from jaxft.train.state import State
from jaxft.trained import thresholds
from jaxft.types import Batch, Params

MORE = (
    "for more steps raise config.train.epochs or steps and give --extend; for another run choose another --workdir, or "
    "start anew by --overwrite"
)


def train(
    experiment: config.Experiment,
    workdir: str | Path,
    *,
    data: Mapping[str, rows.Rows] | None = None,
    overwrite: bool = False,
    extend: bool = False,
    loss: program.Loss | None = None,
    profile: int = 0,
) -> dict[str, float]:
    """Trains, tests and exports; goes on where an earlier call with the same arguments was cut off.

    Args:
      data: rows in memory, dicts of columns and values, a list a split, instead of what `data.source` has.
      overwrite: deletes the run that the workdir holds, and starts anew.
      extend: goes on with the run that the workdir holds, for more steps than it had; see docs/runs.md.
      loss: instead of the task's own; see `jaxft.program.Loss`.
      profile: a trace of so many steps is written into the workdir; see docs/profiling.md.

    Returns:
      What results.json holds.

    Raises:
      UserError, TrainingError, Preempted.
    """
    if extend and overwrite:
        raise UserError("--extend goes on with the run that --overwrite deletes; give one of them")
    started = began.get() or time.time()
    cache_programs(experiment.data.cache)
    job = _prepared(experiment, data, loss)
    folder = Workdir(workdir)
    longer = _claim(job, folder, overwrite, extend)
    if not longer and (results := distributed.once(folder.results)) is not None:
        say(f"{folder} is finished; {MORE}")
        return results
    peak = flops.peak_flops(job.program.mesh)
    step = job.train_step()
    state, position, checkpoints = _start(job, folder, longer)
    if longer:
        say(distributed.once(lambda: extending.begin(folder, job, state, position)))
    distributed.once(lambda: folder.truncate_log(position.log_bytes))
    say(tables.summary(_facts(job, folder)))
    watch = _watched(job, folder, position)
    evaluations = compiled_evaluation(job)
    board = TensorBoard(folder.tensorboard, purge_step=position.step + 1)
    primary = distributed.primary()
    with (
        Progress(job.steps, position.step, quiet=not primary) as progress,
        tracing(folder.profile, profile if primary else 0, step.wait) as traced,
        jax.transfer_guard("disallow"),
    ):
        log = _log(folder, board, progress, job.metric, watch)
        state, position = fit(
            traced(_timed(step, position, started, watch)),
            state,
            job.feed("train").train(job.order, position.step, job.steps),
            position,
            Course(job.experiment.train, job.steps, job.eval_every, job.score, job.work(), peak),
            Events(log, _validation(job, evaluations), progress.update),
            checkpoints,
        )
    trained = _training(job, position, state, peak)
    best, at = checkpoints.best(job.program.state, (state, vars(position)))
    results = _finish(job, folder, program.weights(best), at, trained, evaluations, log)
    board.close()
    checkpoints.close()
    say(f"report: {folder}/report/index.html  results: {folder}/results.json")
    return results


def _prepared(experiment: config.Experiment, data: Mapping[str, rows.Rows] | None, loss: program.Loss | None) -> Job:
    """The job, with what its teachers and its start say; each argument is as in `train`."""
    experiment, given = rows.given(experiment, data)
    job = prepare(states.resolved(adapters.adopted(config.check(experiment))), loss, given=given)
    check_metric(job)
    return reference.referred(teacher.taught(job))


def _claim(job: Job, folder: Workdir, overwrite: bool, extend: bool) -> bool:
    """Makes the folder the job's, or leaves it as it is where it holds a shorter run of it: whether it does."""
    longer = extend and distributed.once(lambda: extending.is_longer(folder, job))
    if not longer:
        distributed.once(lambda: folder.claim(job.experiment, overwrite))
    return longer


def _timed(step: Compiled, position: Position, started: float, watch: Watch) -> Callable[[State, Batch], Any]:
    """The same step, which notes when the first one of the run was done, and each for those who watch."""

    def timed(state: State, batch: Batch) -> Any:
        result = step(state, batch)
        if position.seconds_to_first_step is None and step.first_step:
            position.seconds_to_first_step = step.first_step - started
        watch.note_step()
        return result

    return timed


def _start(job: Job, folder: Workdir, longer: bool) -> tuple[State, Position, Checkpoints]:
    """The newest checkpoint, or the pretrained parameters, with an adapter that the experiment may name.

    Args:
      longer: the job is the folder's run made longer, which must have a checkpoint.
    """
    origin, begun = job.origin, None
    if jax.tree.leaves(job.program.state.frozen):  # what does not learn is in no checkpoint
        begun = _pretrained(job)
        origin |= {"frozen": fingerprint.of_params(begun[0].frozen)}
    publish = folder.publish_progress if distributed.primary() else lambda: None
    earlier = distributed.once(lambda: extending.earlier_origins(folder, job, folder.experiment() if longer else None))
    checkpoints = Checkpoints(folder.checkpoints, job.experiment.train.keep, say, origin, publish, earlier)
    if found := checkpoints.restore(job.program.state, begun[0].frozen if begun else {}, job.program.placed_numbers()):
        state, position = found
        say(f"resuming at step {position['step']} of {job.steps}")
        position = Position(**position)
        position.finished = position.still_finished(job.steps, job.experiment.train.patience)
        return state, position, checkpoints
    if longer:
        raise UserError(f"--extend: {folder} holds no checkpoint to go on from; start anew by --overwrite")
    state, notes = begun or _pretrained(job)
    for line in (*job.notes, *notes):
        say(line)
    if adapter := job.experiment.model.adapter:
        head = job.experiment.model.head
        trainable, notes = load_adapter(Path(adapter).expanduser(), job.program, state.trainable, head)
        for line in notes:
            say(line)
        state = state.replace(trainable=trainable)
    return state, Position(), checkpoints


def _pretrained(job: Job) -> tuple[State, list[str]]:
    """The state before the first step, and what there is to say of the parameters."""
    options = job.experiment.model
    params, accounting = load(job.body.directory, job.program, job.experiment.seed, options.head, options.reinit)
    return job.program.init(params), accounting.lines()


def _watched(job: Job, folder: Workdir, position: Position) -> Watch:
    """What those who watch will be told of the run, which begins or goes on at a position that the loop moves."""
    e, watch = job.experiment, watched.get() or Watch()
    task = next((name for name, kind in config.TASKS.items() if kind is type(e.task)), type(e.task).__name__)
    info = {"run": e.name or str(folder), "model": e.model.path, "task": task, "version": jaxft.__version__}
    watch.begin(info, job.steps, job.order.batches_per_epoch, lambda: position.step)
    return watch


def _log(
    folder: Workdir, board: TensorBoard, progress: Progress, metric: str, watch: Watch
) -> Callable[[int, str, Mapping[str, float]], int]:
    """What logs `(step, split, values)` in every place; returns the length of metrics.jsonl in bytes."""

    def log(at: int, split: str, values: Mapping[str, float]) -> int:
        if not distributed.primary():
            return 0
        board.scalars(at, split, values)
        watch.note(split, values)
        if split != "train":
            progress.note(f"step {at}  {split}  loss {values['loss']:.4f}  {metric} {values.get(metric, math.nan):.4f}")
        return folder.log(at, split, values)

    return log


def _validation(job: Job, step: Compiled) -> Callable[[State, Callable[[], bool]], dict[str, float]]:
    """What measures a state on the validation split, unless it is to stop.

    The first time that the metric which selects the best checkpoint is not known, it says so.
    """
    unknown: list[str] = []

    def validate(state: State, stop: Callable[[], bool]) -> dict[str, float]:
        values = measure(job, _until(stop, step), "validation", program.weights(state))[0]
        if not math.isfinite(job.score(values)) and not unknown:
            unknown.append(job.metric)
            say(f"{job.metric} of validation is not known, as of rows that are all alike; the loss selects meanwhile")
        return values

    return validate


def _until(stop: Callable[[], bool], step: Any) -> Any:
    """The same step, which raises `Interrupted` once `stop()` says so."""

    def checked(weights: tuple[Params, Params], batch: Batch) -> Any:
        if stop():
            raise Interrupted
        return step(weights, batch)

    return checked


def _facts(job: Job, folder: Workdir) -> dict[str, str]:
    """What a person wants to know before the first step."""
    sizes = {path: math.prod(leaf.shape) / 1e6 for path, leaf in nn.flatten(job.program.declared).items()}
    learns = sum(size for path, size in sizes.items() if job.program.adaptation.learns(path))
    e, mesh = job.experiment, job.program.mesh
    epochs, total = job.steps / job.order.batches_per_epoch, sum(sizes.values())
    kept = "" if e.compute.frozen == "float32" else f", the others kept as {e.compute.frozen}"
    splits = ", ".join(f"{len(split):,} {name}" for name, split in job.features.items())
    devices = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "1 device"
    passes = objectives.passes(e)
    each = f", {passes} passes forward and backward each" if passes > 1 else ""
    return {
        "run": f"{e.name or 'unnamed'}  ({folder})",
        "model": f"{e.model.path}  {total:.1f}M parameters, {100 * learns / total:.3g}% learn{kept}",
        "data": f"{e.data.source}  {splits}; {job.features['train'].lengths.mean():.1f} tokens an example",
        "steps": f"{job.steps:,} of {e.train.batch_size} examples ({epochs:.2f} epochs){each}",
        "shapes": f"{'; '.join(map(str, job.shapes))}; {100 * job.padding():.1f}% padding",
        "devices": f"{devices} ({mesh.devices.flat[0].device_kind}), {e.compute.dtype}",
    }


def _finish(
    job: Job,
    folder: Workdir,
    weights: tuple[Params, Params],
    at: Mapping[str, Any],
    trained: Mapping[str, float],
    step: Compiled,
    log: Any,
) -> dict[str, float]:
    """Tests and exports the best checkpoint, writes the report and, last, results.json."""
    from jaxft.report import page

    best, validated = at["step"], at.get("validated", {})
    if not validated and "validation" in job.features:  # as in the checkpoints of jaxft 0.1.0
        validated = measure(job, step, "validation", weights)[0]
    chosen = thresholds(validated)
    job = dataclasses.replace(job, table=job.table.decide(chosen))
    results, plots = {f"validation/{k}": v for k, v in validated.items()}, {}
    split = next((name for name in ("test", "validation") if name in job.features), "train")
    if split != "train":
        values, found = measure(job, step, split, weights)
        results |= {f"{split}/{k}": v for k, v in values.items()}
        plots = job.table.plots(found.outputs, job.features[split], job.splits[split])
        if split == "test":
            log(best, split, values)
    results |= {"best_step": best, **trained}
    write_export(Trained.of(job), folder, weights, chosen, results)
    if distributed.primary():
        page.write(folder.path, config.to_dict(job.experiment), folder.history(), results, plots)
    distributed.once(lambda: folder.write_results(results))
    say(tables.metrics_table(results, split, plots.get("names", ())))
    if "probabilities" in plots:
        from jaxft.metrics.classification import confusion

        matrix = confusion(plots["labels"], plots["probabilities"].argmax(-1), len(plots["names"]))
        say("\n" + tables.confusion_table(matrix, plots["names"]))
    return results


def _training(job: Job, position: Position, state: State, peak: float | None) -> dict[str, float]:
    seconds = max(position.seconds, 1e-9)
    utilization = {"train/model_flops_utilization": position.flops / seconds / peak} if peak else {}
    return utilization | {
        "train/steps": position.step,
        "train/examples_per_second": position.examples / seconds,
        "train/real_tokens_per_second": position.tokens / seconds,
        "train/padding_fraction": 1 - position.tokens / max(position.positions, 1),
        "train/input_wait_fraction": position.waited / seconds,
        "train/seconds": position.seconds,
        "train/seconds_to_first_step": position.seconds_to_first_step or 0.0,
        "train/skipped": int(jax.device_get(state.skipped)),
        "train/compiled_shapes": len(job.shapes),
    }
