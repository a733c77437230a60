"""States between a teacher's layers are learned as the equations have them, however a batch is laid out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft import config, models, program, tasks
from jaxft.batch import BatchShape
from jaxft.models import nn
from jaxft.objectives import layers
from jaxft.objectives.distill import PREFIX
from jaxft.objectives.projection import PATH
from jaxft.objectives.states import alike
from jaxft.program import Program

HF = support.SMALL | {"hidden_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2}
MODEL = models.build(HF, dropout=0.2)
CASE = support.TASKS["single_label"]
WEIGHTS = {"hidden": 0.7, "attention": 0.3, "relations": 1.5}
KEYS = {"objective.teacher": ("of no run",), "objective.distill": 0.0}
KEYS |= {f"objective.{kind}": weight for kind, weight in WEIGHTS.items()}
KEYS |= {"objective.teacher_width": 24, "objective.relation_heads": 2, "objective.layers": ("1:1", "2:4")}


def composed(case: support.Case, keys: dict[str, Any]) -> Program:
    experiment = config.Experiment(task=dataclasses.replace(case.options))
    support.set_keys(experiment, keys)
    parts = program.Parts(optimizer=support.keeper)
    return program.compose(experiment, MODEL, tasks.build(experiment.task), steps=10, parts=parts)


# Attention of the same width as the student's, and so as few as 24 numbers cannot be.
ALONE = {
    "hidden, attention": KEYS | {"objective.relations": 0.0, "objective.teacher_width": 0},
    "relations": KEYS | {"objective.hidden": 0.0, "objective.attention": 0.0},
    "projected": KEYS
    | {
        "objective.relations": 0.0,
        "objective.attention": 0.0,
        "objective.teacher_width": 0,
        "objective.teacher_hidden": 20,
    },
}
CELLS = [(name, task) for name in ALONE for task in ("single_label", "token", "documents")]


@pytest.mark.parametrize(("name", "task"), support.once(CELLS, ("relations", "single_label")))
def test_packed_is_padded_and_accumulated_is_whole(name: str, task: str):
    case, keys = support.TASKS[task], ALONE[name]
    of, params = composed(case, keys), support.random_params(case.task, MODEL, seed=1)
    assert (PATH in nn.flatten(of.state.trainable)) == (name == "projected")
    features = support.random_features(np.random.default_rng(1), case, [3, 24, 9, 20, 5, 4], support.SMALL)
    features = support.told(features, of.taught)

    def gradients(of: Program, slots: int, rows: int = 0) -> dict[str, Any]:
        host = support.lay_out(features, case.task, 24, slots, targets=of.targets)
        if rows:
            shape = host.shape._replace(rows=rows, slots=host.shape.slots + 1)
            host = support.lay_out(features, case.task, 24, slots, shape, of.targets)
        found, metrics = support.gradients(of, params, host)
        return {**found, "loss": metrics["loss"]}

    padded = gradients(of, 1)
    support.assert_close(gradients(of, 0, rows=4), padded, 2e-5, floor=1e-3)
    parts = composed(case, keys | {"train.accumulate": 2})
    support.assert_close(gradients(parts, 0, rows=4), padded, 2e-5, floor=1e-3)


@pytest.mark.matrix
def test_without_weight_the_program_is_the_plain_one():
    shape, texts = BatchShape(2, 8, 2), []
    for keys in (KEYS | {f"objective.{kind}": 0.0 for kind in WEIGHTS}, {}):
        of = composed(CASE, keys)
        assert not of.taught
        texts.append(of.train_step.lower(of.state, of.abstract_batch(shape)).as_text())  # pyright: ignore
    assert texts[0] == texts[1]


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def split(x: np.ndarray, heads: int) -> list[np.ndarray]:
    return np.split(x, heads, axis=-1)


def by_hand(kind: str, own: list[np.ndarray], theirs: list[np.ndarray], heads: int) -> float:
    """Of one example, `[tokens, numbers]` each: Jiao et al. 2020, eqs. 7 and 8; Wang et al. 2021, section 3.1."""
    if kind == "hidden":
        return float(((own[0] - theirs[0]) ** 2).mean())
    scores = lambda x, y: x @ y.T / np.sqrt(x.shape[-1])  # noqa: E731
    if kind == "attention":
        pairs = [
            [scores(*two) for two in zip(split(x[0], heads), split(x[1], heads), strict=True)] for x in (own, theirs)
        ]
        return float(np.mean([((a - b) ** 2).mean() for a, b in zip(*pairs, strict=True)]))
    total = 0.0
    for x, y in zip(own, theirs, strict=True):
        for a, b in zip(split(x, heads), split(y, heads), strict=True):
            q, p = softmax(scores(a, a)), softmax(scores(b, b))
            total += (p * np.log(p / q)).sum() / (heads * len(x) * 3)
    return float(total)


@pytest.mark.parametrize(("kind", "theirs"), [("hidden", 6), ("hidden", 8), ("attention", 6), ("relations", 8)])
def test_a_distance_is_the_equation(kind: str, theirs: int):
    """Loss and gradient of rows of several examples, one of which counts double; also of a teacher of another width."""
    rng, lengths, heads, weight = np.random.default_rng(2), [3, 5, 1, 4], 2, 0.6
    features = support.random_features(rng, CASE, lengths, support.SMALL)
    counts = np.asarray([1, 2, 1, 0.5], np.float32)
    features = dataclasses.replace(features, examples={**features.examples, "weights": counts})
    batch = support.arrays(support.lay_out(features, CASE.task, 9, slots=0))
    names = [f"{part}/2" for part in layers.STATES[kind]]
    own, others = (
        {name: rng.normal(size=(*batch["input_ids"].shape, size)).astype(np.float32) for name in names}
        for size in (6, theirs)
    )
    if (kind, theirs) == ("hidden", 8):
        own[PATH] = rng.normal(size=(6, 8)).astype(np.float32)
    batch = {**batch, **{f"{PREFIX}{name}": jnp.asarray(x) for name, x in others.items()}}

    def inner(params: Any, batch: Any, key: Any) -> Any:
        return (jnp.float32(2), batch["weights"].sum()), params

    made = alike({kind: jnp.float32(weight)}, {kind: (2,)}, {"attention": heads, "relations": heads})(inner)

    def sums(params: Any) -> Any:
        return made(params, batch, jax.random.key(0))[0]

    given = jax.tree.map(jnp.asarray, own)
    (value, count), grads = jax.jit(jax.value_and_grad(sums, has_aux=True))(given)
    segments = np.asarray(batch["segment_ids"])

    def wanted(own: dict[str, np.ndarray]) -> float:
        total = 2.0
        for row, slot in np.argwhere(np.asarray(batch["weights"]) > 0):
            at = segments[row] == slot + 1
            ours, told = ([x[name][row, at] for name in names] for x in (own, others))
            ours = [x @ own[PATH] if PATH in own else x for x in ours]
            total += weight * float(batch["weights"][row, slot]) * by_hand(kind, ours, told, heads)
        return total

    exact = {name: x.astype(np.float64) for name, x in own.items()}
    others = {name: x.astype(np.float64) for name, x in others.items()}
    np.testing.assert_allclose(value, wanted(exact), rtol=1e-5)
    assert count == counts.sum()
    for name in own:
        slope = np.zeros(exact[name].shape)
        for at in np.ndindex(slope.shape):
            ends = []
            for sign in (1, -1):
                moved = {**exact, name: exact[name].copy()}
                moved[name][at] += sign * 1e-5
                ends.append(wanted(moved))
            slope[at] = (ends[0] - ends[1]) / 2e-5
        support.assert_close({"": grads[name]}, {"": slope}, 1e-5)
    assert made(given, batch, None)[0] == (2, counts.sum()), "evaluation is of the labels alone"


@pytest.mark.matrix
@pytest.mark.parametrize("kind", support.FILES)
def test_what_is_told_of_layers(kind: str):
    """Of all, each position of its own; outputs are the same. Of BERT against its own layers."""
    hf = support.ARCHITECTURES[kind]
    model = models.build(hf, dropout=0.0)
    params, depth = support.random_params(CASE.task, model, seed=0), layers.depth(model)
    features = support.random_features(np.random.default_rng(0), CASE, [9, 20, 4], hf)
    batch = support.arrays(support.lay_out(features, CASE.task, 24, slots=0))
    forward = lambda params, batch, run: CASE.task.forward(params, model, batch, run)  # noqa: E731
    asked = [(part, layer) for part in ("hidden", "query", "key", "value") for layer in range(1, depth + 1)]
    found = jax.jit(lambda p, b: layers.told(forward, asked)(p, b, nn.Run()))(params, batch)
    plain = jax.jit(lambda p, b: forward(p, b, nn.Run()))(params, batch)
    np.testing.assert_allclose(found["logits"], plain["logits"], atol=1e-5)
    place = batch["input_ids"].shape
    for part, layer in asked:
        width = model.facts.width if part == "hidden" else layers.across(model)
        assert found[f"{part}/{layer}"].shape == (*place, width)
    if kind == "bert":
        at = np.asarray(batch["segment_ids"]) > 0
        np.testing.assert_allclose(found["hidden/2"][at], model.encode(params, batch, nn.Run())[at], atol=1e-5)
        lower = models.build(hf | {"num_hidden_layers": 1}, dropout=0.0)
        np.testing.assert_allclose(found["hidden/1"][at], lower.encode(params, batch, nn.Run())[at], atol=1e-5)
        own = params["bert"]["encoder"]["layer"]["1"]["attention"]["self"]
        for part in ("query", "key", "value"):
            made = nn.dense(own[part], found["hidden/1"])
            np.testing.assert_allclose(found[f"{part}/2"][at], made[at], atol=1e-5)
