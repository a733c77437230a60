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
from jaxft.data.sources import Split, check_text, require_columns
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


def read(options: TokenClassification, split: Split, labelled: bool) -> Split:
    """The words, the text that they are of, where they begin in it and, if labelled, their tags.

    Raises:
      UserError: words or tags that are none, or not as many; spans outside of their text; and where.
    """
    require_columns(split, {"task.tokens": options.tokens} | ({"task.tags": options.tags} if labelled else {}))
    column = split.table[options.tokens]
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values, to_tags = column.to_pylist(), _listed
        for row, words in enumerate(values):
            if not words or not all(isinstance(word, str) and word for word in words):
                what = "no words" if not words else f"a word that is {_first_bad(words)!r}"
                raise UserError(f"{split.where(row)}: {options.tokens!r} holds {what}; mend or remove the row")
    else:
        check_text(split, options.tokens)
        values, to_tags = column.to_pylist(), _from_spans
    texts = [Text.of(value) for value in values]
    words, strings, numbers = pa.list_(pa.string()), pa.large_string(), pa.list_(pa.int64())
    table = pa.table({
        options.tokens: pa.array([one.words for one in texts], words),
        TEXT: pa.array([one.text for one in texts], strings),
        STARTS: pa.array([one.starts for one in texts], numbers),
    })  # fmt: skip
    if labelled:
        given = split.table[options.tags].to_pylist()
        tags = [
            _converted(options, to_tags(value, one, options, split.where(row)), split.where(row))
            for row, (value, one) in enumerate(zip(given, texts, strict=True))
        ]
        table = table.append_column(options.tags, pa.array(tags, words))
    return split._replace(table=table)


def _first_bad(words: list[Any]) -> Any:
    return next(word for word in words if not (isinstance(word, str) and word))


def _listed(tags: Any, text: Text, options: TokenClassification, where: str) -> list[str]:
    """A tag a word."""
    if not isinstance(tags, list) or not all(isinstance(tag, str) and tag for tag in tags):
        hint = "it must be a list of a tag a word, such as ['B-PER', 'O']"
        raise UserError(f"{where}: {options.tags!r} holds {str(tags)[:40]}; {hint}")
    if len(tags) != len(text.words):
        counts = f"{len(text.words)} words in {options.tokens!r}, but {len(tags)} tags in {options.tags!r}"
        raise UserError(f"{where}: {counts}; there must be a tag a word")
    return tags


def _from_spans(spans: Any, text: Text, options: TokenClassification, where: str) -> list[str]:
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
        found.append((kind, first, last))
    return schemes.write(found, len(text.words), "IOB2")


def _spans(spans: Any, column: str, where: str) -> Iterator[schemes.Entity]:
    for span in [] if spans is None else spans if isinstance(spans, list) else [spans]:
        kind, start, end = (span.get(key) for key in ("label", "start", "end")) if isinstance(span, dict) else "???"
        if not (isinstance(kind, str) and isinstance(start, int) and isinstance(end, int)):
            raise UserError(
                f"{where}: {column!r} holds {str(span)[:60]}; of a text it must be a list of spans such as "
                '{"start": 0, "end": 5, "label": "PER"}'
            )
        yield kind, start, end


def _converted(options: TokenClassification, tags: list[str], where: str) -> list[str]:
    """In the scheme that is asked for."""
    if options.scheme or options.problem == "entities":
        for tag in tags:
            check_tag(tag, options.tags, where)
    return schemes.write(schemes.read(tags), len(tags), options.scheme) if options.scheme else tags


def check_tag(tag: str, column: str, where: str) -> None:
    if not schemes.TAG.fullmatch(tag):
        hint = "for tags that are no entities set config.task.problem=words"
        raise UserError(f"{where}: tag {tag!r} in {column!r} is none of O, B-X, I-X, E-X, S-X; {hint}")
