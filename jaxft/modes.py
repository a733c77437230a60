"""What `run.py --mode=...` does: train, evaluate, predict, export, inspect."""

import dataclasses
import errno
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from jaxft import adapters, config, distributed, fingerprint, flops, paths, pretrained, program, sharding, tasks
from jaxft.batch import BatchShape
from jaxft.data import packing, sources
from jaxft.data.batches import Feed
from jaxft.data.features import Items
from jaxft.errors import UserError
from jaxft.job import Body, Compiled, Job, check_metric, load, prepare
from jaxft.report.progress import Progress
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.evaluate import Evaluated
from jaxft.train.evaluate import evaluate as run_evaluation
from jaxft.train.loop import Events, Interrupted, Position, fit
from jaxft.train.state import State
from jaxft.types import Batch, Params
from jaxft.workdir import Workdir

STARTED = time.time()


def say(text: str) -> None:
    """A line for a person, from one process of the run."""
    if distributed.primary():
        print(text, file=sys.stderr, flush=True)


def train(
    experiment: config.Experiment, workdir: str, *, overwrite: bool = False, loss: program.Loss | None = None
) -> dict[str, float]:
    """Trains, tests and exports; goes on where an earlier call with the same arguments was cut off.

    Args:
      loss: instead of the task's own; see `jaxft.program.Loss`.

    Returns:
      What results.json holds.

    Raises:
      UserError, TrainingError, Preempted.
    """
    from jaxft.report import tables
    from jaxft.report.tensorboard import TensorBoard

    _cache_programs(experiment.data.cache)
    job = prepare(config.check(experiment), loss)
    check_metric(job)
    folder = Workdir(workdir)
    distributed.once(lambda: folder.claim(job.experiment, overwrite))
    if (results := distributed.once(folder.results)) is not None:
        say(f"{folder.path} is finished; for another run choose another --workdir, or start anew by --overwrite")
        return results
    peak = flops.peak_flops(job.program.mesh)
    step = Compiled(job.program.train_step, job.program.state, job.program.abstract_batch, job.shapes)
    state, position, checkpoints = _start(job, folder)
    distributed.once(lambda: folder.truncate_log(position.log_bytes))
    say(tables.summary(_facts(job, folder)))

    evaluations = _evaluations(job)
    metric = job.experiment.train.metric or job.task.metric
    board = TensorBoard(folder.tensorboard, purge_step=position.step + 1)
    writes = distributed.primary()
    with Progress(job.steps, position.step, quiet=not writes) as progress, jax.transfer_guard("disallow"):

        def log(at: int, split: str, values: Mapping[str, float]) -> int:
            if not writes:
                return 0
            board.scalars(at, split, values)
            if split != "train":
                progress.note(
                    f"step {at}  {split}  loss {values['loss']:.4f}  {metric} {values.get(metric, math.nan):.4f}"
                )
            return folder.log(at, split, values)

        def validate(state: State, stop: Callable[[], bool]) -> dict[str, float]:
            return _measure(job, _until(stop, evaluations), "validation", (state.trainable, state.frozen))[0]

        def train_step(state: State, batch: Batch) -> Any:
            result = step(state, batch)
            if position.seconds_to_first_step is None and step.first_step:
                position.seconds_to_first_step = step.first_step - STARTED
            return result

        state, position = fit(
            train_step,
            state,
            job.feed("train").train(job.order, position.step, job.steps),
            position,
            job.experiment.train,
            steps=job.steps,
            eval_every=job.eval_every,
            metric=metric,
            work=job.work(),
            peak=peak,
            events=Events(log, validate, progress.update),
            checkpoints=checkpoints,
        )
    trained = _training(job, position, state, peak)
    results = _finish(job, folder, checkpoints, state, position, trained, evaluations, log)
    board.close()
    checkpoints.close()
    say(f"report: {folder.path}/report/index.html  results: {folder.path}/results.json")
    return results


def _start(job: Job, folder: Workdir) -> tuple[State, Position, Checkpoints]:
    """The newest checkpoint, or the pretrained parameters."""
    frozen, origin = _frozen(job.experiment, job.program)
    checkpoints = Checkpoints(folder.checkpoints, job.experiment.train.keep, say, job.origin | origin)
    if found := checkpoints.restore(job.program.state, frozen):
        state, position = found
        say(f"resuming at step {position['step']} of {job.steps}")
        return state, Position(**position), checkpoints
    params, accounting = load(job.experiment, job.program)
    for line in (*job.notes, *accounting.lines()):
        say(line)
    return job.program.init(params), Position(), checkpoints


def _frozen(experiment: config.Experiment, composed: program.Program) -> tuple[Params, dict[str, str]]:
    """The parameters that do not learn, which no checkpoint holds, and their fingerprint."""
    if not jax.tree.leaves(composed.state.frozen):
        return {}, {}
    frozen = composed.split(load(experiment, composed)[0])[1]
    return frozen, {"frozen": fingerprint.of_params(frozen)}


def _evaluations(job: Job) -> Compiled:
    """The evaluation step, compiled for the shapes that evaluation uses."""
    weights = (job.program.state.trainable, job.program.state.frozen)
    full = [shape for shape in job.shapes if shape.rows == job.shapes[-1].rows]
    return Compiled(job.program.eval_step, weights, job.program.abstract_batch, full)


def _until(stop: Callable[[], bool], step: Any) -> Any:
    """The same step, which raises `Interrupted` once `stop()` says so."""

    def checked(weights: tuple[Params, Params], batch: Batch) -> Any:
        if stop():
            raise Interrupted
        return step(weights, batch)

    return checked


def _measure(job: Job, step: Any, split: str, weights: tuple[Params, Params]) -> tuple[dict[str, float], Evaluated]:
    found = run_evaluation(step, weights, job.feed(split), job.task.outputs)
    data = (job.features[split], job.splits[split])
    # By one process, so that all choose the same best step, whatever the rounding on their machines.
    return distributed.once(lambda: {"loss": found.loss} | job.task.metrics(found.outputs, *data)), found


def _facts(job: Job, folder: Workdir) -> dict[str, str]:
    """What a person wants to know before the first step."""
    count = lambda tree: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree)) / 1e6  # noqa: E731
    learns, still = count(job.program.state.trainable), count(job.program.state.frozen)
    e, mesh = job.experiment, job.program.mesh
    epochs = job.steps / job.order.batches_per_epoch
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in job.features.items())
    devices = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1) or "1 device"
    return {
        "run": f"{e.name or 'unnamed'}  ({folder.path})",
        "model": f"{e.model.path}  {learns + still:.1f}M parameters, {100 * learns / (learns + still):.3g}% learn",
        "data": f"{e.data.source}  {sizes}; {job.features['train'].lengths.mean():.1f} tokens an example",
        "steps": f"{job.steps:,} of {e.train.batch_size} examples ({epochs:.2f} epochs)",
        "shapes": f"{'; '.join(map(str, job.shapes))}; {100 * job.padding():.1f}% padding",
        "devices": f"{devices} ({mesh.devices.flat[0].device_kind}), {e.compute.dtype}",
    }


def _finish(
    job: Job,
    folder: Workdir,
    checkpoints: Checkpoints,
    state: State,
    position: Position,
    trained: Mapping[str, float],
    step: Compiled,
    log: Any,
) -> dict[str, float]:
    """Tests and exports the best checkpoint, writes the report and, last, results.json."""
    from jaxft.report import page, tables

    best = position.step if position.best_step is None else position.best_step
    if best != position.step:
        state, best = checkpoints.best(best, job.program.state, state)
    weights = (state.trainable, state.frozen)
    validated = distributed.once(lambda: _validated(folder, best))
    job = dataclasses.replace(job, task=job.task.decide(_thresholds(validated)))
    results, plots = {f"validation/{k}": v for k, v in validated.items() if k not in ("step", "split")}, {}
    split = next((name for name in ("test", "validation") if name in job.features), "train")
    if split != "train":
        values, found = _measure(job, step, split, weights)
        results |= {f"{split}/{k}": v for k, v in values.items()}
        plots = job.task.plots(found.outputs, job.features[split], job.splits[split])
        if split == "test":
            log(best, split, values)
    results |= {"best_step": best, **trained}
    _export(job, folder, weights, _thresholds(validated), results)
    if distributed.primary():
        page.write(folder.path, config.to_dict(job.experiment), folder.history(), results, plots)
    distributed.once(lambda: folder.write_results(results))
    say(tables.metrics_table(results, split, plots.get("names", ())))
    if "probabilities" in plots:
        from jaxft.metrics import confusion

        matrix = confusion(plots["labels"], plots["probabilities"].argmax(-1), len(plots["names"]))
        say("\n" + tables.confusion_table(matrix, plots["names"]))
    return results


def _validated(folder: Workdir, step: int) -> dict[str, float]:
    """The line of metrics.jsonl that validation at this step left, if there was one."""
    lines = (line for line in folder.history() if (line["step"], line["split"]) == (step, "validation"))
    return next(lines, {})


def _thresholds(validated: Mapping[str, float]) -> dict[str, float]:
    """Those that validation has chosen, by name; see `jaxft.tasks.base.Task.decide`."""
    prefix = "threshold/"
    return {name.removeprefix(prefix): value for name, value in validated.items() if name.startswith(prefix)}


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


def _export(
    job: Job,
    folder: Workdir,
    weights: tuple[Params, Params],
    thresholds: Mapping[str, float],
    results: Mapping[str, float],
) -> None:
    from jaxft import export as hf

    e = job.experiment
    if e.adapt in adapters.TYPES:
        adapters.write(folder.adapter, e, weights[0])
        say(f"adapter: {folder.adapter}")
    if job.program.merge is None:
        return  # no Hugging Face model has layers like these
    command = shlex.join(["python", *sys.argv])
    name, task = e.name or folder.path.name, job.task
    about = {"pipeline": task.pipeline, "usage": task.usage}
    card = hf.model_card(name, config.to_dict(e), dict(results), command, e.model.path, **about)
    architecture = job.body.model.module.HF_NAME + (task.head or "Model")
    files = task.files(job.body.model, e.data.max_length)
    hf_config = job.body.hf | task.hf_config() | ({"thresholds": dict(thresholds)} if thresholds else {})
    params = job.program.merge(*weights)
    hf.export(folder.export, params, hf_config, architecture, job.body.directory, card, files=files)


def evaluate(workdir: str) -> dict[str, float]:
    """Measures the best parameters of a finished or interrupted run on its validation and test splits."""
    from jaxft.report import tables

    folder = Workdir(workdir)
    job = prepare(_on_these_devices(folder.experiment()))
    weights, _ = _weights(folder, job.program)
    step = _evaluations(job)
    results = {}
    for split in (name for name in ("validation", "test") if name in job.features):
        values, found = _measure(job, step, split, weights)
        job = dataclasses.replace(job, task=job.task.decide(_thresholds(values)))
        results |= {f"{split}/{k}": v for k, v in values.items()}
        names = job.task.plots(found.outputs, job.features[split], job.splits[split]).get("names", ())
        say(tables.metrics_table(results, split, names))
    return results


def predict(workdir: str, inputs: str, output: str = "", adapter: str = "") -> None:
    """Writes a JSON line for each example of a text file (a line an example), CSV or JSON lines file.

    Args:
      inputs: the file; its columns are those the run was trained on, labels not needed.
      output: a file, written whole or not at all; empty: standard output.
      adapter: the directory of an adapter, see `jaxft.adapters`, put on the run's base model in place of its own.

    Raises:
      UserError: the file cannot be read or lacks a column, the adapter does not fit, or the output cannot be written.
    """
    folder = Workdir(workdir)
    experiment = _on_these_devices(folder.experiment())
    chosen = Path(adapter).expanduser() if adapter else None
    if chosen:
        experiment = dataclasses.replace(experiment, **adapters.options(chosen))
    task = tasks.build(experiment.task)
    split = _read_inputs(inputs, experiment, task)
    rows = zip(split.table.to_pylist(), _predictions(folder, experiment, task, split, chosen), strict=True)

    def write() -> None:
        with _opened(output) as out:
            for row, answer in rows:
                out.write(json.dumps(row | answer, ensure_ascii=False, default=str) + "\n")

    distributed.once(write)


def _predictions(
    folder: Workdir, experiment: config.Experiment, task: tasks.Task, split: sources.Split, adapter: Path | None
) -> Iterator[dict[str, Any]]:
    body = Body.of(experiment.model if adapter else _source(folder, experiment), experiment.data.max_length)
    split = tasks.read(experiment.task, split, labelled=False)
    composed = program.compose(experiment, body.model, task, steps=10**9)
    features = body.features(split, task, experiment.data, labelled=False)
    items = features.items(task.together)
    shapes = _prediction_shapes(items, experiment, composed.row_shards)
    feed = Feed(features, task.targets, shapes, composed.batch_sharding, together=task.together)
    distributed.wait_for_all("prepared")
    if adapter:
        trainable, frozen = composed.split(load(experiment, composed)[0])
        weights, thresholds = (adapters.read(adapter, composed, trainable), frozen), {}
    else:
        weights, thresholds = _weights(folder, composed)
    abstract = (composed.state.trainable, composed.state.frozen)
    step = Compiled(composed.eval_step, abstract, composed.abstract_batch, shapes)
    found = run_evaluation(step, weights, feed, task.outputs)
    return task.decide(thresholds).predictions(found.outputs, features, split)


def export(workdir: str) -> Path:
    """Writes `export/` and `adapter/`, as far as the method has them, from the best checkpoint; returns one of them."""
    folder = Workdir(workdir)
    job = prepare(_on_these_devices(folder.experiment()))
    _export(job, folder, *_weights(folder, job.program, checkpoint=True), folder.results() or {})
    done = folder.export if job.program.merge else folder.adapter
    say(f"exported: {done}")
    return done


def _on_these_devices(experiment: config.Experiment) -> config.Experiment:
    """The experiment of a run that may have been trained on others: where its mesh does not fit, on a plain one."""
    try:
        sharding.make_mesh(experiment.mesh)
    except UserError:
        return dataclasses.replace(experiment, mesh=config.Mesh())
    return experiment


def inspect(experiment: config.Experiment | None, workdir: str | None, draw: str = "") -> None:
    """Prints where each parameter lives and how much a device holds; of the model it reads config.json alone, no data.

    Args:
      experiment: None: that of the run in `workdir`.
      draw: also draws the parameters whose path this pattern matches.

    Raises:
      UserError: a mesh or rules that do not fit, or a pattern that matches nothing.
    """
    from jaxft.report import tree

    experiment = Workdir(workdir or "").experiment() if experiment is None else config.check(experiment, data=False)
    body = Body.of(experiment.model, experiment.data.max_length)
    task = tasks.build(experiment.task)
    composed = program.compose(experiment, body.model, task, steps=10**9)
    drawn = tree.wanted(composed, draw) if draw else []
    if distributed.primary():
        print(tree.text(composed))
        if "labels" in config.keys(experiment.task) and not task.options.labels:
            print("\nThe head is shown for one label: how many there are config.task.labels says, or the data.")
        tree.draw(drawn)


def _weights(
    folder: Workdir, composed: program.Program, checkpoint: bool = False
) -> tuple[tuple[Params, Params], dict[str, float]]:
    """What learns, and what does not: of the export where there is one and it will do, else of the best checkpoint.

    With them the thresholds that validation has chosen.
    """
    if folder.export.exists() and not checkpoint:
        key, prefix = jax.random.key(0), composed.model.prefix
        places = composed.param_shardings
        params = pretrained.load(folder.export, composed.spec, key=key, base_prefix=prefix, shardings=places)[0]
        return composed.split(params), pretrained.read_config(folder.export).get("thresholds", {})
    empty = UserError(f"{folder.path} holds no checkpoint and no export yet; train first")
    if not folder.checkpoints.is_dir():
        raise empty
    frozen, origin = _frozen(folder.experiment(), composed)
    checkpoints = Checkpoints(folder.checkpoints, None, say, origin)
    if not (found := checkpoints.restore(composed.state, frozen)):
        raise empty
    state, position = found
    best = position["best_step"]
    if best is not None and best != position["step"]:
        state, best = checkpoints.best(best, composed.state, state)
    checkpoints.close()
    return (state.trainable, state.frozen), {} if best is None else _thresholds(_validated(folder, best))


def _source(folder: Workdir, experiment: config.Experiment) -> config.Model:
    """Where config.json and the tokenizer are: in the export, once there is one."""
    return config.Model(path=str(folder.export)) if folder.export.exists() else experiment.model


def _read_inputs(inputs: str, experiment: config.Experiment, task: tasks.Task) -> sources.Split:
    if not Path(inputs).expanduser().is_file():
        raise UserError(f"--input: {paths.missing(inputs)}")
    encoding = sources.encoding_of(inputs, otherwise=experiment.data.encoding)
    if inputs.endswith(".txt"):
        split = sources.read_lines(inputs, task.inputs[0], encoding)
    else:
        data = dataclasses.replace(
            experiment.data, encoding=encoding, source=inputs, train="", validation="", test="", subset=""
        )
        split = sources.read(data)["train"]
    have = split.table.column_names
    for column in task.inputs:
        if column not in have:
            listed = ", ".join(repr(name[:40]) for name in have[:20])
            raise UserError(f"{split.origin} has no column {column!r}, which the run reads; it has {listed}")
    return split


def _prediction_shapes(items: Items, experiment: config.Experiment, parts: int) -> list[BatchShape]:
    """One shape, of about as many items as a training batch."""
    lengths, size = items.lengths, experiment.train.batch_size
    sample = np.sort(lengths)[:: max(len(lengths) // size, 1)][-size:]
    packed = experiment.data.packing != "off"
    return packing.plan(
        [sample],
        longest=int(lengths.max()),
        packing=packed,
        rows_multiple=parts,
        count=1,
        cost=lambda r, n: r * n,
        most=items.most,
    )


@contextmanager
def _opened(output: str) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole at the end or not at all."""
    if not output:
        yield sys.stdout
        return
    file = Path(output).expanduser()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        out = open(temporary, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"--output {file}: {error.strerror}; choose a file that can be written") from error
    try:
        with out:
            yield out
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink()
        raise


def _cache_programs(cache: str) -> None:
    """Keeps compiled programs on disk, so that the second run starts quickly."""
    if cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
