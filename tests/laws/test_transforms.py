"""Law 8: a transform at strength zero changes nothing, bit for bit; and laws 2 to 4 for each at its strength."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import pytest
import support
from runs import bits_equal, experiment, on_eight_devices

from jaxft import config, models, modes, program, tasks
from jaxft.batch import BatchShape
from jaxft.data.batches import HostBatch
from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.job import load, prepare
from jaxft.models import nn
from jaxft.plan.planned import state_bytes
from jaxft.program import Program
from jaxft.train import optimizer
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.state import State
from jaxft.types import Params

CASE = support.TASKS["single_label"]
MODEL = models.build(support.SMALL, dropout=0.2)
SHAPE = BatchShape(4, 24, 3)


def composed(keys: Mapping[str, Any], case: support.Case = CASE, parts: program.Parts = program.DEFAULTS) -> Program:
    """The program of ten steps of an experiment with these keys, `SECTION.KEY`."""
    options = config.Optimizer(learning_rate=1e-2, warmup=0.0)
    experiment = config.Experiment(task=dataclasses.replace(case.options), optimizer=options)
    support.set_keys(experiment, keys)
    return program.compose(experiment, MODEL, tasks.build(experiment.task), steps=10, parts=parts)


@functools.cache
def of_transform(name: str) -> Program:
    return composed(TRAINED[name])


@functools.cache
def batches() -> tuple[Features, HostBatch, HostBatch]:
    """Examples, and the batch of them packed and padded."""
    features = support.random_features(np.random.default_rng(0), CASE, [9, 24, 4, 7], support.SMALL)
    packed, padded = (support.lay_out(features, CASE.task, 24, slots, SHAPE) for slots in (0, 1))
    return features, packed, padded


@functools.cache
def params() -> Params:
    return support.random_params(CASE.task, MODEL, seed=0)


def trained(of: Program, steps: int = 3) -> list[State]:
    """The state after each of so many steps on one batch."""
    state, found = of.init(support.copy(params())), []
    for _ in range(steps):
        state, _ = of.train_step(state, support.arrays(batches()[1]))
        found.append(support.copy(state))
    return found


@functools.cache
def plain() -> list[State]:
    return trained(composed({}))


def text(of: Program) -> str:
    """The training step before it is compiled."""
    return of.train_step.lower(of.state, of.abstract_batch(SHAPE)).as_text()  # pyright: ignore


@functools.cache
def plain_text() -> str:
    return text(composed({}))


AVERAGES = {"ema": {"optimizer.ema": 0.6}, "swa": {"optimizer.swa": 0.3}}
"""Of the ten steps that `support.compose` makes a run of, SWA takes the last three."""

LOSSES = {
    "focal": {"task.focal": 2.0},
    "generalized": {"task.generalized": 0.7},
    "symmetric": {"task.symmetric": 0.5},
}

ON = AVERAGES | LOSSES
"""Transforms at a strength."""

OPTIMIZERS = {name: {"optimizer.name": name} for name in optimizer.OPTIMIZERS if name != "adamw"}
SCHEDULED = {"muon, restarts, ema": {"optimizer.name": "muon", "optimizer.schedule": "restarts", "optimizer.ema": 0.6}}

TRAINED = ON | OPTIMIZERS | SCHEDULED
"""What the laws of a run are tested on."""


@pytest.mark.parametrize("name", support.once(ON, "ema", "focal"))
def test_at_strength_zero_the_program_is_the_plain_one(name: str):
    """Law 8: what else a transform is told makes no difference then."""
    off = {key: 0.0 if isinstance(value, float) else value for key, value in ON[name].items()}
    assert text(composed(off)) == plain_text() != text(composed(ON[name]))


@pytest.mark.parametrize("name", support.once(TRAINED, "ema", "muon, restarts, ema"))
def test_resuming_is_exact(name: str, tmp_path):
    """Law 4: four steps, or two, a checkpoint and two."""
    of = of_transform(name)
    steps = trained(of, 4)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(steps[1], {"step": 2, "best_step": None}, None)
    checkpoints.wait()
    restored = checkpoints.restore(of.state, {}, of.placed_numbers())
    checkpoints.close()
    assert restored
    state, _ = restored
    for _ in range(2):
        state, _ = of.train_step(state, support.arrays(batches()[1]))
    assert bits_equal(state, steps[-1])


@pytest.mark.parametrize("name", support.once(AVERAGES, *AVERAGES))
def test_an_average_is_that_of_the_parameters_after_each_step(name: str):
    """By optax, and by hand; the parameters themselves are trained as without it."""
    of = of_transform(name)
    steps = trained(of, 10)
    assert bits_equal([s.trainable for s in steps[:3]], [s.trainable for s in plain()])
    visited = [nn.flatten(jax.tree.map(np.asarray, state.trainable)) for state in steps]
    if name == "ema":
        ema = optax.ema(0.6, debias=True)
        memory = ema.init(steps[0].trainable)
        for state in steps:
            mean: Any
            mean, memory = ema.update(state.trainable, memory)
            support.assert_close(nn.flatten(program.weights(state)[0]), nn.flatten(mean), 1e-6)
    else:
        for state, last in zip(steps, visited, strict=True):
            first = max(min(int(state.step) - 1, 7), 0)
            wanted = {path: np.mean([v[path] for v in visited[first : int(state.step)]], axis=0) for path in last}
            support.assert_close(nn.flatten(program.weights(state)[0]), wanted, 1e-6)


def test_an_average_costs_one_copy_of_what_learns():
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    state, plain_state = composed(AVERAGES["ema"]).state, composed({}).state
    assert size(state.opt_state) == size(plain_state.opt_state) + size(plain_state.trainable) + 4


COPIES = {"adamw": 2, "lion": 1, "lamb": 2, "sgd": 1, "muon": (1, 2), "adafactor": (0, 1)}
"""Of what learns, in the optimizer's state."""


@pytest.mark.parametrize("name", COPIES)
def test_the_plan_counts_the_state_of_an_optimizer(name: str):
    of = composed({"optimizer.name": name})
    found = state_bytes(of, SHAPE)
    low, high = np.broadcast_to(COPIES[name], 2) * found["parameters"]
    assert low <= found["optimizer"] <= high + 64 + 4 * len(jax.tree.leaves(of.state.opt_state))
    assert found["optimizer"] < 2 * found["parameters"] or name in ("adamw", "lamb")


def test_factored_moments_lie_on_every_device():
    """Of AdaFactor: rows and columns are of other shapes than the matrix that they are of."""
    wide = models.build(support.SMALL | {"hidden_size": 128, "intermediate_size": 160})
    options = config.Experiment(task=CASE.options, optimizer=config.Optimizer(name="adafactor"))
    state = program.compose(options, wide, CASE.task, steps=10).state
    moments = state.opt_state[1][0][0]
    path = "bert/encoder/layer/0/intermediate/dense/kernel"
    sizes = [nn.flatten(tree)[path].shape for tree in (moments.v_row, moments.v_col, moments.v)]
    assert sizes == [(128,), (160,), (1,)]
    assert nn.flatten(moments.v_row)[path].sharding.is_fully_replicated


@pytest.mark.matrix
def test_a_run_exports_its_average(tiny_model, cache, tmp_path):
    asked = experiment(tiny_model, cache, optimizer={"ema": 0.8})
    modes.train(asked, str(tmp_path / "run"))
    job = prepare(config.check(asked))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=None)
    last = checkpoints.restore(job.program.state, {}, job.program.placed_numbers()) or pytest.fail("not read")
    state, _ = checkpoints.best(job.program.state, last)
    checkpoints.close()
    exported = load(tmp_path / "run" / "export", job.program)[0]
    assert bits_equal(exported, state.opt_state.mean) and not bits_equal(exported, state.trainable)


@pytest.mark.matrix
def test_a_mesh_changes_nothing():
    """Law 3: five steps on one device and on eight, with dropout."""
    for name, runs in on_eight_devices("transforms", json.dumps(TRAINED)).items():
        alone = np.asarray(runs["1"])
        assert len(set(alone)) == 5
        np.testing.assert_allclose(runs["2 x 2 x 2"], alone, rtol=1e-5, err_msg=name)


REFUSED = {
    "two averages": ({"optimizer.ema": 0.9, "optimizer.swa": 0.5}, "optimizer.ema and config.optimizer.swa are both"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_compose_is_refused(name: str):
    keys, said = REFUSED[name]
    with pytest.raises(UserError, match=said) as caught:
        composed(keys)
    assert "\n" not in str(caught.value)
