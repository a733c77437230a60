"""The only training loop: feeds batches to the step, and at intervals logs, evaluates, saves and stops."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxft import config
from jaxft.data.batches import HostBatch
from jaxft.devices import distributed
from jaxft.errors import TrainingError
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.state import State
from jaxft.types import Array, Batch

T = TypeVar("T")

Metrics = Mapping[str, float]


class Preempted(Exception):
    """The run was asked to stop (SIGTERM) and has saved a checkpoint."""


class Interrupted(Exception):
    """An evaluation was given up because the run has to stop; it is made again on resuming."""


@dataclasses.dataclass
class Position:
    """Where a run is, beside its `State`: what a checkpoint keeps for the loop.

    Attributes:
      step: updates tried.
      best_value: what `Course.score` made of validation at `best_step`; -infinity where the metric was not known.
      best_loss: that of validation at `best_step`.
      bad_evals: evaluations since then of which the metric is known.
      validated: metrics of validation at this very step, what they decide (thresholds) among them; empty: there was
        none. So the checkpoint of the best step holds what its predictions are made with.
      finished: no step is left, by number or by early stopping.
      evaluation_due: the evaluation at this step was given up; resuming begins with it.
      seconds, examples, tokens, positions, flops: spent in training steps, and given to them (tokens without padding;
        flops as the loop's `work` counts them).
      waited: seconds of these in which the next batch was not ready yet. The device may have been busy meanwhile.
      pending: metrics of the steps since the last line of the log.
      log_bytes: length of metrics.jsonl.
      seconds_to_first_step: from the start of the process that made the run's first step.
    """

    step: int = 0
    best_value: float = -math.inf
    best_loss: float = math.inf
    best_step: int | None = None
    bad_evals: int = 0
    validated: dict[str, float] = dataclasses.field(default_factory=dict)
    finished: bool = False
    evaluation_due: bool = False
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    positions: int = 0
    flops: float = 0.0
    waited: float = 0.0
    pending: list[dict[str, float]] = dataclasses.field(default_factory=list)
    log_bytes: int = 0
    seconds_to_first_step: float | None = None

    def still_finished(self, steps: int, patience: int) -> bool:
        """Returns whether a run that was finished is so with so many steps, and with that patience."""
        return self.finished and (self.step >= steps or 0 < patience <= self.bad_evals)


class Course(NamedTuple):
    """How a run goes on.

    Attributes:
      options: when to log, to save, and to give up.
      steps: the number of the last one.
      eval_every: steps between two evaluations, and there is one after the last step; 0: never.
      score: what selects the best checkpoint, of the metrics of validation: the larger the better; NaN: not known.
      work: FLOPs of a batch.
      peak: FLOP/s of all devices; None: not known.
    """

    options: config.Train
    steps: int
    eval_every: int
    score: Callable[[Metrics], float]
    work: Callable[[HostBatch], float]
    peak: float | None


class Events(NamedTuple):
    """What the loop calls out.

    Attributes:
      log: writes a line `(step, split, values)`, returns the log's length in bytes.
      evaluate: `(state, stop) -> metrics` of the validation split; raises `Interrupted` once `stop()` says so.
      progress: shows `(step, values)` to a person.
    """

    log: Callable[[int, str, Metrics], int]
    evaluate: Callable[[State, Callable[[], bool]], Metrics]
    progress: Callable[[int, Metrics], None]


def fit(
    train_step: Callable[[State, Batch], tuple[State, Mapping[str, Array]]],
    state: State,
    batches: Iterable[tuple[HostBatch, Batch]],
    position: Position,
    course: Course,
    events: Events,
    checkpoints: Checkpoints,
) -> tuple[State, Position]:
    """Trains from `position` to the last step, or until `patience` evaluations in a row bring nothing better.

    The device is never waited for but to log, and then for the metrics of the interval before the last one.

    Raises:
      TrainingError: too many non-finite steps in a row.
      Preempted: SIGTERM arrived; a checkpoint of this very step has been saved.
    """
    options, steps = course.options, course.steps
    clock = _Clock(position, course.work, course.peak)
    log = _Log(position, clock, options, events)

    with _sigterm(position) as stop:

        def evaluate() -> None:
            values = _unless(stop.now, events.evaluate, state)
            position.evaluation_due = values is None
            if values is not None:
                position.log_bytes = events.log(position.step, "validation", values)
                _select(position, values, course.score)
                position.finished = position.step == steps or 0 < options.patience <= position.bad_evals

        if position.evaluation_due:
            evaluate()
            clock.resume()
        for host, batch in () if position.finished or position.evaluation_due else clock.watch(batches):
            state, metrics = train_step(state, batch)
            position.step += 1
            clock.count(host)
            last, stopping = position.step == steps, stop.after_step()
            log.add(metrics, last)
            evaluating = course.eval_every > 0 and (position.step % course.eval_every == 0 or last)
            if evaluating or stopping or last or (options.save_every and position.step % options.save_every == 0):
                log.settle()
                jax.block_until_ready(state.step)
                clock.pause()
                position.validated = {}
                if evaluating:
                    evaluate()
                elif last:
                    position.finished = True
                checkpoints.save(state, dataclasses.asdict(position), position.best_step)
                clock.resume()
            if stopping or position.finished or position.evaluation_due:
                break
        checkpoints.wait()
        if stop.now():
            raise Preempted(f"stopped by SIGTERM at step {position.step}; the same command resumes")
    return state, position


class _Log:
    """The metrics of steps on their way into the log: fetched from the device an interval after they were asked for."""

    def __init__(self, position: Position, clock: "_Clock", options: config.Train, events: Events):
        self._position, self._clock, self._options, self._events = position, clock, options, events
        self._running: list[Mapping[str, Array]] = []  # this interval's steps, perhaps still being computed
        self._due: _Interval | None = None  # the interval before it, not yet logged

    def add(self, metrics: Mapping[str, Array], last: bool) -> None:
        """Those of one more step; at the end of an interval the one before it is logged."""
        self._running.append(metrics)
        position = self._position
        if position.step % self._options.log_every == 0 or last:
            self._flush()
            found = [*position.pending, *self._running]
            self._due = _Interval(position.step, found, position.examples, position.tokens, position.flops)
            self._running, position.pending = [], []

    def settle(self) -> None:
        """Logs what is due, and leaves the rest in `Position.pending`, for a checkpoint."""
        self._flush()
        self._position.pending += [_floats(m) for m in jax.device_get(self._running)]
        self._running = []

    def _flush(self) -> None:
        if self._due is None:
            return
        due, self._due = self._due, None
        values = _mean(jax.device_get(due.metrics))
        if values["skipped_in_a_row"] >= self._options.max_skipped:
            raise TrainingError(
                f"step {due.step}: the loss was not finite {self._options.max_skipped} times in a row; "
                "the last good checkpoint is kept; try a lower config.optimizer.learning_rate"
            )
        values |= self._clock.speed(due)
        self._position.log_bytes = self._events.log(due.step, "train", values)
        self._events.progress(due.step, values)


def _unless(stop: Callable[[], bool], evaluate: Callable[..., Metrics], state: State) -> Metrics | None:
    try:
        return evaluate(state, stop)
    except Interrupted:
        return None


def _select(position: Position, values: Metrics, score: Callable[[Metrics], float]) -> None:
    """Notes what validation found, and whether this is the best checkpoint so far.

    One of which the metric is known is better than one of which it is not; of two of the latter the loss decides.
    """
    position.validated = dict(values)
    value, loss = score(values), values["loss"]
    known = math.isfinite(value)
    better = value > position.best_value if known else position.best_value == -math.inf and loss < position.best_loss
    if better or position.best_step is None:
        position.best_value, position.best_loss = value if known else -math.inf, loss
        position.best_step, position.bad_evals = position.step, 0
    elif known:
        position.bad_evals += 1


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _mean(found: list[Mapping[str, Any]]) -> dict[str, float]:
    """Of the loss and the gradient norm over the finite steps; the last of the rest."""
    last = _floats(found[-1])
    for name in ("loss", "grad_norm"):
        values = np.asarray([m[name] for m in found], np.float64)
        finite = values[np.isfinite(values)]
        last[name] = float(finite.mean()) if len(finite) else math.nan
    return last


class _Interval(NamedTuple):
    """The steps between two lines of the log: the last one, their metrics, and the run's counts at that point."""

    step: int
    metrics: list[Any]
    examples: int
    tokens: int
    flops: float


class _Clock:
    """The time spent in training steps, evaluation and saving left out."""

    def __init__(self, position: Position, work: Callable[[HostBatch], float], peak: float | None):
        self._position, self._work, self._peak = position, work, peak
        self._since = time.perf_counter()
        self._last = (position.seconds, position.examples, position.tokens, position.flops)

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time that they are waited for counts from the second on, once the pipeline is full."""
        since, waiting = None, iter(batches)
        while (found := next(waiting, None)) is not None:
            if since is not None:
                self._position.waited += time.perf_counter() - since
            yield found
            since = time.perf_counter()

    def count(self, host: HostBatch) -> None:
        self._position.flops += self._work(host)
        self._position.examples += len(host.examples)
        self._position.tokens += host.tokens
        self._position.positions += host.shape.rows * host.shape.length

    def pause(self) -> None:
        now = time.perf_counter()
        self._position.seconds += now - self._since
        self._since = now

    def resume(self) -> None:
        self._since = time.perf_counter()

    def speed(self, interval: _Interval) -> dict[str, float]:
        """Examples, real tokens and FLOPs a second from the arrival of the interval before to that of this one, now."""
        self.pause()
        now = (self._position.seconds, interval.examples, interval.tokens, interval.flops)
        seconds, examples, tokens, flops = (a - b for a, b in zip(now, self._last, strict=True))
        self._last = now
        found = {"examples_per_second": examples / seconds, "real_tokens_per_second": tokens / seconds}
        return found | ({"model_flops_utilization": flops / seconds / self._peak} if self._peak else {})


class _Stop(NamedTuple):
    """Whether SIGTERM has asked the run to stop: `after_step` is asked once after each step, `now` at any time."""

    after_step: Callable[[], bool]
    now: Callable[[], bool]


@contextmanager
def _sigterm(position: Position) -> Iterator[_Stop]:
    """Turns SIGTERM into questions; several processes get the same answers."""
    if jax.process_count() > 1:
        told = distributed.preempted_before(position.step)

        def after_step() -> bool:
            nonlocal told
            told = told or distributed.preempted(position.step)
            return told

        yield _Stop(after_step, lambda: told)
        return
    asked: list[int] = []
    ask = lambda: bool(asked)  # noqa: E731
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    except ValueError:  # not in the main thread: a notebook or a test decides for itself
        yield _Stop(ask, ask)
        return
    try:
        yield _Stop(ask, ask)
    finally:
        signal.signal(signal.SIGTERM, before)
