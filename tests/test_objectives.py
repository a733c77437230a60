"""Transforms of the objective and of its gradient against the papers' equations, in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft import config
from jaxft.models import nn
from jaxft.objectives.adversarial import MOVED, adversarial, movable
from jaxft.objectives.adversarial import SITE as FREELB
from jaxft.objectives.embeddings import Table, norms, uniform
from jaxft.objectives.neftune import SITE, neftune
from jaxft.objectives.r_drop import r_drop
from jaxft.tasks import Task
from jaxft.train.gradient import gradient_of
from jaxft.types import Batch

WORDS, WIDTH = "body/words", 5
TABLE = Table(WORDS, WIDTH, 24, nn.hash_bits)
CASE = support.TASKS["regression"]
KEY = jax.random.key(3)


def batch_of(case: support.Case = CASE, lengths: tuple[int, ...] = (3, 9, 1, 6)) -> Batch:
    """Four examples in rows of 13, with padding and an empty slot."""
    features = support.random_features(np.random.default_rng(0), case, list(lengths), support.SMALL)
    return support.arrays(support.lay_out(features, case.task, 13, slots=0))


def start() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "body": {"words": {"embedding": jnp.asarray(rng.normal(size=(40, WIDTH)), jnp.float32)}},
        "head": jnp.asarray(rng.normal(size=WIDTH), jnp.float32),
    }


def scored(params: Any, batch: Batch, key: Any):
    """The sum over examples of (s - y)^2, s the sum over an example's tokens of tanh(embedding) . head."""
    x = nn.embed(params["body"]["words"], batch["input_ids"], jnp.float32)
    slots = jnp.arange(1, batch["starts"].shape[1] + 1)
    own = (batch["segment_ids"][..., None] == slots).astype(jnp.float32)
    s = jnp.einsum("rl,rls->rs", jnp.tanh(x) @ params["head"], own)
    return ((batch["weights"] * (s - batch["labels"]) ** 2).sum(), batch["weights"].sum()), {"logits": s}


class Found:
    """The same in float64, example by example: the loss, and its gradient by the table, the head and each embedding."""

    def __init__(self, params: Any, batch: Batch, d: np.ndarray):
        table, head = (np.asarray(x, np.float64) for x in (params["body"]["words"]["embedding"], params["head"]))
        ids, segments = np.asarray(batch["input_ids"]), np.asarray(batch["segment_ids"])
        self.loss, self.table, self.head = 0.0, np.zeros_like(table), np.zeros_like(head)
        self.moved = np.zeros(d.shape)
        for row, slot in np.argwhere(np.asarray(batch["weights"]) > 0):
            at = segments[row] == slot + 1
            x = np.tanh(table[ids[row, at]] + d[row, at])
            off = (x @ head).sum() - float(batch["labels"][row, slot])
            self.loss += off**2
            self.head += 2 * off * x.sum(0)
            self.moved[row, at] = 2 * off * head * (1 - x**2)
            np.add.at(self.table, ids[row, at], self.moved[row, at])


def per_example(batch: Batch, x: np.ndarray, change) -> np.ndarray:
    """`change(x)` of all numbers of each example at once; zero elsewhere."""
    out, segments = np.zeros(x.shape), np.asarray(batch["segment_ids"])
    for row, slot in np.argwhere(np.asarray(batch["weights"]) > 0):
        at = segments[row] == slot + 1
        out[row, at] = change(x[row, at])
    return out


def norm(x: np.ndarray) -> float:
    return float(np.sqrt((x**2).sum()))


def by_hand(kind: str, params: Any, batch: Batch, weight: float, radius: float, steps: int, size: float, first):
    """The loss and the gradients of table and head, by the equations that the module names."""
    at = functools.partial(Found, params, batch)
    clean = at(np.zeros(first.shape))
    d, visited = (first if kind == "freelb" else np.zeros(first.shape)), []
    for _ in range(1 if kind == "fgm" else steps):
        here = at(d)
        visited.append(here)
        g = per_example(batch, here.moved, lambda g: (radius if kind == "fgm" else size) * g / norm(g))
        d = per_example(batch, d + g, lambda d: d * min(1, radius / norm(d)))
    ends = visited if kind == "freelb" else [at(d)]
    add = lambda name: getattr(clean, name) + weight * np.mean([getattr(e, name) for e in ends], axis=0)  # noqa: E731
    return add("loss"), add("table"), add("head")


@pytest.mark.parametrize("kind", ["fgm", "pgd", "freelb"])
def test_adversarial_training_is_the_equation(kind: str):
    batch, params = batch_of(), start()
    numbers = {"adversarial": 0.7, "adversarial_radius": 0.8} | ({} if kind == "fgm" else {"adversarial_step": 0.5})
    options = config.Objective(adversarial=kind, adversarial_steps=3)
    strengths = {name: jnp.float32(value) for name, value in numbers.items()}
    inner = gradient_of(movable(WORDS)(scored), lambda trainable, frozen: {**trainable, **frozen})
    trainable, frozen = {"body": params["body"]}, {"head": params["head"]}
    both = [({**trainable, **frozen}, {}), (trainable, frozen)]
    first = 0.8 * np.asarray(uniform(jax.random.fold_in(KEY, FREELB), batch, TABLE), np.float64)
    total, table, head = by_hand(kind, params, batch, 0.7, 0.8, 3, 0.5, first)
    for learns, still in both:
        found, weight, grads = jax.jit(adversarial(options, strengths, TABLE)(inner))(learns, still, batch, KEY)
        np.testing.assert_allclose(found, total, rtol=1e-5)
        assert weight == 4 and MOVED not in grads and grads.keys() == learns.keys()
        support.assert_close({"": grads["body"]["words"]["embedding"]}, {"": table}, 1e-5)
        if "head" in grads:
            support.assert_close({"": grads["head"]}, {"": head}, 1e-5)


def test_what_is_moved_has_the_radius_over_an_example():
    """An example whose gradient is zero stays where it is; padding has none."""
    batch = batch_of()
    x = jax.random.normal(KEY, (*batch["input_ids"].shape, WIDTH))
    found, segments = np.asarray(norms(x, batch)), np.asarray(batch["segment_ids"])
    for row, slot in np.argwhere(np.asarray(batch["weights"]) > 0):
        at = segments[row] == slot + 1
        np.testing.assert_allclose(found[row, at], norm(np.asarray(x)[row, at]), rtol=1e-5)
    assert (found[segments == 0] == 0).all() and (segments == 0).any()


def test_noise_is_uniform_and_as_large_as_the_example_is_short():
    """Jain et al. 2024, algorithm 1; each token of each example has its own, wherever it lies."""
    lengths = (3, 9, 1, 6)
    batch, padded = (
        batch_of(lengths=lengths),
        support.arrays(
            support.lay_out(
                support.random_features(np.random.default_rng(0), CASE, list(lengths), support.SMALL), CASE.task, 13, 1
            )
        ),
    )
    wide = TABLE._replace(width=4000)
    found, other = (np.asarray(uniform(KEY, b, wide)) for b in (batch, padded))
    segments = np.asarray(batch["segment_ids"])
    assert (found[segments == 0] == 0).all()
    for row, slot in np.argwhere(np.asarray(batch["weights"]) > 0):
        own = found[row, segments[row] == slot + 1]
        u = own * np.sqrt(len(own) * 4000)
        assert np.abs(u).max() <= 1 + 1e-6 and abs(u.mean()) < 0.03 and abs(u.var() - 1 / 3) < 0.02
        (alone,) = np.flatnonzero(np.asarray(padded["order"])[:, 0] == int(batch["order"][row, slot]))
        same = other[alone, : len(own)]
        assert (own == same).all()
    tokens = found[segments > 0]
    assert len(np.unique(tokens[:, 0])) == len(tokens)


def test_neftune_computes_the_objective_of_noisy_embeddings():
    batch, params = batch_of(), start()
    noise = 5 * np.asarray(uniform(jax.random.fold_in(KEY, SITE), batch, TABLE), np.float64)
    wanted = Found(params, batch, noise)
    noisy = neftune(jnp.float32(5), TABLE)(scored)
    value, grads = jax.jit(jax.value_and_grad(lambda p: noisy(p, batch, KEY)[0][0]))(params)
    np.testing.assert_allclose(value, wanted.loss, rtol=1e-5)
    support.assert_close({"": grads["head"]}, {"": wanted.head}, 1e-5)
    support.assert_close({"": grads["body"]["words"]["embedding"]}, {"": wanted.table}, 1e-5)
    clean = noisy(params, batch, None)[0][0]
    np.testing.assert_allclose(clean, Found(params, batch, np.zeros(noise.shape)).loss, rtol=1e-5)


DIVERGENT = [name for name, case in support.TASKS.items() if type(case.task).divergence is not Task.divergence]


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def kl(x: np.ndarray, y: np.ndarray) -> float:
    p, q = softmax(x), softmax(y)
    return float((p * np.log(p / q)).sum())


def divergence(case: support.Case, p: dict[str, np.ndarray], q: dict[str, np.ndarray], batch: Batch) -> float:
    """The sum of KL(p || q), one distribution after the other."""
    arrays = {name: np.asarray(x) for name, x in batch.items()}
    slots = [tuple(at) for at in np.argwhere(arrays["weights"] > 0)]
    options: Any = case.options
    if isinstance(options, config.QuestionAnswering):
        total = 0.0
        for row, slot in slots:
            own = arrays["segment_ids"][row] == slot + 1
            for end in ("start", "end"):
                if arrays[f"{end}_positions"][row, slot] < own.sum():
                    total += kl(p[f"{end}_logits"][row, own], q[f"{end}_logits"][row, own]) / 2
        return total
    x, y = p["logits"], q["logits"]
    if isinstance(options, config.MultipleChoice):
        asked = {(row, arrays["row"][row, slot]) for row, slot in slots}
        of = lambda x, row, number: x[row, arrays["row"][row] == number]  # noqa: E731
        return sum(kl(of(x, *at), of(y, *at)) for at in asked)
    if isinstance(options, config.TokenClassification):
        weights = np.asarray(options.class_weights or [1.0] * 4)
        places = np.argwhere(arrays["labels"] != -100)
        return sum(float(weights[arrays["labels"][tuple(at)]]) * kl(x[tuple(at)], y[tuple(at)]) for at in places)
    if options.problem == "regression":
        return sum((x[at] - y[at]).item() ** 2 / 2 for at in slots)
    if options.problem == "multi_label":
        pairs = [(a, b) for at in slots for a, b in zip(x[at], y[at], strict=True)]
        return sum(kl(np.asarray([a, 0]), np.asarray([b, 0])) for a, b in pairs)
    seen, total = set(), 0.0
    for row, slot in slots:
        name = (row, arrays["row"][row, slot]) if options.windows else (row, slot)
        total += 0 if name in seen else kl(x[row, slot], y[row, slot])
        seen.add(name)
    return total


@pytest.mark.parametrize("name", DIVERGENT)
def test_r_drop_is_the_equation(name: str):
    """Loss and gradient; the two passes are two tables of outputs here, which the key chooses between."""
    case, alpha = support.TASKS[name], 0.6
    task, batch, rng = case.task, batch_of(case), np.random.default_rng(2)
    sizes = {"example": batch["weights"].shape, "token": batch["segment_ids"].shape}
    model_outputs = {"logits": (len(getattr(case.options, "labels", ())) or 1,)} if "logits" in task.outputs else {}
    last = () if name == "choices" else model_outputs.get("logits", ())
    passes: Any = [
        {key: rng.normal(size=(*sizes[per], *last)).astype(np.float32) for key, per in task.outputs.items()}
        for _ in range(2)
    ]

    def objective(params: Any, batch: Batch, key: Any):
        first = jax.random.key_data(key).sum() == jax.random.key_data(KEY).sum()
        outputs = jax.tree.map(lambda a, b: jnp.where(first, a, b), params["first"], params["second"])
        return task.loss(outputs, batch), outputs

    def twice(p: Any, q: Any) -> float:
        return divergence(case, p, q, batch) + divergence(case, q, p, batch)

    def loss_of(p: Any, q: Any) -> float:
        totals = [task.loss(jax.tree.map(jnp.asarray, outputs), batch)[0] for outputs in (p, q)]
        return float(sum(totals)) / 2

    params = jax.tree.map(jnp.asarray, {"first": passes[0], "second": passes[1]})
    transformed = r_drop(jnp.float32(alpha), task)(objective)
    plain = lambda p: (task.loss(p["first"], batch)[0] + task.loss(p["second"], batch)[0]) / 2  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(lambda p: transformed(p, batch, KEY)[0][0]))(params)
    wanted = alpha * (twice(*passes)) / 2
    np.testing.assert_allclose(value, loss_of(*passes) + wanted, rtol=1e-5)
    own = jax.tree.map(lambda a, b: np.asarray(a - b), grads, jax.grad(plain)(params))
    for side in range(2):
        for key, x in passes[side].items():
            slope = np.zeros(x.shape)
            for at in np.ndindex(x.shape):
                ends = []
                for sign in (1, -1):
                    moved = [{k: v.astype(np.float64) for k, v in one.items()} for one in passes]
                    moved[side][key][at] += sign * 1e-5
                    ends.append(twice(*moved))
                slope[at] = alpha * (ends[0] - ends[1]) / 4e-5
            np.testing.assert_allclose(own[("first", "second")[side]][key], slope, atol=2e-5, err_msg=key)
    assert transformed(params, batch, KEY)[0][1] == task.loss(params["first"], batch)[1]
