"""What gets a number: words, sentences or tokens of a text, and which tokens each of them has."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.errors import UserError

MOST_WORDS = 8
"""Words whose scores are asked for at a time, at most, where a model guesses them."""

UNITS = ("words", "phrases", "sentences", "tokens")

SENTENCE = re.compile(r".+?(?:[.!?。！？]+(?=\s|$)|(?<=[。！？])|$)", re.DOTALL)
"""A sentence ends where its stop is followed by a blank; a Chinese stop needs none."""

PHRASE = re.compile(r".+?(?:[.!?,;:。！？，、；：]+(?=\s|$)|(?<=[。！？，、；：])|$)", re.DOTALL)
"""A phrase ends where a sentence does, and at a comma, a semicolon or a colon."""

STOPS = tuple(".!?,;:。！？，、；：")
"""With these a phrase ends."""

STRETCHES = {"sentences": SENTENCE, "phrases": PHRASE}
"""Units that are stretches of words, and how each is found."""


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
      second: where the tokens of a second text begin, which the model reads by itself; 0: there is none.
      place: the token at which a model guesses words.
      asked: tokens that are such words, one to `MOST_WORDS`; none where words are not guessed.
    """

    ids: np.ndarray
    types: np.ndarray
    unit_of: np.ndarray
    units: list[Unit]
    cut: bool
    second: int = 0
    place: int = 0
    asked: tuple[int, ...] = ()

    @property
    def texts(self) -> int:
        """How many texts the model reads by themselves."""
        return 2 if self.second else 1

    @property
    def bare(self) -> bool:
        """Whether nothing is left of a text of it without its units, as there are no special tokens."""
        return not self.lengths(self.unit_of[None] < 0).all()

    def lengths(self, there: np.ndarray) -> np.ndarray:
        """Returns how many tokens there are of each text, `[n * texts]`, those of `there`, `[n, tokens]` of bool."""
        return np.add.reduceat(there.astype(np.int64), [0, self.second][: self.texts], axis=1).ravel()

    def examples(self, there: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what examples have beside their tokens, which are those of `there`, `[n, tokens]` of bool.

        Of two texts `row`, which says what belongs together; of guesses `at`, the token that is left of `place` or of
        those before it, and `asked`.
        """
        count = len(there)
        if self.second:
            return {"row": np.repeat(np.arange(count), 2)}
        if not self.asked:
            return {}
        at = there[:, : self.place + 1].sum(1, dtype=np.int32) - np.int32(1)
        words = np.zeros((count, MOST_WORDS), np.int32)
        words[:, : len(self.asked)] = self.asked
        return {"at": at, "asked": words}

    def always(self, token: int) -> "Reading":
        """Returns the same with a token that always stays; its unit goes where it has no other."""
        unit_of, unit = self.unit_of.copy(), self.unit_of[token]
        unit_of[token] = -1
        if unit < 0 or (unit_of == unit).any():
            return self._replace(unit_of=unit_of)
        units = [one for n, one in enumerate(self.units) if n != unit]
        return self._replace(unit_of=np.where(unit_of > unit, unit_of - 1, unit_of), units=units)


def reading(
    texts: Mapping[str, str], encoding: Any, places: Sequence[int], kind: str, starts: Sequence[int] | None = None
) -> Reading:
    """Returns the units of one row.

    Words are the tokenizer's own (its pre-tokenizer's): subwords of one are put together, by their offsets. A sentence
    or a phrase has the tokens that begin in it.

    Args:
      texts: column -> text, in the order in which the model reads them.
      encoding: the tokenizers' `Encoding` of the row, of which nothing is cut.
      places: those of its tokens that the model reads, ascending.
      kind: one of `UNITS`.
      starts: where each word begins in its text, of a tokenizer that was given words; None: it was given texts.
    """
    columns = list(texts)
    ends = {column: stretch_ends(text, kind) for column, text in texts.items()} if kind in STRETCHES else {}
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
        if kind in STRETCHES:
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


def joined(first: Reading, other: Reading) -> Reading:
    """Returns two texts that the model reads each by itself as one, whose units are those of both."""
    units = [*first.units, *other.units]
    unit_of = np.where(other.unit_of < 0, -1, other.unit_of + len(first.units))
    ids, types = (np.concatenate(both) for both in ((first.ids, other.ids), (first.types, other.types)))
    cut = first.cut or other.cut
    return Reading(ids, types, np.concatenate([first.unit_of, unit_of]), units, cut, second=len(first.ids))


def of_units(tokens: np.ndarray, reading: Reading) -> np.ndarray:
    """Returns the sum over the tokens of each unit, `[units]`."""
    there = reading.unit_of >= 0
    return np.bincount(reading.unit_of[there], tokens[there], minlength=len(reading.units))


def phrase_ends(units: Sequence[Unit]) -> list[bool]:
    """Returns whether a phrase, or a text, ends with each word."""
    following = [*(unit.column for unit in units[1:]), None]
    return [unit.column != other or unit.text.endswith(STOPS) for unit, other in zip(units, following, strict=True)]


def check_units(one: Reading, where: str, columns: Collection[str]) -> None:
    """Makes sure that a row has units.

    Raises:
      UserError: it has none.
    """
    if not one.units:
        named = " and ".join(repr(name) for name in columns)
        raise UserError(f"{where}: {named} has no word that the tokenizer knows of; nothing to explain")


def _unit(texts: Mapping[str, str], column: str, start: int, end: int) -> Unit:
    """The unit of these characters, without the blanks around it, which some tokenizers count in."""
    text = texts[column][start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return Unit(text, column, start, start + len(text))


def stretch_ends(text: str, kind: str) -> list[int]:
    """Returns where each of the `STRETCHES` but the last one ends: behind the blanks that follow it, ascending."""
    ends, at = [], 0
    while at < len(text) and (match := STRETCHES[kind].match(text, at)):
        at = match.end()
        at += len(text) - at - len(text[at:].lstrip())
        ends.append(at)
    return ends[:-1]
