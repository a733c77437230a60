"""Documents as pairs of segments, of which the second follows the first or is of another document."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.tables.masking import Piece

NEXT, RANDOM = 0, 1
"""The label of a pair, as in transformers."""

END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n+")
"""Where a sentence ends: at a line's end, at a full stop and what is like it."""


class Pair(NamedTuple):
    """`[CLS] first [SEP] second [SEP]`, with the segment of each token."""

    piece: Piece
    types: np.ndarray
    label: int


def pair(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[Pair]:
    """Pairs of segments of the texts, each a document (Devlin et al. 2019, appendix A.2; half of them random).

    A document is cut, between sentences, into segments that fill half an example at most, and half the document; a
    sentence that is longer still is cut. A segment goes with the one behind it, and both are used up; or with one of
    another document, and the one behind it begins the next pair. What is random is a function of the texts alone. A
    document of one sentence has second segments only. There are no pairs without two documents and two sentences.
    """
    half = (max_length - 3) // 2
    documents = [_segments(parts, half) for parts in _tokens(tokenizer, texts) if parts]
    every = [segment for segments in documents for segment in segments]
    first = np.cumsum([0, *map(len, documents)])
    bits = iter(np.random.Philox(key=[0, 0], counter=[0, 0, 0, 2]).random_raw(2 * len(every)).tolist())
    pairs = []
    for segments, own in zip(documents, first, strict=False):
        at, others = 0, len(every) - len(segments)
        while at + 1 < len(segments) and others:
            label, other = next(bits) % 2, next(bits) % others
            random = every[other + len(segments) * (other >= own)]
            pairs.append(_framed(tokenizer, segments[at], segments[at + 1] if label == NEXT else random, label))
            at += 2 if label == NEXT else 1
    return pairs


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[Piece]]:
    """The sentences of each text, words numbered through."""
    sentences = [[part for part in END.split(text) if part.strip()] for text in texts]
    flat = [one for parts in sentences for one in parts]
    encoded = iter(tokenizer(flat, add_special_tokens=False, return_attention_mask=False, verbose=False).encodings)
    found = []
    for parts in sentences:
        own: list[Piece] = []
        for one in (next(encoded) for _ in parts):
            before = own[-1].words[-1] + 1 if own else 0
            if one.ids:
                own.append(Piece(np.asarray(one.ids), np.asarray(one.word_ids) + before))
        found.append(own)
    return found


def _segments(sentences: Sequence[Piece], half: int) -> list[Piece]:
    goal = min(half, sum(len(part.ids) for part in sentences) / 2)
    segments: list[Piece] = []
    for sentence in sentences:
        for start in range(0, len(sentence.ids), half):
            part = Piece(*(array[start : start + half] for array in sentence))
            if segments and len(segments[-1].ids) + len(part.ids) <= goal:
                part = Piece(*map(np.concatenate, zip(segments.pop(), part, strict=True)))
            segments.append(part)
    return segments


def _framed(tokenizer: Any, first: Piece, second: Piece, label: int) -> Pair:
    start, end = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    ids = np.concatenate([start, first.ids, end, second.ids, end])
    apart = second.words + int(first.words.max()) + 1  # words of two documents are not one, whatever their numbers
    words = np.concatenate([[-1], first.words, [-1], apart, [-1]])
    types = np.repeat([0, 1], [len(first.ids) + 2, len(second.ids) + 1])
    return Pair(Piece(ids, words), types, label)
