"""Other words in the place of one, by the word embeddings of the model itself: the nearest, and those that hurt most.

HotFlip (Ebrahimi et al. 2018, equation 4) takes the word v in the place of w that raises the loss most to first order:
(v - w) g, g being the gradient of the loss by the embedding of w. For all v the second part is the same. Of a word of
several tokens g is the sum of theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import program, sharding
from jaxft.batch import Target
from jaxft.models import nn
from jaxft.objectives.embeddings import added
from jaxft.predict.engine import CompiledEngine
from jaxft.types import Array, Batch, Params

COLUMNS: Mapping[str, Target] = {"aim": Target("example", np.int32)}
"""What the function of slopes reads of a batch beside tokens: the right label."""

KINDS = {"slope": "token"}
"""What it returns."""

SHORTEST = 2
"""Letters of a word, at least."""


class Words(NamedTuple):
    """The words that are one token of the model.

    Attributes:
      texts: how they are written.
      own: their embeddings, `[words, width]`.
      table: those of all tokens, `[tokens, width]`.
    """

    texts: list[str]
    own: np.ndarray
    table: np.ndarray


def of_model(tokenizer: Any, engine: CompiledEngine) -> Words:
    """Returns the words of a model: tokens that are letters alone, and that the tokenizer makes of them again."""
    flat = {path: x for part in engine.weights for path, x in nn.flatten(part).items()}
    table = np.asarray(flat[f"{engine.model.facts.words}/embedding"], np.float32)
    numbers = [[number] for number in range(len(tokenizer))]
    written = [
        text.strip() for text in tokenizer.backend_tokenizer.decode_batch(numbers)
    ]  # seconds less than one by one
    letters = {number: text for number, text in enumerate(written) if len(text) >= SHORTEST and text.isalpha()}
    # Not by what is behind the tokenizer, which pads where its file says so until the tokenizer is called.
    again = tokenizer([f" {text}" for text in letters.values()], add_special_tokens=False, return_attention_mask=False)
    ids = [number for number, found in zip(letters, again["input_ids"], strict=True) if found == [number]]
    return Words([letters[number] for number in ids], table[ids], table)


def nearest(words: Words, word: str, tokens: np.ndarray, most: int) -> list[str]:
    """Returns the words whose embeddings have the largest cosine with the mean of the word's, the nearest first.

    Args:
      tokens: ids of the word's, `[n]`.
    """
    norms = np.maximum(np.linalg.norm(words.own, axis=-1), 1e-12)
    return _best(words, word, words.own @ words.table[tokens].mean(0) / norms, most)


def uphill(words: Words, word: str, slope: np.ndarray, most: int) -> list[str]:
    """Returns the words whose embeddings raise the loss most by its gradient, `[width]`, the worst first."""
    return _best(words, word, words.own @ slope, most)


def _best(words: Words, word: str, scores: np.ndarray, most: int) -> list[str]:
    """The words with the largest scores, written as the word is; none of them is it, or of other letters than ASCII
    where it is of these.
    """
    found = []
    for at in np.argsort(-scores, kind="stable"):
        text = words.texts[at]
        if text.casefold() != word.casefold() and text.isascii() == word.isascii():
            found.append(_as_written(text, word))
            if len(found) == most:
                break
    return found


def _as_written(text: str, word: str) -> str:
    """A text in capitals, or with a capital first, where a word has them."""
    if word.isupper() and len(word) > 1:
        return text.upper()
    return text[:1].upper() + text[1:] if word[:1].isupper() else text


def make_slopes(composed: program.Program) -> Callable[[tuple[Params, Params], Batch], dict[str, Array]]:
    """Returns the jitted function `(weights, batch) -> KINDS`; the batch has `COLUMNS` too.

    A slope, `[rows, length, width]`, is the gradient of -log p of the right label by a token's embedding.
    """
    words = composed.model.facts.words
    width = nn.flatten(composed.spec)[f"{words}/embedding"].shape[1]

    def slopes(weights: tuple[Params, Params], batch: Batch) -> dict[str, Array]:
        inputs = {name: x for name, x in batch.items() if name not in COLUMNS}

        def total(by: Array) -> Array:
            logits = composed.forward(weights, inputs, lambda params: added(params, words, by))["logits"]
            right = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["aim"][..., None], axis=-1)[..., 0]
            return -(right * batch["weights"]).sum()

        return {"slope": jax.grad(total)(jnp.zeros((*batch["input_ids"].shape, width)))}

    places = jax.tree.map(lambda x: x.sharding, program.weights(composed.state))
    everywhere = sharding.replicated(composed.mesh)
    return jax.jit(slopes, in_shardings=(places, composed.batch_sharding), out_shardings=everywhere)
