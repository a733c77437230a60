"""CSV (RFC 4180) and TSV (no quoting): every cell stays the text that it is."""

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from jaxft.config import Data
from jaxft.errors import UserError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHERS = (",", ";", "\t", "|")
"""What is tried, in this order, where a header is not separated by what its suffix says."""

SAMPLE = 50
"""Rows that must agree with the header for another delimiter."""

BATCH = 1 << 16
"""Rows that become one Arrow chunk."""


def read(text: str, origin: str, suffix: str, data: Data, notes: list[str]) -> pa.Table:
    """Returns the table of a file; what separates its cells, if that is not what its suffix says, is put in `notes`.

    Raises:
      UserError: a row with too few or too many cells, broken quotes, two columns of one name, and where.
    """
    csv.field_size_limit(2**31 - 1)  # the default takes a document of more than 128 KiB for an error
    delimiter = _named(data.delimiter) or _sniffed(text, suffix, len(data.columns))
    if delimiter != DELIMITERS[suffix] and not data.delimiter:
        notes.append(
            f"{origin}: cells are separated by {delimiter!r}, as its first lines tell; else set data.delimiter"
        )
    parsed = _rows(text, origin, delimiter, suffix, data.columns)
    names = list(data.columns) or next(parsed, [])
    if not names:
        raise UserError(f"{origin} has no header line")
    twice = max(names, key=names.count)
    if names.count(twice) > 1:
        raise UserError(f"{origin}: two columns are named {twice!r}; rename one, or set config.data.columns")
    tables = [pa.table({name: pa.array([], pa.string()) for name in names})]
    while batch := list(itertools.islice(parsed, BATCH)):
        tables.append(pa.table([pa.array(cells, pa.string()) for cells in zip(*batch, strict=True)], names=names))
    return pa.concat_tables(tables)


def _named(delimiter: str) -> str:
    """The character that `data.delimiter` says; a shell makes it hard to write a tab."""
    delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(delimiter) > 1 or delimiter in ('"', "\n", "\r"):
        raise UserError(f"config.data.delimiter is {delimiter!r}; it must be one character, such as , ; | or tab")
    return delimiter


def _reader(text: str, delimiter: str, suffix: str) -> Any:
    quoting = csv.QUOTE_NONE if suffix == ".tsv" and delimiter == "\t" else csv.QUOTE_MINIMAL
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)


def _sniffed(text: str, suffix: str, columns: int) -> str:
    """What the suffix says, unless it leaves the header in one cell, and another splits all first rows alike."""
    usual = DELIMITERS[suffix]

    def widths(delimiter: str) -> set[int]:
        try:
            sample = itertools.islice(filter(None, _reader(text, delimiter, suffix)), SAMPLE)
            first = next(sample, [])
            # The usual one is judged by the first row alone: a later row that does not fit is an error, and is named.
            return {len(first)} if delimiter == usual else {len(first), *map(len, sample)}
        except csv.Error:
            return {0}

    def fits(delimiter: str) -> bool:
        found = widths(delimiter)
        return len(found) == 1 and max(found) > 1 and columns in (0, max(found))

    others = (one for one in OTHERS if one != usual and columns != 1 and fits(one))
    return usual if fits(usual) else next(others, usual)


def _rows(text: str, origin: str, delimiter: str, suffix: str, columns: Sequence[str]) -> Iterator[list[str]]:
    """The rows that are not empty.

    Raises:
      UserError: one has another number of cells than the first, or its quotes are broken.
    """
    reader = _reader(text, delimiter, suffix)
    line, width = 1, len(columns)
    try:
        for row in reader:
            width = width or len(row)
            if row and len(row) != width:
                source = "config.data.columns names" if columns else "the first line has"
                raise UserError(f"{origin}, line {line} has {len(row)} cell(s), but {source} {width}")
            if row:
                yield row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{origin}, line {line}: broken quotes in the row that begins here ({error})") from error
