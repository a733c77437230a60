"""Losses that tasks share: each is a sum, and the sum of the weights that it is divided by."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxft import config
from jaxft.models import nn
from jaxft.types import Array, Bool, Float, Int

Sums = tuple[Float[Array, ""], Float[Array, ""]]

Strength = float | Float[Array, ""]


def on(strength: Strength) -> bool:
    """Tells whether a number of the loss is part of the program: a strength that is data is above zero."""
    return isinstance(strength, jax.Array) or strength > 0


def cross_entropy(
    logits: Float[Array, "*lead classes"],
    labels: Int[Array, "*lead"],
    weights: Float[Array, "*lead"],
    class_weights: Sequence[float] = (),
    smoothing: Strength = 0.0,
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
    if on(smoothing):
        total = (1 - smoothing) * total - smoothing * (weights * log_probs.mean(-1)).sum()
    return total, counts.sum()


def log_probability(
    logits: Float[Array, "*lead classes"], labels: Int[Array, "*lead"]
) -> tuple[Float[Array, "*lead"], Float[Array, "*lead"]]:
    """Returns log p and log (1 - p) of the label's probability p = softmax(logits)[label], both exact near 0 and 1."""
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    whole = jax.nn.logsumexp(logits, axis=-1)
    others = jax.nn.logsumexp(jnp.where(right, -jnp.inf, logits), axis=-1)
    return jnp.where(right, logits, 0).sum(-1) - whole, others - whole


def focal(logits: Float[Array, "*lead classes"], labels: Int[Array, "*lead"], gamma: Strength) -> Float[Array, "*lead"]:
    """Computes -(1 - p)^gamma log p (Lin et al. 2017, eq. 4)."""
    log_p, log_rest = log_probability(logits, labels)
    return -jnp.exp(gamma * log_rest) * log_p


def generalized(
    logits: Float[Array, "*lead classes"], labels: Int[Array, "*lead"], q: Strength
) -> Float[Array, "*lead"]:
    """Computes (1 - p^q) / q (Zhang and Sabuncu 2018, eq. 6): cross-entropy as q goes to 0, 1 - p at 1."""
    return -jnp.expm1(q * log_probability(logits, labels)[0]) / q


def symmetric(
    logits: Float[Array, "*lead classes"], labels: Int[Array, "*lead"], beta: Strength
) -> Float[Array, "*lead"]:
    """Computes -log p - beta A (1 - p) (Wang et al. 2019, eqs. 5 and 8, with alpha 1), of A = -4 for log 0."""
    log_p, log_rest = log_probability(logits, labels)
    return -log_p + 4 * beta * jnp.exp(log_rest)


LOSSES: dict[str, Callable[[Array, Array, Strength], Array]] = {
    "focal": focal,
    "generalized": generalized,
    "symmetric": symmetric,
}
"""Name of a knob of `config.Classification` -> the loss of each label instead of -log p, by its strength."""

STRENGTHS = ("label_smoothing", *LOSSES)
"""Knobs of which at most one is above zero."""


def strengths(options: config.Classification) -> dict[str, float]:
    """Returns the numbers of the loss by name; see `jaxft.tasks.base.Task.numbers`."""
    return {name: getattr(options, name) for name in STRENGTHS if getattr(options, name)}


def scale_of(options: config.Classification, labels: Int[Array, "*lead"]) -> Float[Array, "*lead"]:
    """Returns the class weight of each label."""
    if not options.class_weights:
        return jnp.ones(labels.shape)
    return jnp.asarray(options.class_weights, jnp.float32)[labels]


def of_classes(
    options: config.Classification,
    logits: Float[Array, "*lead classes"],
    labels: Int[Array, "*lead"],
    weights: Float[Array, "*lead"],
) -> Sums:
    """Computes the loss that the options name, its class weights included, of labels of which one holds.

    Args:
      options: whose strengths may be arrays.
      weights: 1 where a label counts, else 0.
    """
    for name, loss in LOSSES.items():
        if on(strength := getattr(options, name)):
            counts = weights * scale_of(options, labels)
            return (counts * loss(logits, labels, strength)).sum(), counts.sum()
    return cross_entropy(logits, labels, weights, options.class_weights, options.label_smoothing)


def contrastive(
    vectors: Float[Array, "examples width"],
    labels: Int[Array, " examples"],
    there: Bool[Array, " examples"],
    temperature: Strength,
) -> Float[Array, " examples"]:
    """Computes the supervised contrastive loss of each example (Khosla et al. 2020, eq. 2; Gunel et al. 2021, eq. 3).

    -1 / |P| sum over P of log(exp(v . p / t) / sum over A of exp(v . a / t)), vectors of length 1: A are all other
    examples, P those of A with the same label. It is 0 where P is empty.

    Args:
      there: which examples are; the others are in no A.
    """
    vectors = nn.unit(vectors)
    scores = vectors @ vectors.T / temperature
    others = there & ~jnp.eye(len(there), dtype=bool)
    log_probs = scores - jax.nn.logsumexp(jnp.where(others, scores, -1e30), axis=-1, keepdims=True)
    alike = others & (labels == labels[:, None])
    return -jnp.where(alike, log_probs, 0).sum(-1) / jnp.maximum(alike.sum(-1), 1)


def binary_cross_entropy(
    logits: Float[Array, "*lead labels"],
    labels: Float[Array, "*lead labels"],
    weights: Float[Array, "*lead"],
    positive_weights: Sequence[float] = (),
    gamma: Strength = 0.0,
) -> Sums:
    """-log sigmoid(logit) where a label holds, -log sigmoid(-logit) where not, as torch.nn.BCEWithLogitsLoss.

    Args:
      weights: 1 for an example, 0 for an empty slot.
      positive_weights: of each label, where it holds (`pos_weight` there); empty: all 1.
      gamma: of the focal loss: each is multiplied by (1 - p)^gamma of the probability p of what is the case.
    """
    held = labels * jnp.asarray(positive_weights, jnp.float32) if positive_weights else labels
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    if on(gamma):
        yes, no = jnp.exp(gamma * no) * yes, jnp.exp(gamma * yes) * no
    losses = -(held * yes + (1 - labels) * no)
    return (weights * losses.sum(-1)).sum(), weights.sum() * logits.shape[-1]


def divergence(logits: Float[Array, "*lead classes"], others: Float[Array, "*lead classes"]) -> Float[Array, "*lead"]:
    """Computes KL(p || q) of p = softmax(logits) and q = softmax(others); a class at -inf in both has no part in it."""
    p, q = jax.nn.log_softmax(logits), jax.nn.log_softmax(others)
    return jnp.where(jnp.isneginf(logits), 0, jnp.exp(p) * (p - q)).sum(-1)


def binary_divergence(
    logits: Float[Array, "*lead labels"], others: Float[Array, "*lead labels"]
) -> Float[Array, "*lead"]:
    """Computes the sum over labels of KL(p || q) of yes or no, of p = sigmoid(logit) and q = sigmoid(other)."""
    each = lambda x, y: jnp.exp(jax.nn.log_sigmoid(x)) * (jax.nn.log_sigmoid(x) - jax.nn.log_sigmoid(y))  # noqa: E731
    return (each(logits, others) + each(-logits, -others)).sum(-1)


def squared_error(scores: Float[Array, "*lead"], labels: Float[Array, "*lead"], weights: Float[Array, "*lead"]) -> Sums:
    """(score - label)^2."""
    return (weights * jnp.square(scores - labels)).sum(), weights.sum()
