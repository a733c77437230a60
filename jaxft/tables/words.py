"""Tagged texts in one form, whatever the user has: words with tags, or texts with spans of characters."""

import bisect
import itertools
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa

from jaxft.config import TokenClassification
from jaxft.data import tags as schemes
from jaxft.data.columns import numbered, with_spelled, with_text, written
from jaxft.data.sources import Split, require_columns
from jaxft.errors import UserError

TEXT, STARTS = "_text", "_starts"
"""Columns beside the words: the text that they are of, and the character that each begins at."""


def split_text(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end: runs of letters, marks and digits; any other character is a word.

    So is each Chinese or Japanese character, as in BERT's tokenizer.
    """
    words: list[tuple[int, int]] = []
    before = " "
    for at, character in enumerate(text):
        kind = _kind(character)
        if kind == "w" == before:
            words[-1] = (words[-1][0], at + 1)
        elif kind != " ":
            words.append((at, at + 1))
        before = kind
    return words


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    if character.isspace():
        return " "
    chinese = (
        "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff"
    )
    return "w" if unicodedata.category(character)[0] in "LMN" and not chinese else "."


class Text(NamedTuple):
    text: str
    words: list[str]
    starts: list[int]

    @classmethod
    def of(cls, value: str | list[str]) -> "Text":
        """A text, or words, which are then joined by blanks."""
        if isinstance(value, str):
            places = split_text(value)
            return cls(value, [value[a:b] for a, b in places], [a for a, _ in places])
        starts = [0, *itertools.accumulate(len(word) + 1 for word in value[:-1])]
        return cls(" ".join(value), value, starts)


class Moved:
    """Counts spans, and those that begin or end inside a word."""

    def __init__(self) -> None:
        self.spans, self.inside = 0, 0

    def lines(self, column: str) -> list[str]:
        if not self.inside:
            return []
        what = "begin or end inside a word, and take the whole word: are they counted in characters?"
        return [f"{self.inside:,} of {self.spans:,} spans in {column!r} {what}"]


def read(options: TokenClassification, split: Split, labelled: bool) -> Split:
    """Returns the words, the text that they are of, where they begin in it and, if labelled, their tags.

    Tags are names, or numbers of `options.labels`; of entities those of BILOU and BMES become those of BIOES.

    Raises:
      UserError: words or tags that are none, or not as many; spans outside of their text; and where.
    """
    require_columns(split, {"task.tokens": options.tokens} | ({"task.tags": options.tags} if labelled else {}))
    split = with_spelled(split, options.tokens, list)
    split = with_spelled(split, options.tags, list) if labelled else split
    kind = split.table[options.tokens].type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if listed:
        values = [
            _words(value, options, split.where(row))
            for row, value in enumerate(split.table[options.tokens].to_pylist())
        ]
    else:
        split = with_text(split, options.tokens)
        values = split.table[options.tokens].to_pylist()
    texts = [Text.of(value) for value in values]
    words, strings, numbers = pa.list_(pa.string()), pa.large_string(), pa.list_(pa.int64())
    table = pa.table({
        options.tokens: pa.array([one.words for one in texts], words),
        TEXT: pa.array([one.text for one in texts], strings),
        STARTS: pa.array([one.starts for one in texts], numbers),
    })  # fmt: skip
    if not labelled:
        return split._replace(table=table)
    given, moved = split.table[options.tags].to_pylist(), Moved()
    if listed:
        tags = [
            _listed(value, one, options, split, row) for row, (value, one) in enumerate(zip(given, texts, strict=True))
        ]
    else:
        tags = [
            _from_spans(value, one, options, split.where(row), moved)
            for row, (value, one) in enumerate(zip(given, texts, strict=True))
        ]
    tags, notes = _known(options, split, tags)
    tags = [_converted(options, part, split.where(row)) for row, part in enumerate(tags)]
    table = table.append_column(options.tags, pa.array(tags, words))
    return split._replace(table=table).noting(*moved.lines(options.tags), *notes)


def _words(words: Any, options: TokenClassification, where: str) -> list[str]:
    """The words of a row; a number is one too."""
    if not words:
        raise UserError(f"{where}: {options.tokens!r} holds no words; mend or remove the row")
    found = []
    for one in words:
        word = written(one) if isinstance(one, int | float) and not isinstance(one, bool) else one
        if not isinstance(word, str) or not word:
            raise UserError(f"{where}: {options.tokens!r} holds a word that is {one!r}; mend or remove the row")
        found.append(word)
    return found


def _listed(tags: Any, text: Text, options: TokenClassification, split: Split, row: int) -> list[str]:
    """A tag a word, by name; numbers are those of `options.labels`."""
    where = split.where(row)
    if isinstance(tags, list) and all(isinstance(tag, int) and 0 <= tag < len(options.labels) for tag in tags):
        tags = [options.labels[tag] for tag in tags]
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        hint = "it must be a list of a tag a word, such as ['B-PER', 'O'], or of their numbers in config.task.labels"
        raise UserError(f"{where}: {options.tags!r} holds {str(tags)[:40]}; {hint}{split.hint}")
    if len(tags) != len(text.words):
        counts = f"{len(text.words)} words in {options.tokens!r}, but {len(tags)} tags in {options.tags!r}"
        raise UserError(f"{where}: {counts}; there must be a tag a word")
    return tags


def _from_spans(spans: Any, text: Text, options: TokenClassification, where: str, moved: Moved) -> list[str]:
    """IOB2 tags of the words that the spans touch."""
    ends = [start + len(word) for start, word in zip(text.starts, text.words, strict=True)]
    found: list[schemes.Entity] = []
    size = len(text.text)
    for span in sorted(_spans(spans, options.tags, where), key=lambda span: span[1]):
        kind, start, end = span
        if not 0 <= start < end <= size:
            hint = f"its text has {size} characters; start counts from 0, end is one past the last"
            raise UserError(f"{where}: the span {start} to {end} ({kind}) in {options.tags!r} lies outside; {hint}")
        first, last = bisect.bisect_right(ends, start), bisect.bisect_left(text.starts, end)
        if first == last:
            raise UserError(f"{where}: the span {start} to {end} ({kind}) in {options.tags!r} holds no word; remove it")
        if found and found[-1][2] > first:
            word = text.words[first]
            hint = "each word can have one tag; keep one of them"
            raise UserError(
                f"{where}: two spans in {options.tags!r} hold the word {word!r} at {text.starts[first]}; {hint}"
            )
        moved.spans += 1
        moved.inside += start > text.starts[first] or end < ends[last - 1]
        found.append((kind, first, last))
    return schemes.write(found, len(text.words), "IOB2")


def _spans(spans: Any, column: str, where: str) -> Iterator[schemes.Entity]:
    for span in [] if spans is None else spans if isinstance(spans, list) else [spans]:
        kind, start, end = (span.get(key) for key in ("label", "start", "end")) if isinstance(span, dict) else "???"
        if not (isinstance(kind, str) and kind and isinstance(start, int) and isinstance(end, int)):
            raise UserError(
                f"{where}: {column!r} holds {str(span)[:60]}; of a text it must be a list of spans such as "
                '{"start": 0, "end": 5, "label": "PER"} or [0, 5, "PER"]'
            )
        yield kind, start, end


def _known(options: TokenClassification, split: Split, tags: list[list[str]]) -> tuple[list[list[str]], list[str]]:
    """The tags in a scheme that is known, as far as they are of entities, and what there is to say of them.

    Raises:
      UserError: names of tags in another scheme.
    """
    if options.problem == "words":
        return tags, []
    there = {tag for part in tags for tag in part}
    if numbered([*there], options.labels):
        tags = [[options.labels[int(tag)] for tag in part] for part in tags]
        there = {tag for part in tags for tag in part}
    others = sorted(tag for tag in there if schemes.bioes(tag) != tag)
    if others and (options.problem == "entities" or schemes.some_entity(there)):
        named = next((name for name in options.labels if schemes.bioes(name) != name), None)
        if named:
            hint = f"write {schemes.bioes(named)}, as BIOES does: tags are turned into it"
            raise UserError(f"config.task.labels holds {named!r}, a tag of another scheme; {hint}")
        note = f"tags in {options.tags!r} such as {others[0]} are read as those of BIOES, {schemes.bioes(others[0])}"
        return [[schemes.bioes(tag) for tag in part] for part in tags], [note]
    near = schemes.nearly(there)
    if near is None or split.key not in ("", "train"):
        return tags, []
    hint = f"to have them measured as entities write {near[1]} and O, else set config.task.problem=words"
    return tags, [f"tags in {options.tags!r} such as {near[0]} are nearly, but not quite, those of entities; {hint}"]


def _converted(options: TokenClassification, tags: list[str], where: str) -> list[str]:
    """In the scheme that is asked for."""
    if options.scheme or options.problem == "entities":
        for tag in tags:
            check_tag(tag, options.tags, where)
    return schemes.write(schemes.read(tags), len(tags), options.scheme) if options.scheme else tags


def check_tag(tag: str, column: str, where: str) -> None:
    """Raises UserError where a tag is none of an entity; says what it nearly is."""
    if not schemes.TAG.fullmatch(tag):
        near = schemes.nearly([tag])
        hint = (f"did you mean {near[1]!r}? or, " if near else "") + "for tags that are no entities set"
        what = f"tag {tag!r} in {column!r} is none of O, B-X, I-X, E-X, S-X"
        raise UserError(f"{where}: {what}; {hint} config.task.problem=words")
