"""Losses that tasks share: each is a sum, and the sum of the weights that it is divided by."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxft.types import Array, Float, Int

Sums = tuple[Float[Array, ""], Float[Array, ""]]


def cross_entropy(
    logits: Float[Array, "*lead classes"],
    labels: Int[Array, "*lead"],
    weights: Float[Array, "*lead"],
    class_weights: Sequence[float] = (),
    smoothing: float | Float[Array, ""] = 0.0,
) -> Sums:
    """-log softmax(logits)[label], as torch.nn.CrossEntropyLoss computes it, class weights and smoothing included.

    Args:
      weights: 1 where a label counts, else 0.
      class_weights: of each class; empty: all 1. The mean is then one over the weights of the labels.
      smoothing: share of each target that is spread evenly over the classes (Szegedy et al. 2016, section 7).
    """
    log_probs = jax.nn.log_softmax(logits)
    losses = -jnp.take_along_axis(log_probs, labels[..., None], axis=-1).squeeze(-1)
    counts = weights
    if class_weights:
        scale = jnp.asarray(class_weights, jnp.float32)
        counts, log_probs = weights * scale[labels], log_probs * scale
    total = (counts * losses).sum()
    if isinstance(smoothing, jax.Array) or smoothing:
        total = (1 - smoothing) * total - smoothing * (weights * log_probs.mean(-1)).sum()
    return total, counts.sum()


def binary_cross_entropy(
    logits: Float[Array, "*lead labels"],
    labels: Float[Array, "*lead labels"],
    weights: Float[Array, "*lead"],
    positive_weights: Sequence[float] = (),
) -> Sums:
    """-log sigmoid(logit) where a label holds, -log sigmoid(-logit) where not, as torch.nn.BCEWithLogitsLoss.

    Args:
      weights: 1 for an example, 0 for an empty slot.
      positive_weights: of each label, where it holds; empty: all 1.
    """
    held = labels * jnp.asarray(positive_weights, jnp.float32) if positive_weights else labels
    losses = -(held * jax.nn.log_sigmoid(logits) + (1 - labels) * jax.nn.log_sigmoid(-logits))
    return (weights * losses.sum(-1)).sum(), weights.sum() * logits.shape[-1]


def squared_error(scores: Float[Array, "*lead"], labels: Float[Array, "*lead"], weights: Float[Array, "*lead"]) -> Sums:
    """(score - label)^2."""
    return (weights * jnp.square(scores - labels)).sum(), weights.sum()
