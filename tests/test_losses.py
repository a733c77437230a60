"""The losses that tasks share, with their gradients, against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
