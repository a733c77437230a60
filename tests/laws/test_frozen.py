"""Law 5: frozen is frozen. What does not learn keeps every bit, and has no optimizer state and no backward pass."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from runs import bits_equal

from jaxft import config, models, pretrained
from jaxft.batch import BatchShape
from jaxft.models import nn
from jaxft.train.optimizer import make_optimizer, make_schedule

pytestmark = pytest.mark.usefixtures("quick_compiles")

METHODS = pytest.mark.parametrize("name", support.ADAPTATIONS)


def nbytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@METHODS
def test_only_what_learns_changes(name: str):
    """After three steps: every parameter that learns has moved, no other by a single bit."""
    case, model = support.TASKS["single_label"], models.build(support.SMALL)
    options = config.Optimizer(learning_rate=1e-2, warmup=0.0)
    composed = support.compose(case.task, model, optimizer=options, **support.ADAPTATIONS[name])
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    batch = support.arrays(support.lay_out(features, case.task, 24, slots=0))
    state = composed.init(support.random_params(case.task, model, seed=0))
    trainable, frozen = support.copy((state.trainable, state.frozen))
    assert (name == "full") == (not frozen)
    copies = 4 if name == "adalora" else 2
    assert nbytes(state.opt_state) <= copies * nbytes(trainable) + 64, "moments of what learns, and counters"
    for _ in range(3):
        state, _ = composed.train_step(state, batch)
    assert bits_equal(state.frozen, frozen)
    still = {path for path, x in nn.flatten(state.trainable).items() if (x == nn.flatten(trainable)[path]).all()}
    assert not {path for path in still if not path.endswith("key/bias")}  # the gradient of key biases is zero
    assert {"classifier/kernel", "classifier/bias"} <= nn.flatten(trainable).keys()


@METHODS
def test_merged_is_the_same(name: str):
    """Parameters of the model alone, computed with as they are, give the outputs of the adapted model."""
    case, model = support.TASKS["single_label"], models.build(support.SMALL, dropout=0.0)
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    batch = support.arrays(support.lay_out(features, case.task, 24, slots=0))
    params = support.random_params(case.task, model, seed=0)
    composed = support.compose(case.task, model, **support.ADAPTATIONS[name])
    plain = support.compose(case.task, model)
    start = composed.split(params)
    outputs = plain.eval_step((params, {}), batch)["logits"]
    np.testing.assert_allclose(composed.eval_step(start, batch)["logits"], outputs, rtol=1e-5, atol=1e-5)
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), start[0])
    found = composed.eval_step((moved, start[1]), batch)["logits"]
    assert jnp.abs(found - outputs).max() > 1e-2
    if composed.merge is not None:
        merged = composed.merge(moved, start[1])
        np.testing.assert_allclose(found, plain.eval_step((merged, {}), batch)["logits"], rtol=1e-5, atol=1e-5)


SHARES = {"freeze": ({"adapt": "freeze"}, 0.46), "lora": ({"adapt": "lora"}, 0.72)}
"""Of the FLOPs of a full step of MiniLM, at most."""


@pytest.fixture(scope="module")
def compiled():
    """The compiled training step of MiniLM, four examples a row of 128."""
    case = support.TASKS["single_label"]
    model = models.build(pretrained.read_config(pretrained.locate(support.MINILM, "main")))

    def build(**keys: Any) -> Any:
        composed = support.compose(case.task, model, **keys)
        abstract = composed.abstract_batch(BatchShape(8, 128, 4))
        return composed.train_step.lower(composed.state, abstract).compile()  # pyright: ignore

    return build


@pytest.fixture(scope="module")
def full_flops(compiled) -> float:
    return compiled().cost_analysis()["flops"]


@pytest.mark.parametrize("name", SHARES)
def test_the_step_costs_less(compiled, full_flops, name: str):
    keys, most = SHARES[name]
    assert compiled(**keys).cost_analysis()["flops"] <= most * full_flops


def rates(**keys: Any) -> list[dict[str, float]]:
    """How far each parameter moves in each of six steps by the same gradient, divided by how far the head does."""
    case, model = support.TASKS["single_label"], models.build(support.SMALL | {"num_hidden_layers": 3})
    options = config.Optimizer(learning_rate=1e-3, warmup=0.0, schedule="constant", weight_decay=0.0, **keys)
    transform = make_optimizer(options, make_schedule(options, 6))
    params = nn.unflatten({path: jnp.ones(1) for path in nn.flatten(case.task.param_spec(model))})
    state, update, found = transform.init(params), jax.jit(transform.update), []
    for _ in range(6):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
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
