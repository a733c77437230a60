"""Laws 1, 2, 4, 5 and 6 for every method of `jaxft.adapt`, each compiled once. Law 3 for them is in test_mesh."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import support
import torch_reference
from runs import ROOT, bits_equal

from jaxft import config, hub, models, program
from jaxft.batch import BatchShape
from jaxft.data.batches import HostBatch
from jaxft.data.features import Features
from jaxft.hub import adapters, export
from jaxft.hub.adapters import TYPES
from jaxft.models import nn
from jaxft.program import Program
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.optimizer import Depth, Schedule, make_optimizer
from jaxft.train.state import State
from jaxft.types import Batch, Params

METHODS = pytest.mark.parametrize("name", support.ADAPTATIONS)
CASE = support.TASKS["single_label"]
HF = support.SMALL | {"num_hidden_layers": 3}
MODEL = models.build(HF, dropout=0.0)
WRITTEN = pytest.mark.parametrize("name", [n for n, keys in support.ADAPTATIONS.items() if keys.get("adapt") in TYPES])
BEFORE = ("prefix", "prompt")
"""Methods that put something before each example: they change the model's outputs as soon as they are there."""


def watched(options: config.Optimizer, schedule: Schedule, depth: Depth) -> optax.GradientTransformation:
    """AdamW, the state of which has the last gradient too."""
    watch = optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda updates, state, params=None: (updates, updates),
    )
    return optax.chain(watch, make_optimizer(options, schedule, depth))


class Adapted(NamedTuple):
    """A method on a small model without dropout, what learns moved from where it begins; and a batch in two layouts."""

    experiment: config.Experiment
    program: Program
    params: Params
    trainable: Params
    frozen: Params
    features: Features
    packed: HostBatch
    padded: HostBatch

    def state(self) -> State:
        return self.program.init(support.copy(self.params)).replace(trainable=support.copy(self.trainable))

    def gradients(self, batch: Batch) -> tuple[Mapping[str, jax.Array], Mapping[str, jax.Array]]:
        """Of what learns, by path; and the metrics of the step."""
        state, metrics = self.program.train_step(self.state(), batch)
        inner = state.opt_state.inner if self.experiment.adapt == "adalora" else state.opt_state
        return nn.flatten(inner[0]), metrics

    def outputs(self, trainable: Params, host: HostBatch) -> dict[str, np.ndarray]:
        found = self.program.eval_step((trainable, self.frozen), support.arrays(host)).outputs
        return support.by_example(found, CASE.task, host, self.features)


@functools.cache
def adapted(name: str) -> Adapted:
    features = support.random_features(np.random.default_rng(0), CASE, [9, 24, 4, 7], HF)
    shape = BatchShape(4, 24, 3)
    packed, padded = (support.lay_out(features, CASE.task, 24, slots, shape) for slots in (0, 1))
    composed = support.compose(CASE.task, MODEL, parts=program.Parts(optimizer=watched), **support.ADAPTATIONS[name])
    params = support.random_params(CASE.task, MODEL, seed=0)
    trainable, frozen = composed.split(params)
    rng = np.random.default_rng(1)
    moved = {
        path: x + jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype) for path, x in sorted(nn.flatten(trainable).items())
    }
    experiment = config.Experiment(task=CASE.options, **support.ADAPTATIONS[name])
    return Adapted(experiment, composed, params, nn.unflatten(moved), frozen, features, packed, padded)


@functools.cache
def plain_step() -> Any:
    """The evaluation step of the model without any adaptation."""
    return support.compose(CASE.task, MODEL).eval_step


def reference(torch: Any, a: Adapted, tokenizer: Any, folder: Any) -> Any:
    """The PyTorch model with the same parameters; bottlenecks are put into it."""
    from transformers import AutoModelForSequenceClassification

    trainable, change = a.trainable, a.experiment.adapt == "adapter"
    base = nn.flatten(a.params) | {path: x for path, x in nn.flatten(trainable).items() if path in nn.flatten(a.params)}
    params = nn.unflatten(base) if change else a.program.merge(trainable, a.frozen)  # pyright: ignore
    hf = HF | support.published(CASE.task)
    export.export(folder, params, hf, "BertForSequenceClassification", tokenizer, "A small random model.\n")
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()

    class Bottleneck(torch.nn.Module):
        def __init__(self, dense: Any, weights: Mapping[str, Any]):
            super().__init__()
            self.dense, (self.down, self.up) = dense, (self.linear(weights[part]) for part in ("down", "up"))

        @staticmethod
        def linear(p: Mapping[str, Any]) -> Any:
            layer = torch.nn.Linear(*p["kernel"].shape)
            layer.load_state_dict({"weight": torch.tensor(p["kernel"].T), "bias": torch.tensor(p["bias"])})
            return layer

        def forward(self, x: Any) -> Any:
            h = self.dense(x)
            return h + self.up(torch.nn.functional.gelu(self.down(h)))

    for path, weights in _bottlenecks(trainable.get("adapter", {})).items():
        *parents, last = path.split("/")
        parent = model.get_submodule(".".join(parents))
        setattr(parent, last, Bottleneck(getattr(parent, last), weights))
    return model


def _bottlenecks(tree: Params) -> dict[str, Params]:
    flat = {path.rsplit("/", 2)[0] for path in nn.flatten(tree)}
    find = lambda path: functools.reduce(lambda node, part: node[part], path.split("/"), tree)  # noqa: E731
    return {path: jax.tree.map(np.asarray, find(path)) for path in flat}


@pytest.mark.parametrize(
    "name", support.once([name for name in support.ADAPTATIONS if name not in BEFORE], "dora", "ia3")
)
def test_pytorch_computes_the_same(torch, name: str, tiny_model, tmp_path):
    """Laws 1 and 6: logits and loss from what is exported, and gradients where the same parameters learn there.

    `tests/laws/test_peft.py` has the gradients of the others, and prefixes and prompts, which no export has.
    """
    a = adapted(name)
    theirs = reference(torch, a, tiny_model, tmp_path / "export")
    found = theirs(**torch_reference.torch_inputs(a.features, CASE.task, 24))
    ours = a.outputs(a.trainable, a.packed)
    support.assert_close(ours, {"logits": found.logits.detach().numpy()}, 1e-4)
    if name in ("full", "freeze", "bitfit", "adapter"):
        grads, metrics = a.gradients(support.arrays(a.packed))
        assert float(metrics["loss"]) == pytest.approx(float(found.loss.detach()), rel=1e-4)
        found.loss.backward()
        expected = {plain(n): parameter.grad.numpy() for n, parameter in theirs.named_parameters()}
        own = {
            hub.torch_name(path.removeprefix("adapter/")): x.T if hub.is_transposed(path) else x
            for path, x in grads.items()
        }
        support.assert_close(own, {name: expected[name] for name in own}, 1e-4, floor=1e-3)


def plain(name: str) -> str:
    """The name of a parameter of a model with bottlenecks, as it is without them."""
    return name.replace("dense.dense.", "dense.")


@pytest.mark.parametrize("name", support.once(support.ADAPTATIONS, "prefix", "adalora"))
def test_packed_is_padded(name: str):
    """Law 2: loss, gradients and outputs."""
    a = adapted(name)
    found, wanted = (a.gradients(support.arrays(host)) for host in (a.packed, a.padded))
    support.assert_close(found[0], wanted[0], 1e-5, floor=1e-3)
    support.assert_close({"": found[1]["loss"]}, {"": wanted[1]["loss"]}, 1e-5)
    support.assert_close(a.outputs(a.trainable, a.packed), a.outputs(a.trainable, a.padded), 1e-5)


@METHODS
def test_it_begins_as_the_model_and_is_merged(name: str):
    """What a method adds changes nothing at first; and its outputs are those of parameters of the model alone."""
    a = adapted(name)
    batch = support.arrays(a.packed)
    outputs = plain_step()((a.params, {}), batch).outputs["logits"]
    start = a.program.eval_step(a.program.split(a.params), batch).outputs["logits"]
    assert (jnp.abs(start - outputs).max() < 1e-5) == (name not in BEFORE)
    found = a.program.eval_step((a.trainable, a.frozen), batch).outputs["logits"]
    assert jnp.abs(found - outputs).max() > 1e-2
    if a.program.merge is not None:
        merged = a.program.merge(a.trainable, a.frozen)
        np.testing.assert_allclose(found, plain_step()((merged, {}), batch).outputs["logits"], rtol=1e-5, atol=1e-5)
    assert (a.program.merge is None) == (name in (*BEFORE, "adapter"))


@pytest.mark.parametrize("name", support.once(support.ADAPTATIONS, "bitfit", "dora", "adalora"))
def test_resuming_is_exact(name: str, tmp_path):
    """Law 4: four steps, or two, a checkpoint and two; the base model is read again."""
    a = adapted(name)
    batches = [support.arrays(host) for host in (a.packed, a.padded)]
    steps: list[State] = []
    state = a.state()
    for batch in batches * 2:
        state, _ = a.program.train_step(state, batch)
        steps.append(support.copy(state))
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(steps[1], {"step": 2, "best_step": None}, None)
    checkpoints.wait()
    frozen = a.program.split(support.copy(a.params))[1]
    restored = checkpoints.restore(a.program.state, frozen, a.program.placed_numbers())
    checkpoints.close()
    assert restored
    state, position = restored
    for batch in batches[position["step"] % 2 :] + batches[: position["step"] % 2]:
        state, _ = a.program.train_step(state, batch)
    assert bits_equal(state, steps[-1])


def nbytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


@METHODS
def test_only_what_learns_changes(name: str):
    """Law 5, after two steps: every parameter that learns has moved, no other by a bit, or has optimizer state."""
    a = adapted(name)
    state = a.state()
    assert (name == "full") == (not state.frozen)
    copies = 5 if name == "adalora" else 3
    assert nbytes(state.opt_state) <= copies * nbytes(state.trainable) + 64, "moments, what is watched, and counters"
    for host in (a.packed, a.padded):
        state, _ = a.program.train_step(state, support.arrays(host))
    assert bits_equal(state.frozen, a.frozen)
    before = nn.flatten(a.trainable)
    still = {path for path, x in nn.flatten(state.trainable).items() if (x == before[path]).all()}
    assert not {path for path in still if not path.endswith("key/bias")}  # the gradient of key biases is zero
    assert {"classifier/kernel", "classifier/bias"} <= before.keys()


@WRITTEN
def test_an_adapter_is_read_as_it_was_written(name: str, tmp_path):
    """Law 6: bit for bit; of AdaLoRA it is the LoRA that computes the same."""
    a = adapted(name)
    adapters.write(tmp_path, a.experiment, a.trainable)
    assert (adapters.options(tmp_path)["adapt"] == name) == (name not in ("dora", "adalora"))
    again = adapters.read(tmp_path, a.program, a.program.split(a.params)[0])
    assert name == "adalora" or bits_equal(again, a.trainable)
    support.assert_close(a.outputs(again, a.packed), a.outputs(a.trainable, a.packed), 1e-5)


@pytest.mark.parametrize("name", support.once(support.ADAPTATIONS, "freeze", "lora", "prefix"))
def test_scanned_is_unrolled(name: str):
    """The same loss and gradients from a loop over the layers but for the last, which computes less."""
    a = adapted(name)
    batch = support.arrays(a.packed)
    scan: dict[str, Any] = {"compute": config.Compute(scan=True), **support.ADAPTATIONS[name]}
    scanned = support.compose(CASE.task, MODEL, keep_gradients=True, **scan)
    state = scanned.init(support.copy(a.params)).replace(trainable=support.copy(a.trainable))
    state, metrics = scanned.train_step(state, batch)
    grads = state.opt_state.inner if name == "adalora" else state.opt_state
    wanted, loss = a.gradients(batch)
    support.assert_close(nn.flatten(grads), wanted, 1e-5, floor=1e-3)
    support.assert_close({"": metrics["loss"]}, {"": loss["loss"]}, 1e-5)


def test_several_adapters_share_a_base(tmp_path, monkeypatch):
    """As the page says: trained one after the other, kept side by side, chosen by argument, averaged, merged."""
    a = adapted("lora")
    batch, found = dict(support.arrays(a.packed)), {}
    for number, folder in enumerate(("one", "other")):
        state = a.state()
        for _ in range(2):
            state, _ = a.program.train_step(state, batch | {"labels": (batch["labels"] + number) % 3})
        adapters.write(tmp_path / folder / "adapter", a.experiment, state.trainable)
        found[folder] = support.copy(state.trainable)
        assert bits_equal(state.frozen, a.frozen)
    page = (ROOT / "docs" / "adapt.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "average" in block)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {
        "program": a.program,
        "params": a.params,
        "batch": batch,
        "Path": Path,
        "adapters": adapters,
    }
    sizes = []
    for folder in found:
        read = adapters.read(tmp_path / folder / "adapter", a.program, a.program.split(a.params)[0])
        a.program.eval_step((read, a.frozen), batch)
        sizes.append(a.program.eval_step._cache_size())  # pyright: ignore
    assert sizes[0] == sizes[1], "the other is computed by the program of the one"
    exec(code, names)
    assert bits_equal((names["one"], names["other"]), (found["one"], found["other"]))
    one, other = (a.program.eval_step((names[folder], a.frozen), batch).outputs["logits"] for folder in found)
    assert jnp.abs(one - other).max() > 1e-5
    np.testing.assert_allclose(plain_step()((names["merged"], {}), batch).outputs["logits"], one, atol=1e-5)
    mean = jax.tree.map(lambda *pair: np.mean(pair, axis=0), *found.values())
    average = adapters.average([names["one"], names["other"]])
    support.assert_close(nn.flatten(average), nn.flatten(mean), 1e-6)
