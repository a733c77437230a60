"""A loss of one's own: label smoothing, and a penalty on confident predictions (Pereyra et al. 2017, eq. 3).

    python examples/loss.py

trains the quickstart with it. A loss is a function of the task's outputs and the batch. It returns the sum over the
examples and the sum of their weights, so that a batch can be split into parts and over devices.
"""

import jax
import jax.numpy as jnp

import jaxft

SMOOTHING, PENALTY = 0.1, 0.1


def loss(outputs, batch):
    """Cross-entropy with smoothed labels, minus `PENALTY` times the entropy of the prediction."""
    log_probs = jax.nn.log_softmax(outputs["logits"])  # [rows, slots, classes]
    classes = log_probs.shape[-1]
    target = (1 - SMOOTHING) * jax.nn.one_hot(batch["labels"], classes) + SMOOTHING / classes
    cross_entropy = -(target * log_probs).sum(-1)
    entropy = -(jnp.exp(log_probs) * log_probs).sum(-1)
    weight = batch["weights"]  # [rows, slots]: 1 for an example, 0 for an empty slot
    return (weight * (cross_entropy - PENALTY * entropy)).sum(), weight.sum()


if __name__ == "__main__":
    jaxft.train(jaxft.config.load("quickstart"), "/tmp/smoothed", loss=loss)
