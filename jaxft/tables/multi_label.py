"""Any number of labels a text, however the user has them: lists, vectors of 0 and 1, names in a text, columns."""

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jaxft.config import SequenceClassification
from jaxft.data.columns import numbered, spelled_value
from jaxft.data.sources import Split
from jaxft.errors import UserError

BOTH = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""How a cell says whether a label holds."""


def label_name(value: Any) -> str:
    """The name of a class that a table holds as text, a number or true/false."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_list(split: Split, column: str) -> bool:
    """Whether a column holds lists."""
    kind = split.table[column].type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def read(options: SequenceClassification, split: Split) -> Split:
    """Returns the split with a sorted list of label names a row in `options.label`.

    Raises:
      UserError: a row that says nothing, or what is no label, and where.
    """
    table, notes = split.table, []
    if options.label_columns:
        held = [_zeros_and_ones(split, column) for column in options.label_columns]
        lists = [
            [n for n, one in zip(options.label_columns, row, strict=True) if one] for row in zip(*held, strict=True)
        ]
    else:
        values = table[options.label].to_pylist()
        lists = [_parts(value, options, split.where(row), split.hint) for row, value in enumerate(values)]
        if _vectors(lists):
            lists = _of_vectors(options, split, lists)
        else:
            blank = sum(isinstance(part, str) and part != part.strip() for parts in lists for part in parts)
            notes += [blanks(blank, options.label)] * (blank > 0)
            lists = [_names(parts, values[row], options, split.where(row)) for row, parts in enumerate(lists)]
            if numbered([name for names in lists for name in names], options.labels):
                lists = [[options.labels[int(name)] for name in names] for names in lists]
                notes.append(by_number(options))
    array = pa.array([sorted(set(names)) for names in lists], pa.list_(pa.string()))
    at = table.column_names.index(options.label) if options.label in table.column_names else table.num_columns
    table = table.remove_column(at) if at < table.num_columns else table
    return split._replace(table=table.add_column(at, options.label, array)).noting(*notes)


def blanks(count: int, column: str) -> str:
    """A note of labels that have blanks around them."""
    return f"{count:,} labels in {column!r} have blanks around them, which do not count"


def by_number(options: SequenceClassification) -> str:
    """A note that labels are the numbers of names."""
    said = ", ".join(f"{i} is {name}" for i, name in enumerate(options.labels[:10]))
    more = ", ..." if len(options.labels) > 10 else ""
    return f"labels in {options.label!r} are numbers of config.task.labels: {said}{more}"


def _parts(value: Any, options: SequenceClassification, where: str, hidden: str) -> list[Any]:
    """What a cell lists."""
    if value is None:
        hint = f"write an empty list for none, or remove the row{hidden}"
        raise UserError(f"{where}: no label in {options.label!r}; {hint}")
    if not isinstance(value, str):
        return list(value) if isinstance(value, list) else [value]
    spelled = spelled_value(value)
    if isinstance(spelled, list) and all(isinstance(one, str | int | float | None) for one in spelled):
        return spelled
    if re.fullmatch(r"\s*\[[^\[\]]*\]\s*", value):
        hint = f"write ['a', 'b'], or names with {options.delimiter!r} between them"
        raise UserError(f"{where}: {options.label!r} holds {value[:60]!r}, which is no list of labels; {hint}")
    parts = value.split(options.delimiter) if options.delimiter else [value]
    return [] if not value.strip() else [part.strip() for part in parts]


def _vectors(lists: Sequence[list[Any]]) -> bool:
    """Whether the lists are vectors of 0 and 1, not lists of the numbers of classes.

    All are of one length; one has a value twice, or values with a point.
    """
    if len({len(parts) for parts in lists}) != 1 or len(lists[0]) < 2:
        return False
    flat = [one for parts in lists for one in parts]
    if any(isinstance(one, str) or one not in (0, 1) for one in flat):
        return False
    return any(isinstance(one, float) for one in flat) or any(len(set(parts)) < len(parts) for parts in lists)


def _of_vectors(options: SequenceClassification, split: Split, lists: Sequence[list[Any]]) -> list[list[str]]:
    size, names = len(lists[0]), options.labels
    if len(names) != size:
        held = f"{split.where(0)}: {options.label!r} holds vectors of 0 and 1 of {size} labels ({str(lists[0])[:40]})"
        there = f"config.task.labels has {len(names)}" if names else "name them in order in config.task.labels"
        raise UserError(f"{held}; {there}")
    return [[name for name, one in zip(names, parts, strict=True) if one] for parts in lists]


def _names(parts: list[Any], value: Any, options: SequenceClassification, where: str) -> list[str]:
    point = next((part for part in parts if isinstance(part, float)), None)
    if point is not None:
        raise UserError(f"{where}: label {point} in {options.label!r} is a number with a point, no class")
    names = [label_name(part).strip() for part in parts]
    if "" in names or "None" in names:
        raise UserError(f"{where}: {options.label!r} holds {str(value)[:60]!r}, with an empty label in it; remove it")
    return names


def _zeros_and_ones(split: Split, column: str) -> list[bool]:
    """Of each row, whether it has the label that a column is for: 1 or 0, true or false, as values or as cells."""
    held = []
    for row, value in enumerate(split.table[column].to_pylist()):
        known = BOTH.get(value.strip().lower()) if isinstance(value, str) else value
        if known not in (0, 1):
            raise UserError(f"{split.where(row)}: {column!r} is {value!r}; a column of a label holds 0 or 1")
        held.append(bool(known))
    return held
