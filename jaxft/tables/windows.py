"""Long inputs as overlapping windows of tokens, and which window sees a word best."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.errors import UserError


def encode(
    tokenizer: Any, *inputs: Any, max_length: int, stride: int, used: int = 0, **options: Any
) -> tuple[Any, Any]:
    """Tokenizes texts, or pairs of which the second is cut into windows.

    Args:
      inputs: a list of texts, or of lists of words, or two such lists.
      max_length: tokens a window, special ones included.
      stride: tokens that two windows of one text share.
      used: at most so many tokens of each window belong to the first text of a pair.
      options: of the tokenizer.

    Returns:
      The tokenizers' `Encoding` of each window, and `[windows]`, which input it is of.

    Raises:
      UserError: windows of this length cannot overlap so far.
    """
    room = max_length - tokenizer.num_special_tokens_to_add(pair=len(inputs) == 2) - used
    if stride >= room:  # the tokenizers' own answer is a panic
        raise UserError(
            f"config.task.stride is {stride}; it must be below the {max(room, 0)} tokens of a text that a window of "
            f"config.data.max_length {max_length} holds; set one of the two"
        )
    encoded = tokenizer(
        *inputs,
        truncation="only_second" if len(inputs) == 2 else True,
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        **options,
    )
    return encoded.encodings, np.asarray(encoded["overflow_to_sample_mapping"], np.int64)


def best_seen(windows: Sequence[Sequence[int | None]]) -> list[list[int]]:
    """Chooses for each word the one window of a text in which it has most context, that is, is farthest from an end.

    Args:
      windows: of each window, the word that each token is of, ascending; None for special tokens.

    Returns:
      The same with the word at the first token of each word that is chosen there, and -1 everywhere else.
    """
    best: dict[int, tuple[int, int, int]] = {}
    for number, words in enumerate(windows):
        inside = [at for at, word in enumerate(words) if word is not None]
        for at in inside:
            word, before = words[at], words[at - 1] if at else None
            context = min(at - inside[0], inside[-1] - at)
            if word is not None and word != before and (word not in best or context > best[word][0]):
                best[word] = (context, number, at)
    chosen = [[-1] * len(words) for words in windows]
    for word, (_, number, at) in best.items():
        chosen[number][at] = word
    return chosen
