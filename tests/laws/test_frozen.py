"""Law 5: frozen is frozen. What does not learn has no backward pass, and no checkpoint holds it.

That it keeps every bit and has no optimizer state is shown in test_adaptations.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from runs import bits_equal, example

from jaxft import config, hub, models, program
from jaxft.batch import BatchShape
from jaxft.models import nn
from jaxft.train import numbers
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.optimizer import make_optimizer, make_schedule

SHARES = {"freeze": ({"adapt": "freeze"}, 0.46), "lora": ({"adapt": "lora"}, 0.72)}
"""Of the FLOPs of a full step of MiniLM, at most."""


def minilm(**keys: Any) -> program.Program:
    case = support.TASKS["single_label"]
    model = models.build(hub.read_config(hub.locate(support.MINILM, "main")))
    return support.compose(case.task, model, **keys)


def flops(**keys: Any) -> float:
    """Of a training step, four examples a row of 128, before XLA has optimized it (which changes this by 2%)."""
    composed = minilm(**keys)
    lowered = composed.train_step.lower(composed.state, composed.abstract_batch(BatchShape(8, 128, 4)))  # pyright: ignore
    return lowered.cost_analysis()["flops"]


def test_the_step_costs_less():
    full = flops()
    for name, (keys, most) in SHARES.items():
        assert flops(**keys) <= most * full, name


def test_lora_makes_nothing_of_the_size_of_a_weight():
    """No matrix product of the step, forward or backward, has the shape of a weight that it corrects."""
    case, model = support.TASKS["single_label"], models.build(support.SMALL)

    def products(**keys: Any) -> set[str]:
        composed = support.compose(case.task, model, **keys)
        text = composed.train_step.lower(composed.state, composed.abstract_batch(BatchShape(3, 20, 2))).as_text()  # pyright: ignore
        return set(re.findall(r"dot_general.*-> tensor<([\dx]+)xf32>", text))

    kernels = {"16x24", "24x16"}
    assert kernels <= products()
    found = products(**support.ADAPTATIONS["lora"])
    assert {"16x4", "4x24"} <= found and not kernels & found


def test_a_checkpoint_of_lora_is_small(tmp_path):
    """On disk, with MiniLM: what learns is under 3 MB, and beside it there are its two moments alone."""
    composed = minilm(adapt="lora")
    rng = np.random.default_rng(0)  # zeros would be compressed
    state = jax.tree.map(lambda x: jnp.asarray(rng.integers(0, 2**31, x.shape), x.dtype), composed.state)
    size = sum(x.nbytes for x in jax.tree.leaves(state.trainable))
    assert 1e6 < size < 3e6 < sum(x.nbytes for x in jax.tree.leaves(state.frozen))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(state, {"step": 1, "best_step": None}, None)
    checkpoints.close()
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 3 * size + 100_000


def test_a_method_of_ones_own():
    """examples/method.py learns what it says: two vectors a layer, and no matrix."""
    case, model = support.TASKS["single_label"], models.build(support.SMALL)
    experiment = config.Experiment(task=case.options, optimizer=config.Optimizer(learning_rate=1e-2, warmup=0.0))
    composed = program.compose(
        experiment, model, case.task, 10, parts=program.Parts(adaptation=example("method").build)
    )
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    batch = support.arrays(support.lay_out(features, case.task, 24, slots=0))
    state = composed.init(support.random_params(case.task, model, seed=0))
    before, frozen = support.copy((state.trainable, state.frozen))
    for _ in range(2):  # d has no gradient before e has moved
        state, _ = composed.train_step(state, batch)
    assert bits_equal(state.frozen, frozen)
    moved = {path for path, x in nn.flatten(state.trainable).items() if (x != nn.flatten(before)[path]).any()}
    assert {path[-1] for path in moved if path.startswith("vera/")} == {"d", "e"}


def rates(**keys: Any) -> list[dict[str, float]]:
    """How far each parameter moves in each of six steps by the same gradient, divided by how far the head does."""
    case, model = support.TASKS["single_label"], models.build(support.SMALL | {"num_hidden_layers": 3})
    options = config.Optimizer(learning_rate=1e-3, warmup=0.0, schedule="constant", weight_decay=0.0, **keys)
    transform, values = make_optimizer(options, make_schedule("constant"), model.depth), numbers.of(options, 6)
    params = nn.unflatten({path: jnp.ones(1) for path in nn.flatten(case.task.param_spec(model))})
    state, update, found = transform.init(params), jax.jit(transform.update), []
    for _ in range(6):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params, numbers=values)
        sizes = {path: float(jnp.abs(x).max()) for path, x in nn.flatten(updates).items()}
        found.append({path: size / sizes["classifier/bias"] for path, size in sizes.items()})
    return found


DEPTHS = {"bert/pooler/dense/kernel": 0, "bert/embeddings/LayerNorm/scale": 4}
DEPTHS |= {f"bert/encoder/layer/{i}/output/dense/bias": 3 - i for i in range(3)}


def test_layers_decay():
    for path, depth in DEPTHS.items():
        assert rates(layer_decay=0.5)[0][path] == pytest.approx(0.5**depth), path


def test_layers_unfreeze_one_after_the_other():
    found = rates(unfreeze_every=1)
    for path, depth in DEPTHS.items():
        assert [step[path] for step in found] == pytest.approx([0] * depth + [1] * (6 - depth)), path
