"""What gets a number: words, sentences or tokens of a text, and which tokens each of them has."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

UNITS = ("words", "sentences", "tokens")

SENTENCE = re.compile(r".+?(?:[.!?。！？]+(?=\s|$)|(?<=[。！？])|$)", re.DOTALL)
"""A sentence ends where its stop is followed by a blank; a Chinese stop needs none."""


class Unit(NamedTuple):
    """A stretch of an input: `text` is the characters `start` .. `end` - 1 of the row's `column`."""

    text: str
    column: str
    start: int
    end: int


class Reading(NamedTuple):
    """The tokens of one row as the model reads them, and the units that they are of.

    Attributes:
      ids, types: `[tokens]`, ids and token types.
      unit_of: `[tokens]`, the number of each token's unit; -1: a special token, which always stays.
      units: in the order of the text.
      cut: whether the model reads only a part of the row, as it is too long.
    """

    ids: np.ndarray
    types: np.ndarray
    unit_of: np.ndarray
    units: list[Unit]
    cut: bool


def reading(
    texts: Mapping[str, str], encoding: Any, places: Sequence[int], kind: str, starts: Sequence[int] | None = None
) -> Reading:
    """Returns the units of one row.

    Words are the tokenizer's own (its pre-tokenizer's): subwords of one are put together, by their offsets. A sentence
    has the tokens that begin in it.

    Args:
      texts: column -> text, in the order in which the model reads them.
      encoding: the tokenizers' `Encoding` of the row, of which nothing is cut.
      places: those of its tokens that the model reads, ascending.
      kind: one of `UNITS`.
      starts: where each word begins in its text, of a tokenizer that was given words; None: it was given texts.
    """
    columns = list(texts)
    ends = {column: _sentence_ends(text) for column, text in texts.items()} if kind == "sentences" else {}
    spans: dict[tuple[int, int], tuple[int, int]] = {}
    number_of: dict[tuple[int, int], int] = {}
    unit_of = np.full(len(places), -1)
    before = (-1, -1), 0
    for at, place in enumerate(places):
        sequence = encoding.sequence_ids[place]
        if sequence is None:
            continue
        start, end = encoding.offsets[place]
        if starts is not None:
            start, end = start + starts[encoding.word_ids[place]], end + starts[encoding.word_ids[place]]
        part = place
        if kind == "sentences":
            part = int(np.searchsorted(ends[columns[sequence]], start, side="right"))
        elif kind == "words" and encoding.word_ids[place] is not None:
            part = encoding.word_ids[place]
        key = sequence, part
        if before[0][0] == sequence and start < before[1]:
            key = before[0]  # bytes of one character are several tokens, which have all of it
        first, last = spans.get(key, (start, end))
        spans[key] = min(first, start), max(last, end)
        before = key, spans[key][1]
        unit_of[at] = number_of.setdefault(key, len(number_of))
    units = [_unit(texts, columns[sequence], *spans[sequence, part]) for sequence, part in number_of]
    ids, types = (np.asarray(x, np.int32)[list(places)] for x in (encoding.ids, encoding.type_ids))
    return Reading(ids, types, unit_of, units, len(places) < len(encoding.ids))


def _unit(texts: Mapping[str, str], column: str, start: int, end: int) -> Unit:
    """The unit of these characters, without the blanks around it, which some tokenizers count in."""
    text = texts[column][start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Unit(text, column, start, start + len(text))


def _sentence_ends(text: str) -> list[int]:
    """Where each sentence but the last one ends: behind the blanks that follow it, ascending."""
    ends, at = [], 0
    while at < len(text) and (match := SENTENCE.match(text, at)):
        at = match.end()
        at += len(text) - at - len(text[at:].lstrip())
        ends.append(at)
    return ends[:-1]
