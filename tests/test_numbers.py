"""Numbers as data: another value of one runs the same compiled step, and it is the value that counts."""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest
import support
from flax import struct
from runs import bits_equal

from jaxft import config, models
from jaxft.batch import BatchShape
from jaxft.program import Program
from jaxft.train import numbers, optimizer
from jaxft.train.checkpoint import Checkpoints

CASE = support.TASKS["single_label"]
SWEEPS = {
    "learning_rate": ("optimizer", (1e-5, 3e-5, 1e-3)),
    "warmup": ("optimizer", (0.0, 0.1, 5.0)),
    "weight_decay": ("optimizer", (0.01, 0.1, 1.0)),
    "label_smoothing": ("task", (0.1, 0.2, 0.5)),
}
SHAPE = BatchShape(3, 20, 2)


def composed(section: str, **keys: Any) -> Program:
    task, options = CASE.options, config.Optimizer(learning_rate=1e-2, warmup=0.0, schedule="constant")
    if section == "task":
        task = dataclasses.replace(task, **keys)
    else:
        options = dataclasses.replace(options, **keys)
    return support.compose(support.Case(task, {}).task, models.build(support.SMALL, dropout=0.0), optimizer=options)


def text(program: Program) -> str:
    return program.train_step.lower(program.state, program.abstract_batch(SHAPE)).as_text()  # pyright: ignore


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_one_program(name):
    section, values = SWEEPS[name]
    assert len({text(composed(section, **{name: value})) for value in values}) == 1


def test_of_every_length_of_a_run_with_a_budget_of_ranks():
    """AdaLoRA's budget falls between steps that are shares of the run."""
    model = models.build(support.SMALL)
    made = [config.Experiment(task=CASE.options, **support.ADAPTATIONS["adalora"]) for _ in range(2)]
    from jaxft import program

    first, second = (program.compose(e, model, CASE.task, steps) for e, steps in zip(made, (10, 1000), strict=True))
    assert text(first) == text(second)


@pytest.mark.parametrize("name", support.once(SWEEPS, "learning_rate", "label_smoothing"))
def test_the_value_counts(name):
    section, values = SWEEPS[name]
    features = support.random_features(np.random.default_rng(0), CASE, [9, 14, 4, 7], support.SMALL)
    batch, found = support.arrays(support.lay_out(features, CASE.task, 20)), []
    for value in values[1:]:
        program = composed(section, **{name: value})
        state = program.init(support.random_params(CASE.task, program.model, seed=0))
        for _ in range(2):
            state, _ = program.train_step(state, batch)
        found.append(state.trainable["classifier"]["kernel"])
    assert np.abs(found[0] - found[1]).max() > 1e-7


def test_the_optimizer_keeps_the_state_that_it_had():
    """That of optax.adamw, as jaxft 0.1.0 saved it."""
    options = config.Optimizer()
    params = {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}
    for decay in (0.0, 0.01):
        options.weight_decay = decay
        ours = optimizer.make_optimizer(options, optimizer.make_schedule("linear"), lambda path: 0).init(params)
        adamw = optax.adamw(optax.constant_schedule(0.1), weight_decay=decay, mask=optimizer.decayed)
        theirs = optax.chain(optimizer.clip_by_global_norm(1.0), adamw).init(params)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)


class Old(struct.PyTreeNode):
    """`State` of jaxft 0.1.0."""

    step: Any
    trainable: Any
    frozen: Any
    opt_state: Any
    key: Any
    skipped: Any
    skipped_in_a_row: Any


def test_a_checkpoint_of_0_1_0_is_read(tmp_path, monkeypatch):
    program = composed("optimizer")
    state = program.init(support.random_params(CASE.task, program.model, seed=0))
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(Old)}
    old = Checkpoints(tmp_path / "checkpoints", keep=1)
    with monkeypatch.context() as patch:
        patch.setattr("jaxft.train.checkpoint._saved", lambda state: Old(**fields).replace(frozen={}))
        old.save(state, {"step": 3, "best_step": None}, None)
        old.close()
    new = Checkpoints(tmp_path / "checkpoints", keep=1)
    found, position = new.restore(program.state, {}, program.placed_numbers()) or pytest.fail("not read")
    new.close()
    assert bits_equal(found, state) and position["step"] == 3


def test_numbers_are_those_of_the_experiment():
    options = config.Optimizer(learning_rate=0.5, warmup=0.2, weight_decay=0.25)
    *plain, dropout, strengths = numbers.of(options, 40, {"label_smoothing": 0.5}, {"hidden": 0.25}, {"ema": 0.5})
    assert plain == [0.5, 8, 40, 0.25, {"label_smoothing": 0.5}] and strengths == {"ema": 0.5}
    assert dropout["hidden"].threshold == 2**30 and dropout["hidden"].scale == np.float32(4 / 3)
