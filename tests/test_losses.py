"""The losses that tasks share, with their gradients, against PyTorch's, or the paper's equation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft import config, tasks
from jaxft.tables import weighting
from jaxft.tasks import losses

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(2, 9, 4))).astype(np.float32)
WEIGHTS = (RNG.random((2, 9)) < 0.7).astype(np.float32)
CLASS_WEIGHTS = (0.2, 1.0, 3.5, 0.0)


def ours(loss, labels, *options):
    def mean(logits):
        total, weight = loss(logits, jnp.asarray(labels), jnp.asarray(WEIGHTS), *options)
        return total / weight

    return jax.jit(jax.value_and_grad(mean))(LOGITS)


def assert_same(torch, found, loss, labels):
    """`loss` of those that count, as PyTorch has it."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    counts = torch.tensor(WEIGHTS > 0)
    expected = loss(logits[counts], torch.tensor(labels)[counts])
    expected.backward()
    assert logits.grad is not None
    np.testing.assert_allclose(found[0], expected.detach(), rtol=1e-6)
    np.testing.assert_allclose(found[1], logits.grad, atol=1e-7)


@pytest.mark.parametrize("class_weights", [(), CLASS_WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(torch, class_weights, smoothing):
    labels = RNG.integers(0, 4, (2, 9)).astype(np.int32)
    weight = torch.tensor(class_weights) if class_weights else None
    loss = torch.nn.CrossEntropyLoss(weight, label_smoothing=smoothing)
    found = ours(losses.cross_entropy, labels, class_weights, smoothing)
    assert_same(torch, found, loss, labels.astype(np.int64))


@pytest.mark.parametrize("positive_weights", [(), CLASS_WEIGHTS])
def test_binary_cross_entropy(torch, positive_weights):
    labels = RNG.integers(0, 2, (2, 9, 4)).astype(np.float32)
    weight = torch.tensor(positive_weights) if positive_weights else None
    found = ours(losses.binary_cross_entropy, labels, positive_weights)
    assert_same(torch, found, torch.nn.BCEWithLogitsLoss(pos_weight=weight), labels)


def probabilities(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


EQUATIONS = {
    "focal": (1.5, lambda p, right: -((1 - p[right]) ** 1.5) * np.log(p[right])),
    "generalized": (0.7, lambda p, right: (1 - p[right] ** 0.7) / 0.7),
    "symmetric": (
        0.4,
        lambda p, right: -np.log(p[right]) - 0.4 * sum(p[k] * (0 if k == right else -4) for k in range(len(p))),
    ),
}
"""Strength, and the loss of a label: Lin et al. 2017, eq. 4; Zhang and Sabuncu 2018, eq. 6; Wang et al. 2019, eq. 8."""


def by_hand(name: str, logits: np.ndarray, labels: np.ndarray, counts: np.ndarray, scale: np.ndarray) -> float:
    """The mean over those that count, weighted by class."""
    one = EQUATIONS[name][1]
    found = [
        (scale[label], one(p, label))
        for p, label, counted in zip(probabilities(logits).reshape(-1, 4), labels.ravel(), counts.ravel(), strict=True)
        if counted
    ]
    return float(sum(w * x for w, x in found) / sum(w for w, _ in found))


def differences(function, logits: np.ndarray) -> np.ndarray:
    """The gradient by central differences."""
    found, step = np.zeros(logits.shape), 1e-5
    for at in np.ndindex(logits.shape):
        moved = [logits.astype(np.float64) for _ in range(2)]
        moved[0][at] += step
        moved[1][at] -= step
        found[at] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return found


OPTIONS = {
    "text": lambda **keys: config.SequenceClassification(labels=tuple("abcd"), problem="single_label", **keys),
    "words": lambda **keys: config.TokenClassification(labels=tuple("abcd"), problem="words", **keys),
}


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("class_weights", [(), CLASS_WEIGHTS])
@pytest.mark.parametrize("name", EQUATIONS)
def test_a_loss_is_the_equation(name, class_weights, kind):
    labels = RNG.integers(0, 4, (2, 9)).astype(np.int32)
    task = tasks.build(OPTIONS[kind](class_weights=class_weights, **{name: EQUATIONS[name][0]}))
    batch = {"labels": np.where(WEIGHTS > 0, labels, -100) if kind == "words" else labels, "weights": WEIGHTS}
    batch = {key: jnp.asarray(value) for key, value in batch.items()}

    def mean(logits, numbers):
        total, weight = task.with_numbers(numbers).loss({"logits": logits}, batch)
        return total / weight

    value, gradient = jax.jit(jax.value_and_grad(mean))(LOGITS, dict(task.numbers))
    scale = np.asarray(class_weights or [1.0] * 4)
    wanted = lambda logits: by_hand(name, logits, labels, WEIGHTS, scale)  # noqa: E731
    np.testing.assert_allclose(value, wanted(LOGITS), rtol=1e-5)
    np.testing.assert_allclose(gradient, differences(wanted, LOGITS), atol=1e-6)
    np.testing.assert_allclose(
        task.loss({"logits": jnp.asarray(LOGITS)}, batch)[0], value * scale[labels][WEIGHTS > 0].sum(), rtol=1e-5
    )


def contrasted(vectors: np.ndarray, labels: np.ndarray, counts: np.ndarray, scale: np.ndarray, t: float) -> float:
    """Khosla et al. 2020, eq. 2, one example after the other, each weighed; the mean as cross-entropy has it."""
    v = vectors.astype(np.float64).reshape(-1, vectors.shape[-1])
    v /= np.linalg.norm(v, axis=-1, keepdims=True)
    y, counts = labels.reshape(-1), counts.reshape(-1)
    there, total = np.flatnonzero(counts), 0.0
    for i in there:
        below = sum(np.exp(v[i] @ v[a] / t) for a in there if a != i)
        alike = [p for p in there if p != i and y[p] == y[i]]
        for p in alike:
            total -= counts[i] * scale[y[i]] * np.log(np.exp(v[i] @ v[p] / t) / below) / len(alike)
    return total / sum(counts * scale[y])


@pytest.mark.parametrize("class_weights", [(), (0.2, 1.0, 3.5, 1.5)])
def test_the_contrastive_loss_is_the_equation(class_weights):
    """Of labels of which one is there once; rows weigh, and those that weigh nothing are in no contrast."""
    rng, labels = np.random.default_rng(5), np.asarray([[0, 1, 1, 2], [0, 0, 3, 1]], np.int32)
    counts = np.asarray([[1, 1, 2, 1], [1, 0, 0.5, 1]], np.float32)
    vectors, logits = (rng.normal(size=(2, 4, n)).astype(np.float32) for n in (6, 4))
    share, t = 0.7, 0.25
    keys = {"contrastive": share, "contrastive_temperature": t, "class_weights": class_weights}
    task = tasks.build(OPTIONS["text"](**keys))
    batch = {"labels": jnp.asarray(labels), "weights": jnp.asarray(counts)}

    def mean(vectors, numbers, both=True):
        outputs = {"logits": jnp.asarray(logits)} | ({"vectors": vectors} if both else {})
        total, weight = task.with_numbers(numbers).loss(outputs, batch)
        return total / weight

    value, gradient = jax.jit(jax.value_and_grad(mean))(vectors, dict(task.numbers))
    scale = np.asarray(class_weights or [1.0] * 4)
    wanted = lambda vectors: share * contrasted(vectors, labels, counts, scale, t)  # noqa: E731
    plain = mean(jnp.asarray(vectors), {}, both=False)
    np.testing.assert_allclose(value, (1 - share) * plain + wanted(vectors), rtol=1e-5)
    np.testing.assert_allclose(gradient, differences(wanted, vectors), atol=1e-6)
    assert not gradient[1, 1].any(), "of a row that weighs nothing"


@pytest.mark.parametrize("positive_weights", [(), CLASS_WEIGHTS])
def test_a_focal_loss_of_several_labels(positive_weights):
    labels = RNG.integers(0, 2, (2, 9, 4)).astype(np.float32)
    scale = np.asarray(positive_weights or [1.0] * 4)

    def wanted(logits):
        p = 1 / (1 + np.exp(-logits.astype(np.float64)))
        each = -labels * scale * (1 - p) ** 2 * np.log(p) - (1 - labels) * p**2 * np.log(1 - p)
        return float((each * WEIGHTS[..., None]).sum() / (4 * WEIGHTS.sum()))

    value, gradient = ours(losses.binary_cross_entropy, labels, positive_weights, 2.0)
    np.testing.assert_allclose(value, wanted(LOGITS), rtol=1e-5)
    np.testing.assert_allclose(gradient, differences(wanted, LOGITS), atol=1e-6)


@pytest.mark.parametrize("name", EQUATIONS)
def test_of_certain_logits_losses_and_gradients_are_finite(name):
    logits = jnp.asarray([[200.0, 0.0, -200.0], [0.0, 200.0, 0.0]])
    loss = lambda logits: losses.LOSSES[name](logits, jnp.zeros(2, jnp.int32), 0.5).sum()  # noqa: E731
    assert all(np.isfinite(x).all() for x in jax.value_and_grad(loss)(logits))


def test_at_strength_zero_there_is_no_number():
    for options in OPTIONS.values():
        assert not tasks.build(options()).numbers
        assert tasks.build(options(focal=0.5)).numbers == {"focal": 0.5}
    found = tasks.build(OPTIONS["text"](contrastive=0.5, focal=2.0)).numbers
    assert found == {"focal": 2.0, "contrastive": 0.5, "contrastive_temperature": 0.3}


def test_class_balance_is_the_inverse_of_the_effective_number():
    """Cui et al. 2019, eqs. 3 and 4, as printed; nearly alike for a small beta, by frequency for one near 1."""
    counts, beta = np.asarray([5000, 20, 1]), 0.999
    number = [(1 - beta**n) / (1 - beta) for n in counts]
    wanted = np.asarray([1 / e for e in number]) * 3 / sum(1 / e for e in number)
    np.testing.assert_allclose(weighting.effective(counts, beta), wanted, rtol=1e-9)
    np.testing.assert_allclose(weighting.effective(counts, 1e-6), [1, 1, 1], rtol=1e-5)
    by_count = 1 / counts * 3 / (1 / counts).sum()
    np.testing.assert_allclose(weighting.effective(counts, 0.999999), by_count, rtol=1e-2)
