"""The training loop by itself: when it evaluates, saves, logs and stops. Its step here counts, and compiles nothing."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxft import config
from jaxft.batch import BatchShape
from jaxft.data.batches import HostBatch
from jaxft.data.packing import Rows
from jaxft.errors import TrainingError
from jaxft.train import loop, numbers, state
from jaxft.train.checkpoint import Checkpoints

HOST = HostBatch(BatchShape(2, 8, 2), {}, np.arange(3), Rows(*np.zeros((3, 3), np.int64)), tokens=11)
"""A batch of three examples and eleven tokens in two rows of eight positions."""


class Run:
    """A run of the loop on losses and validation losses that are given; what it logged, and where it ended."""

    def __init__(self, folder: Path, losses: Iterable[float], validation: Iterable[float] = (), **options: Any):
        found, self.lines = iter(validation), []
        losses = list(losses)

        def step(at: state.State, _: Any) -> Any:
            loss = losses[int(at.step)]
            bad = 0 if math.isfinite(loss) else int(at.skipped_in_a_row) + 1
            metrics = {"loss": jnp.float32(loss), "grad_norm": jnp.float32(2 * loss)}
            metrics |= {"skipped_in_a_row": jnp.int32(bad)}
            return at.replace(step=at.step + 1, skipped_in_a_row=jnp.int32(bad)), metrics

        def log(number: int, split: str, values: Any) -> int:
            self.lines.append((number, split, dict(values)))
            return len(self.lines)

        every = options.pop("every", 0)
        course = loop.Course(
            config.Train(**options), len(losses), every, lambda values: -values["loss"], lambda host: 5.0, None
        )
        events = loop.Events(log, lambda at, stop: {"loss": next(found)}, lambda number, values: None)
        self.checkpoints = Checkpoints(folder / "checkpoints", 99)
        values = numbers.of(config.Optimizer(), len(losses))
        start = state.init({"w": jnp.zeros(2)}, {}, optax.identity(), values, 0)
        batches = [(HOST, {})] * len(losses)
        self.state, self.position = loop.fit(step, start, batches, loop.Position(), course, events, self.checkpoints)

    def logged(self, split: str) -> dict[int, dict[str, float]]:
        return {number: values for number, name, values in self.lines if name == split}


@pytest.mark.parametrize(("patience", "last"), [(1, 3), (2, 4), (3, 8), (0, 8)])
def test_patience_is_the_evaluations_in_a_row_without_a_better_one(tmp_path, patience, last):
    """The best are the 2nd and then the 5th evaluation: two in between bring nothing better, three after it."""
    run = Run(tmp_path, [1.0] * 8, [5, 3, 4, 3, 1, 2, 2, 2], every=1, patience=patience, log_every=1)
    assert run.position.step == last and run.position.finished
    assert run.position.best_step == (2 if last < 5 else 5)
    assert sorted(run.logged("validation")) == list(range(1, last + 1))


def test_the_log_has_means_over_intervals(tmp_path):
    """Of the loss over the finite steps of each interval of three; the last interval is what is left."""
    run = Run(tmp_path, [1, 2, 6, math.nan, 4, 6, 7], log_every=3, max_skipped=9)
    found = run.logged("train")
    assert {step: values["loss"] for step, values in found.items()} == {3: 3.0, 6: 5.0, 7: 7.0}
    assert {step: values["grad_norm"] for step, values in found.items()} == {3: 6.0, 6: 10.0, 7: 14.0}
    assert [step for step, _, _ in run.lines] == [3, 6, 7]


def test_what_a_run_is_given_is_counted(tmp_path):
    position = Run(tmp_path, [1.0] * 4, log_every=1).position
    assert (position.examples, position.tokens, position.positions, position.flops) == (12, 44, 64, 20.0)
    assert position.step == 4 and position.finished and position.log_bytes == 4 and position.pending == []


@pytest.mark.parametrize(
    ("every", "save_every", "saved", "evaluated"),
    [(0, 0, [7], []), (0, 3, [3, 6, 7], []), (3, 0, [3, 6, 7], [3, 6, 7]), (3, 2, [2, 3, 4, 6, 7], [3, 6, 7])],
)
def test_evaluations_and_checkpoints_are_on_time(tmp_path, every, save_every, saved, evaluated):
    run = Run(tmp_path, [1.0] * 7, [3.0, 2.0, 1.0], every=every, save_every=save_every)
    assert run.checkpoints.steps() == saved and sorted(run.logged("validation")) == evaluated
    assert run.position.best_step == (7 if every else None)


def test_too_many_steps_in_a_row_that_are_not_finite_end_a_run(tmp_path):
    bad = [math.nan] * 3
    with pytest.raises(TrainingError, match="step 4: the loss was not finite 3 times in a row"):
        Run(tmp_path / "a", [1.0, *bad, 1.0], log_every=1, max_skipped=3)
    assert Run(tmp_path / "b", [1.0, *bad, 1.0], log_every=1, max_skipped=4).position.step == 5
