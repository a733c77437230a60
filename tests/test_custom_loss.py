"""A user's own loss, dropped into the program without touching the package (the example in README.md)."""

import jax
import jax.numpy as jnp
import numpy as np
from runs import experiment, weights

from jaxft import modes


def smoothed_with_confidence_penalty(outputs, batch):
    """Cross-entropy with label smoothing 0.1, plus 0.1 times the negative entropy of the prediction."""
    log_probs = jax.nn.log_softmax(outputs["logits"])
    classes = log_probs.shape[-1]
    target = 0.9 * jax.nn.one_hot(batch["labels"], classes) + 0.1 / classes
    cross_entropy = -(target * log_probs).sum(-1)
    negative_entropy = (jnp.exp(log_probs) * log_probs).sum(-1)
    weight = batch["weights"]
    return (weight * (cross_entropy + 0.1 * negative_entropy)).sum(), weight.sum()


def test_a_loss_of_ones_own_trains(tiny_model, cache, finished, tmp_path):
    results = modes.train(experiment(tiny_model, cache), str(tmp_path / "run"), loss=smoothed_with_confidence_penalty)
    assert np.isfinite(results["test/loss"])
    assert weights(tmp_path / "run") != weights(finished)


def test_the_loss_is_what_it_says(torch):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 3, 5)), rng.integers(0, 5, (4, 3))
    weight = rng.integers(0, 2, (4, 3)).astype(np.float32)
    total, count = smoothed_with_confidence_penalty(
        {"logits": jnp.asarray(logits)}, {"labels": labels, "weights": weight}
    )
    flat = torch.tensor(logits.reshape(-1, 5))[weight.reshape(-1) > 0]
    wanted = (
        torch.nn.functional.cross_entropy(
            flat, torch.tensor(labels.reshape(-1)[weight.reshape(-1) > 0]), label_smoothing=0.1, reduction="sum"
        )
        - 0.1 * torch.distributions.Categorical(logits=flat).entropy().sum()
    )
    np.testing.assert_allclose(float(total), float(wanted), rtol=1e-5)
    assert float(count) == weight.sum()
