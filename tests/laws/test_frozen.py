"""Law 5: frozen is frozen. What does not learn keeps every bit, and has no optimizer state and no backward pass."""

import importlib.util
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from runs import ROOT, bits_equal

from jaxft import config, models, pretrained, program
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
def test_merged_and_packed_are_the_same(name: str):
    """The outputs of the adapted model: from parameters of the model alone; and from a batch of padded rows."""
    case, model = support.TASKS["single_label"], models.build(support.SMALL, dropout=0.0)
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    host, padded = (support.lay_out(features, case.task, 24, slots) for slots in (0, 1))
    batch = support.arrays(host)
    params = support.random_params(case.task, model, seed=0)
    composed = support.compose(case.task, model, **support.ADAPTATIONS[name])
    plain = support.compose(case.task, model)
    start = composed.split(params)
    outputs = plain.eval_step((params, {}), batch)["logits"]
    if name != "prefix":  # attention sees more as soon as it is there
        np.testing.assert_allclose(composed.eval_step(start, batch)["logits"], outputs, rtol=1e-5, atol=1e-5)
    rng = np.random.default_rng(1)
    moved = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), start[0])
    found = composed.eval_step((moved, start[1]), batch)["logits"]
    assert jnp.abs(found - outputs).max() > 1e-2
    apart = composed.eval_step((moved, start[1]), support.arrays(padded))
    support.assert_close(
        support.by_example({"logits": found}, case.task, host, features),
        support.by_example(apart, case.task, padded, features),
        1e-5,
    )
    if composed.merge is not None:
        merged = composed.merge(moved, start[1])
        np.testing.assert_allclose(found, plain.eval_step((merged, {}), batch)["logits"], rtol=1e-5, atol=1e-5)


SHARES = {"freeze": ({"adapt": "freeze"}, 0.46), "lora": ({"adapt": "lora"}, 0.72)}
"""Of the FLOPs of a full step of MiniLM, at most."""


def minilm(**keys: Any) -> program.Program:
    case = support.TASKS["single_label"]
    model = models.build(pretrained.read_config(pretrained.locate(support.MINILM, "main")))
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


def test_lora_is_small():
    """What a checkpoint of MiniLM holds beside the optimizer's state: under 3 MB."""
    assert 1e6 < 4 * sum(x.size for x in jax.tree.leaves(minilm(adapt="lora").state.trainable)) < 3e6


def test_the_method_in_the_docs(tmp_path):
    """It is at most 60 lines, and learns what it says: two vectors a layer, and no matrix."""
    text = (ROOT / "docs" / "adapt.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def build" in block)
    assert len(code.splitlines()) <= 60
    (tmp_path / "vera.py").write_text(code)
    spec = importlib.util.spec_from_file_location("vera", tmp_path / "vera.py")
    assert spec and spec.loader
    vera = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(vera)
    case, model = support.TASKS["single_label"], models.build(support.SMALL)
    experiment = config.Experiment(task=case.options, optimizer=config.Optimizer(learning_rate=1e-2, warmup=0.0))
    composed = program.compose(experiment, model, case.task, 10, adaptation=vera.build)
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
