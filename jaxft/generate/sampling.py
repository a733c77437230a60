"""From the scores of words to those that a token is drawn by: pure functions, `[rows, words] -> [rows, words]`.

Scores are logits or log probabilities in float32; a word that may not be drawn has -inf. Each is what the class of its
name in transformers/generation/logits_process.py computes, and where both are asked for they follow one another so.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.generate.options import How, Options
from jaxft.types import Array, Bool, Float, Int, Key


class Numbers(NamedTuple):
    """Options that the compiled program is given, `[]` each: another value compiles nothing."""

    temperature: Float[Array, ""]
    top_p: Float[Array, ""]
    min_p: Float[Array, ""]
    repetition_penalty: Float[Array, ""]
    length_penalty: Float[Array, ""]

    @classmethod
    def of(cls, options: Options) -> "Numbers":
        """Returns those of the options."""
        return cls(*(jnp.float32(getattr(options, name)) for name in cls._fields))


def penalized(
    scores: Float[Array, "rows words"],
    text: Int[Array, "rows room"],
    lengths: Int[Array, " rows"],
    penalty: Float[Array, ""],
) -> Float[Array, "rows words"]:
    """Returns scores s with s / penalty, or s * penalty below 0, of words in the text (Keskar et al. 2019, 4.1).

    Args:
      text: the first `lengths` tokens of each row.
    """
    there = _marked(scores, text, jnp.arange(text.shape[1]) < lengths[:, None])
    return jnp.where(there, jnp.where(scores < 0, scores * penalty, scores / penalty), scores)


def without_repeats(
    scores: Float[Array, "rows words"], text: Int[Array, "rows room"], lengths: Int[Array, " rows"], size: int
) -> Float[Array, "rows words"]:
    """Returns scores without words that would end a run of `size` tokens which the text has already."""
    count = text.shape[1] - size + 1
    if count < 1:
        return scores
    runs = jnp.stack([text[:, at : at + count] for at in range(size)], axis=-1)
    tail = lengths[:, None] - (size - 1) + jnp.arange(size - 1)
    ends = jnp.take_along_axis(text, jnp.maximum(tail, 0), axis=1)
    begun = (runs[..., :-1] == ends[:, None]).all(-1) & (jnp.arange(count) + size <= lengths[:, None])
    return jnp.where(_marked(scores, runs[..., -1], begun), -jnp.inf, scores)


def top_k(scores: Float[Array, "rows words"], count: int) -> Float[Array, "rows words"]:
    """Returns the best `count` scores of each row, and those as good as the last of them; others become -inf."""
    best = jax.lax.top_k(scores, min(count, scores.shape[-1]))[0]
    return jnp.where(scores < best[:, -1:], -jnp.inf, scores)


def top_p(scores: Float[Array, "rows words"], share: Float[Array, ""]) -> Float[Array, "rows words"]:
    """Returns the scores of the fewest words whose probabilities make `share` together (Holtzman et al. 2020, 3.1)."""
    ordered = jnp.sort(scores, axis=-1, descending=True)
    probs = jax.nn.softmax(ordered, axis=-1)
    within = jnp.cumsum(probs, axis=-1) - probs < share  # what is before a word; the best one is always within
    least = jnp.where(within, ordered, jnp.inf).min(-1, keepdims=True)
    return jnp.where(scores < least, -jnp.inf, scores)


def min_p(scores: Float[Array, "rows words"], part: Float[Array, ""]) -> Float[Array, "rows words"]:
    """Returns the scores of words that are at least `part` as likely as the likeliest (Nguyen et al. 2024)."""
    return jnp.where(scores < scores.max(-1, keepdims=True) + jnp.log(part), -jnp.inf, scores)


def kept(
    scores: Float[Array, "rows words"],
    text: Int[Array, "rows room"],
    lengths: Int[Array, " rows"],
    how: How,
    numbers: Numbers,
) -> Float[Array, "rows words"]:
    """Returns scores as what is in the text has changed them: penalties, and runs that may not come again."""
    if how.repetition:
        scores = penalized(scores, text, lengths, numbers.repetition_penalty)
    return without_repeats(scores, text, lengths, how.ngram) if how.ngram else scores


def drawn(
    scores: Float[Array, "rows words"], keys: Key[Array, " rows"], how: How, numbers: Numbers
) -> Int[Array, " rows"]:
    """Returns a word for each row: the best, or one drawn by the softmax of its scores, each row by its own key."""
    if not how.sample:
        return scores.argmax(-1)
    scores = scores / numbers.temperature
    scores = top_k(scores, how.top_k) if how.top_k else scores
    scores = top_p(scores, numbers.top_p) if how.top_p else scores
    scores = min_p(scores, numbers.min_p) if how.min_p else scores
    return jax.vmap(jax.random.categorical)(keys, scores)


def _marked(
    scores: Float[Array, "rows words"], words: Int[Array, "rows places"], counted: Bool[Array, "rows places"]
) -> Bool[Array, "rows words"]:
    """True at the words of each row that are counted."""
    rows = jnp.arange(len(words))[:, None]
    return jnp.zeros(scores.shape, bool).at[rows, words].max(counted)
