"""Transforms of the objective and of its gradient against the papers' equations, in float64."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft import config
from jaxft.models import Head, nn
from jaxft.objectives.adversarial import MOVED, adversarial, movable
from jaxft.objectives.adversarial import SITE as FREELB
from jaxft.objectives.embeddings import Table, norms, uniform
from jaxft.objectives.mixup import SITE as MIXED
from jaxft.objectives.mixup import mixup, partners
from jaxft.objectives.neftune import SITE, neftune
from jaxft.objectives.r_drop import r_drop
from jaxft.objectives.smooth import SITE as SMOOTH
from jaxft.objectives.smooth import smooth
from jaxft.tasks import Task, mixing
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


def classified(params: Any, batch: Batch, key: Any):
    """As `scored`, of three classes: the sum over examples of 0.3 times the first logit, and the logits."""
    x = nn.embed(params["body"]["words"], batch["input_ids"], jnp.float32)
    slots = jnp.arange(1, batch["starts"].shape[1] + 1)
    own = (batch["segment_ids"][..., None] == slots).astype(jnp.float32)
    logits = jnp.einsum("rlc,rls->rsc", jnp.tanh(x) @ params["head"], own)
    return (0.3 * (batch["weights"] * logits[..., 0]).sum(), batch["weights"].sum()), {"logits": logits}


def logits_of(table: np.ndarray, head: np.ndarray, batch: Batch, d: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """The same in float64, by row and slot."""
    ids, segments = np.asarray(batch["input_ids"]), np.asarray(batch["segment_ids"])
    found = {}
    for row, slot in np.argwhere(np.asarray(batch["weights"]) > 0):
        at = segments[row] == slot + 1
        found[int(row), int(slot)] = (np.tanh(table[ids[row, at]] + d[row, at]) @ head).sum(0)
    return found


def distance(kind: str, p: np.ndarray, q: np.ndarray) -> float:
    """Jiang et al. 2020, section 3.1; Miyato et al. 2019, eq. 5."""
    return kl(p, q) + (kl(q, p) if kind == "smart" else 0.0)


def uphill(kind: str, table: np.ndarray, head: np.ndarray, batch: Batch, d: np.ndarray) -> np.ndarray:
    """The gradient of the distances by d; by q: KL(p || q) has q - p, KL(q || p) has q (log(q / p) - KL(q || p))."""
    clean, here = (logits_of(table, head, batch, moved) for moved in (np.zeros(d.shape), d))
    ids, segments, found = np.asarray(batch["input_ids"]), np.asarray(batch["segment_ids"]), np.zeros(d.shape)
    for (row, slot), y in here.items():
        p, q = softmax(clean[row, slot]), softmax(y)
        slope = q - p + (q * (np.log(q / p) - kl(y, clean[row, slot])) if kind == "smart" else 0)
        at = segments[row] == slot + 1
        found[row, at] = (1 - np.tanh(table[ids[row, at]] + d[row, at]) ** 2) * (head @ slope)
    return found


@pytest.mark.parametrize(
    ("kind", "steps"), support.once([(kind, n) for kind in ("smart", "vat") for n in (1, 2)], ("smart", 2), ("vat", 2))
)
def test_smoothness_is_the_equation(kind: str, steps: int):
    """Loss and gradient, by differences with d where it is; the first direction is the noise's."""
    case, radius, size, weight = support.TASKS["single_label"], 0.8, 0.5, 0.7
    batch, params = batch_of(case), start()
    params["head"] = jnp.asarray(np.random.default_rng(4).normal(scale=0.7, size=(WIDTH, 3)), jnp.float32)
    numbers = {"adversarial": weight, "adversarial_radius": radius, "adversarial_step": size}
    options = config.Objective(adversarial=kind, adversarial_steps=steps)
    made = smooth(options, {name: jnp.float32(x) for name, x in numbers.items()}, TABLE, case.task)(classified)
    value, grads = jax.jit(jax.value_and_grad(lambda p: made(p, batch, KEY)[0][0]))(params)
    table, head = (np.asarray(x, np.float64) for x in (params["body"]["words"]["embedding"], params["head"]))
    noise = np.asarray(uniform(jax.random.fold_in(KEY, SMOOTH), batch, TABLE), np.float64)
    d = per_example(batch, noise, lambda x: size * x / norm(x))
    for _ in range(steps):
        g = per_example(batch, uphill(kind, table, head, batch, d), lambda g: size * g / norm(g))
        d = g if kind == "vat" else per_example(batch, d + g, lambda x: x * min(1, radius / norm(x)))
    d = per_example(batch, d, lambda x: radius * x / norm(x)) if kind == "vat" else d
    still = logits_of(table, head, batch, 0 * d)

    def wanted(table: np.ndarray, head: np.ndarray) -> float:
        clean, moved = (logits_of(table, head, batch, at) for at in (0 * d, d))
        first = still if kind == "vat" else clean
        return sum(0.3 * clean[at][0] + weight * distance(kind, first[at], moved[at]) for at in clean)

    np.testing.assert_allclose(value, wanted(table, head), rtol=1e-5)
    for found, turn in ((grads["body"]["words"]["embedding"], 0), (grads["head"], 1)):
        slope = np.zeros(found.shape)
        for at in np.ndindex(found.shape):
            ends = []
            for sign in (1, -1):
                both = [table.copy(), head.copy()]
                both[turn][at] += sign * 1e-5
                ends.append(wanted(*both))
            slope[at] = (ends[0] - ends[1]) / 2e-5
        support.assert_close({"": found}, {"": slope}, 1e-5)
    (total, count), outputs = made(params, batch, None)
    assert (total, count) == classified(params, batch, None)[0] and outputs.keys() == {"logits"}


def test_pairs_are_the_same_however_a_batch_is_laid_out():
    """Each example that counts has one partner, another one, and is one's; pairs change from step to step."""
    case, lengths = support.TASKS["single_label"], [3, 9, 1, 6, 4]
    features = support.random_features(np.random.default_rng(0), case, lengths, support.SMALL)
    counts = np.asarray([1, 1, 0, 1, 2], np.float32)
    features = dataclasses.replace(features, examples={**features.examples, "weights": counts})
    found = set()
    for key in map(jax.random.key, range(3)):
        pairs = []
        for slots in (0, 1):
            batch = support.arrays(support.lay_out(features, case.task, 13, slots=slots))
            numbers = batch["order"].reshape(-1)[partners(batch, key)]
            at = np.asarray(batch["weights"]) > 0
            pairs.append(sorted(zip(np.asarray(batch["order"])[at].tolist(), numbers[at].tolist(), strict=True)))
        assert pairs[0] == pairs[1] and sorted(b for _, b in pairs[0]) == [0, 1, 3, 4]
        assert all(a != b for a, b in pairs[0])
        found.add(tuple(pairs[0]))
    assert len(found) > 1
    alone = support.arrays(support.lay_out(features.take(np.asarray([1])), case.task, 13))
    assert partners(alone, KEY).tolist() == [[0]]


@pytest.mark.parametrize("name", support.once(["single_label", "multi_label", "regression"], "single_label"))
def test_mixup_is_the_equation(name: str):
    """Verma et al. 2019, eq. 1, of a linear head: loss and gradient, labels and vectors mixed by hand."""
    case = support.TASKS[name]
    options: Any = dataclasses.replace(case.options, class_weights=(0.5, 2.0, 1.5) if name != "regression" else ())
    task, batch, alpha = support.Case(options, case.targets).task, batch_of(case), 0.4
    rng = np.random.default_rng(6)
    outputs = max(len(options.labels), 1)
    params = {"head": jnp.asarray(rng.normal(size=(WIDTH, outputs)), jnp.float32)}
    vectors = jnp.asarray(rng.normal(size=(*batch["weights"].shape, WIDTH)), jnp.float32)
    linear = Head({}, lambda params, x, run: x @ params["head"])

    def inner(params: Any, batch: Batch, key: Any):
        head = mixing.mixed(linear, batch) if mixing.SHARE in batch else linear
        found = {"logits": head.apply(params, vectors, nn.Run())}
        return task.loss(found, batch), found

    def mean(params: Any) -> jax.Array:
        (total, weight), _ = mixup(jnp.float32(alpha))(inner)(params, batch, KEY)
        return total / weight

    value, grads = jax.jit(jax.value_and_grad(mean))(params)
    own, pairs = jax.random.split(jax.random.fold_in(KEY, MIXED))
    share, partner = float(jax.random.beta(own, alpha, alpha)), np.asarray(partners(batch, pairs)).reshape(-1)
    assert 0.01 < share < 0.99
    flat = np.asarray(vectors, np.float64).reshape(-1, WIDTH)
    labels = np.asarray(batch["labels"], np.float64).reshape(len(flat), -1)
    there = np.flatnonzero(np.asarray(batch["weights"]).reshape(-1))

    def one(logits: np.ndarray, label: np.ndarray) -> tuple[float, float]:
        """The loss of a label, and what it counts."""
        if name == "regression":
            return float((logits[0] - label[0]) ** 2), 1.0
        scale = np.asarray(options.class_weights)
        if name == "multi_label":
            p = 1 / (1 + np.exp(-logits))
            return float(-(scale * label * np.log(p) + (1 - label) * np.log(1 - p)).sum()), 3.0
        return float(-scale[int(label[0])] * np.log(softmax(logits)[int(label[0])])), float(scale[int(label[0])])

    def wanted(head: np.ndarray) -> float:
        total = count = 0.0
        for i in there:
            logits = (share * flat[i] + (1 - share) * flat[partner[i]]) @ head
            for part, label in ((share, labels[i]), (1 - share, labels[partner[i]])):
                loss, weight = one(logits, label)
                total, count = total + part * loss, count + part * weight
        return total / count

    head = np.asarray(params["head"], np.float64)
    np.testing.assert_allclose(value, wanted(head), rtol=1e-5)
    slope = np.zeros(head.shape)
    for at in np.ndindex(head.shape):
        ends = []
        for sign in (1, -1):
            moved = head.copy()
            moved[at] += sign * 1e-5
            ends.append(wanted(moved))
        slope[at] = (ends[0] - ends[1]) / 2e-5
    support.assert_close({"": grads["head"]}, {"": slope}, 1e-5)
    clean = mixup(jnp.float32(alpha))(inner)(params, batch, None)
    assert clean[0] == inner(params, batch, None)[0]
