"""Text as masked language modelling takes it: cut into pieces, some of whose tokens are hidden and to be guessed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.batch import IGNORED

FIXED = -1
"""The epoch of the masking that evaluation uses."""


class Piece(NamedTuple):
    """Tokens, and of each the number of the word that it is of; -1 for special tokens."""

    ids: np.ndarray
    words: np.ndarray


def cut(tokenizer: Any, texts: Sequence[str], max_length: int, join: bool) -> tuple[list[Piece], list[int]]:
    """Pieces `[CLS] ... [SEP]` of at most `max_length` tokens, full but for the last one of what is cut.

    Args:
      join: put all texts one after the other, [SEP] between them; otherwise each text is cut by itself.

    Returns:
      The pieces, and the text that each begins in (every text has one, if not joined).
    """
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    first, separator = tokenizer.cls_token_id, tokenizer.sep_token_id
    whole = [
        Piece(np.append(ids, separator), np.append([-1 if word is None else word for word in e.word_ids], -1))
        for ids, e in zip(encoded["input_ids"], encoded.encodings, strict=True)
    ]
    numbers = list(range(len(whole)))
    if join:
        before = np.cumsum([0, *(part.words.max(initial=-1) + 1 for part in whole)])
        words = [np.where(part.words < 0, -1, part.words + n) for part, n in zip(whole, before, strict=False)]
        whole = [Piece(np.concatenate([part.ids for part in whole]), np.concatenate(words))]
    pieces, rows = [], []
    for number, (ids, words) in zip(numbers, whole, strict=False):
        for start in range(0, max(len(ids) - 1, 1), max_length - 2):
            end = min(start + max_length - 2, len(ids) - 1)  # the [SEP] at the very end is put there below
            framed = np.concatenate([[first], ids[start:end], [separator]])
            pieces.append(Piece(framed, np.pad(words[start:end], 1, constant_values=-1)))
            rows.append(number)
    return pieces, rows


def most(tokens: int, fraction: float) -> int:
    """At most so many of an example's tokens are hidden."""
    return max(int(fraction * tokens), 1)


def hide(
    piece: Piece, fraction: float, mask: int, vocabulary: int, *, seed: int, epoch: int, example: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hides words, in random order, as long as they hold `most` tokens at most (Devlin et al. 2019, appendix A.1).

    Of the hidden tokens 80% are replaced by `mask`, 10% by any of the `vocabulary`, and 10% stay. What happens is a
    function of (seed, epoch, example) alone. Each token of a word counts by itself here.

    Returns:
      The tokens, and the labels: what a hidden one was, or IGNORED.
    """
    ids, words = piece
    # A counter of its own beside those of `data.order`, which has the same keys.
    bits = np.random.Philox(key=[seed, epoch + 1], counter=[0, 0, example, 1]).random_raw(3 * len(ids))
    ranks, kinds, tokens = bits.reshape(3, -1)
    there, sizes = np.unique(words[words >= 0], return_counts=True)
    room, chosen = most(len(ids), fraction), []
    for at in np.argsort(ranks[: len(there)], kind="stable"):
        if sizes[at] <= room:
            chosen.append(there[at])
            room -= sizes[at]
    hidden = np.isin(words, chosen) & (words >= 0)
    share = kinds / 2.0**64
    changed = np.where(hidden & (share < 0.8), mask, ids)
    changed = np.where(hidden & (share >= 0.9), (tokens % np.uint64(vocabulary)).astype(ids.dtype), changed)
    return changed, np.where(hidden, ids, IGNORED)
