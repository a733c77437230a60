"""Columns in the kind that a task reads: text, or numbers.

A value that a task reads as text is text, whatever the file has: the cell of a CSV file as it stands there, a number of
a JSON or Parquet file as JSON writes it. A number is made of a cell only where a task asks for a number.
"""

import ast
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from jaxft.data import json_rows
from jaxft.data.sources import Split, check_text
from jaxft.errors import UserError

pc: Any = pyarrow.compute  # its functions are made at run time, where no type checker sees them

# What makes a column of cells numeric. No leading zeros, at most 15 digits before a point: codes, long ids stay text.
NUMBERS = {
    r"^-?(0|[1-9]\d{0,17})$": pa.int64(),
    r"^-?((0|[1-9]\d{0,14})(\.\d*)?|\.\d+)([eE][+-]?\d+)?$": pa.float64(),
}

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")

LARGEST = float(np.finfo(np.float32).max)
"""Of a score."""


def is_text(column: pa.ChunkedArray) -> bool:
    """Whether a column holds text, of which some or all may be null."""
    kind = column.type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def with_numbers(split: Split, column: str) -> Split:
    """Returns the split with a column of texts that are all numbers as int64 or float64, empty ones null.

    Blanks around a number do not count. A column of anything else stays as it is.
    """
    values = split.table[column]
    if not is_text(values):
        return split
    values = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
    cells = values.filter(pc.fill_null(pc.not_equal(values, ""), False))
    fitting = (kind for regex, kind in NUMBERS.items() if pc.all(pc.match_substring_regex(cells, regex)).as_py())
    kind = next(fitting, None) if len(cells) else None
    if kind is None:
        return split
    empty = pa.scalar(None, pa.large_string())
    return _replaced(split, column, pc.if_else(pc.equal(values, ""), empty, values).cast(kind))


def spelled_value(text: str) -> list[Any] | dict[Any, Any] | None:
    """Returns the list or the object that a text spells, as Python or JSON writes it; None: it spells none.

    A tuple or a set is a list.
    """
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "()", "{}"):
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
    if isinstance(found, dict):
        return found
    if not isinstance(found, list | tuple | set):
        return None
    values = sorted(found, key=str) if isinstance(found, set) else list(found)
    if values and all(isinstance(one, str) for one in values) and len(QUOTED.findall(text)) != len(values):
        return None  # Python joins texts that stand side by side, as numpy prints them: ['a' 'b'] is one
    return values


def spells(split: Split, column: str, kind: type) -> bool:
    """Whether a column of texts spells lists (`kind` list), or objects (dict), and nothing else; null is none."""
    values = split.table[column]
    if not is_text(values):
        return False
    return all(isinstance(value and spelled_value(value), kind) for value in values.to_pylist())


def with_spelled(split: Split, column: str, kind: type) -> Split:
    """Returns the split with lists or objects in a column that `spells` them, in a CSV file, which has no others."""
    if not split.cells or not spells(split, column, kind):
        return split
    values: list[Any] = [spelled_value(value) for value in split.table[column].to_pylist()]
    try:
        return _replaced(split, column, pa.chunked_array([pa.array(json_rows.spans(values))]))
    except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
        return split


def with_scores(split: Split, column: str, what: str) -> Split:
    """Returns the split with a column of finite numbers, which may be texts of them.

    Args:
      what: an error calls them this.

    Raises:
      UserError: a value that is none, and where.
    """
    split = with_numbers(split, column)
    values, text = split.table[column], is_text(split.table[column])
    numbers = [_number(value) for value in values.to_pylist()] if text else values.to_pylist()
    for row, value in enumerate(numbers):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            given = f"{what} {values[row].as_py()!r} in {column!r}"
            hint = split.hint if value is None else ""
            raise UserError(f"{split.where(row)}: {given} is not a finite number{hint}")
    return _replaced(split, column, pa.chunked_array([pa.array(numbers, pa.float64())])) if text else split


def _number(cell: str | None) -> float | None:
    try:
        return float(cell or "")
    except ValueError:
        return None


def with_text(split: Split, column: str) -> Split:
    """Returns the split with a column of numbers as text, as `written` writes them.

    Raises:
      UserError: the column holds anything but text and numbers, or empty text; see `sources.check_text`.
    """
    values = split.table[column]
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        texts = [None if value is None else written(value) for value in values.to_pylist()]
        split = _replaced(split, column, pa.chunked_array([pa.array(texts, pa.large_string())]))
    check_text(split, column)
    return split


def written(number: int | float) -> str | None:
    """Returns a number as JSON writes it, whole ones without a point (7.5, 2024); None of what is no number (NaN)."""
    if isinstance(number, int) or (number.is_integer() and abs(number) < 1e15):
        return str(int(number))
    return None if math.isnan(number) else repr(number)


def numbered(values: Sequence[str], names: Sequence[str]) -> bool:
    """Whether labels are the numbers (from 0) of names, none of which is a number itself."""
    ids = {str(i) for i in range(len(names))}
    return bool(values) and ids.issuperset(values) and not any(name.lstrip("-").isdigit() for name in names)


def _replaced(split: Split, column: str, values: Any) -> Split:
    at = split.table.column_names.index(column)
    return split._replace(table=split.table.set_column(at, column, values))
