"""Questions with choices in one form, whatever the user has: a column a choice, or a list of them in one column."""

import string
from typing import Any

import pyarrow as pa

from jaxft.config import MultipleChoice
from jaxft.data.sources import Split, check_text, require_columns
from jaxft.errors import UserError

CHOICES, RIGHT = "_choices", "_right"
"""Columns beside the others: the choices of each question, and the number of the right one, from 0."""


def read(options: MultipleChoice, split: Split, labelled: bool) -> Split:
    """The split with the columns that the task reads, `CHOICES` and, if labelled, `RIGHT`.

    The label is the number of a choice (from 0), its letter (from A) or its text. Empty choices at the end of a row do
    not count: questions may have different numbers of them.

    Raises:
      UserError: a column, a choice or a label that cannot be used, and where.
    """
    names = ("context", "question", "label") if labelled else ("context", "question")
    require_columns(split, {f"task.{name}": getattr(options, name) for name in names})
    for column in options.choices:
        require_columns(split, {"task.choices": column})
    texts = list(filter(None, (options.context, options.question)))
    for column in texts:
        check_text(split, column)
    kept = split.table.select([*texts, *options.choices])
    listed = len(options.choices) == 1
    columns = [split.table[name].to_pylist() for name in options.choices]
    values = columns[0] if listed else [list(row) for row in zip(*columns, strict=True)]
    choices = [_choices(value, options, split.where(row)) for row, value in enumerate(values)]
    table = kept.append_column(CHOICES, pa.array(choices, pa.list_(pa.large_string())))
    if labelled:
        labels = split.table[options.label].to_pylist()
        right = [
            _right(label, part, options, split.where(row))
            for row, (label, part) in enumerate(zip(labels, choices, strict=True))
        ]
        table = table.append_column(RIGHT, pa.array(right, pa.int64()))
    return split._replace(table=table)


def _choices(value: Any, options: MultipleChoice, where: str) -> list[str]:
    names = ", ".join(map(repr, options.choices))
    if not isinstance(value, list):
        hint = "it must be a list of texts; or name a column a choice in config.task.choices"
        raise UserError(f"{where}: {names} holds {str(value)[:40]!r}; {hint}")
    filled: list[Any] = [
        str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one or "" for one in value
    ]
    while filled and not filled[-1]:
        filled.pop()
    for number, one in enumerate(filled):
        if not isinstance(one, str) or not one.strip():
            raise UserError(f"{where}: choice {number} in {names} is {str(one)[:40]!r}; choices must be texts")
    if len(filled) < 2:
        raise UserError(f"{where}: {len(filled)} choice(s) in {names}; a question takes two or more")
    return filled


def _right(label: Any, choices: list[str], options: MultipleChoice, where: str) -> int:
    """The number that a label stands for."""
    count = len(choices)
    letters = string.ascii_uppercase[:count]
    if choices.count(label) == 1:
        return choices.index(label)
    if isinstance(label, str) and label in letters and len(label) == 1:
        return letters.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < count:
        return label
    raise UserError(
        f"{where}: label {label!r} in {options.label!r} is none of the {count} choices; it must be a number from 0 to "
        f"{count - 1}, a letter from A to {letters[-1]}, or the text of one choice"
    )
