"""Questions with choices in one form, whatever the user has: a column a choice, or a list of them in one column."""

import string
from typing import Any, NamedTuple

import pyarrow as pa

from jaxft.config import MultipleChoice
from jaxft.data.columns import with_spelled, with_text, written
from jaxft.data.sources import Split, require_columns
from jaxft.errors import UserError

CHOICES, RIGHT = "_choices", "_right"
"""Columns beside the others: the choices of each question, and the number of the right one, from 0."""


class Listed(NamedTuple):
    """The choices of a question, and the names that the table gives them, as ARC does; empty: none."""

    texts: list[str]
    names: list[str]


def read(options: MultipleChoice, split: Split, labelled: bool) -> Split:
    """Returns the split with the columns that the task reads, `CHOICES` and, if labelled, `RIGHT`.

    Choices are a column each, a list of texts, or the lists {text, label} or objects {text, label} of ARC. The label is
    the number of a choice (from 0), its letter (from A), its name in such lists or its text; a label that could be two
    of these is an error, unless `options.label_form` says which it is. Empty choices at the end of a row do not count:
    questions may have different numbers of them.

    Raises:
      UserError: a column, a choice or a label that cannot be used, and where.
    """
    names = ("context", "question", "label") if labelled else ("context", "question")
    require_columns(split, {f"task.{name}": getattr(options, name) for name in names})
    for column in options.choices:
        require_columns(split, {"task.choices": column})
    texts = list(filter(None, (options.context, options.question)))
    for column in texts:
        split = with_text(split, column)
    listed = len(options.choices) == 1
    for kind in (list, dict) if listed else ():
        split = with_spelled(split, options.choices[0], kind)
    columns = [split.table[name].to_pylist() for name in options.choices]
    values = columns[0] if listed else [list(row) for row in zip(*columns, strict=True)]
    choices = [_choices(value, options, split.where(row)) for row, value in enumerate(values)]
    table = split.table.select(list(dict.fromkeys([*texts, *options.choices])))
    table = table.append_column(CHOICES, pa.array([one.texts for one in choices], pa.list_(pa.large_string())))
    if labelled:
        labels = split.table[options.label].to_pylist()
        right = [
            _right(label, part, options, split, row)
            for row, (label, part) in enumerate(zip(labels, choices, strict=True))
        ]
        table = table.append_column(RIGHT, pa.array(right, pa.int64()))
    return split._replace(table=table)


def _choices(value: Any, options: MultipleChoice, where: str) -> Listed:
    names = ", ".join(map(repr, options.choices))
    labels: list[Any] = []
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value, labels = value["text"], value.get("label") or []
    elif isinstance(value, list) and value and all(isinstance(one, dict) and "text" in one for one in value):
        labels = [one.get("label") for one in value]
        value = [one["text"] for one in value]
    if not isinstance(value, list):
        hint = "it must be a list of texts; or name a column a choice in config.task.choices"
        raise UserError(f"{where}: {names} holds {str(value)[:40]!r}; {hint}")
    filled: list[Any] = [
        written(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in value
    ]
    filled = ["" if one is None else one for one in filled]
    while filled and filled[-1] == "":
        filled.pop()
    for number, one in enumerate(filled):
        if not isinstance(one, str) or not one.strip():
            raise UserError(f"{where}: choice {number} in {names} is {str(one)[:40]!r}; choices must be texts")
    if len(filled) < 2:
        raise UserError(f"{where}: {len(filled)} choice(s) in {names}; a question takes two or more")
    named = [str(label) for label in labels if label is not None]
    return Listed(filled, named if len(set(named)) == len(filled) else [])


def _right(label: Any, choices: Listed, options: MultipleChoice, split: Split, row: int) -> int:
    """The number that a label stands for."""
    count = len(choices.texts)
    readings = _readings(label, choices)
    if options.label_form != "auto":
        readings = {form: at for form, at in readings.items() if form in (options.label_form, "name")}
    where = f"{split.where(row)}: label {label!r} in {options.label!r}"
    if not readings:
        letters = string.ascii_uppercase[:count]
        hint = split.hint if label in (None, "", -1, "-1") else ""
        raise UserError(
            f"{where} is none of the {count} choices; it must be a number from 0 to {count - 1}, a letter from A to "
            f"{letters[-1]}, or the text of one choice{hint}"
        )
    if len(set(readings.values())) > 1:
        said = " or ".join(f"the {form} of {choices.texts[at][:40]!r}" for form, at in readings.items())
        raise UserError(f"{where} may be {said}; say which by config.task.label_form=number, letter or text")
    return next(iter(readings.values()))


def _readings(label: Any, choices: Listed) -> dict[str, int]:
    """What a label may be -> the number of the choice that it then stands for.

    A name that the table gives its choices goes before all else; a number, which is no text, is a number.
    """
    count = len(choices.texts)
    if isinstance(label, int | float) and not isinstance(label, bool):
        name = written(label)
        if name in choices.names:
            return {"name": choices.names.index(name)}
        return {"number": int(label)} if label == label and label in range(count) else {}
    if not isinstance(label, str):
        return {}
    bare = label.strip()
    if bare in choices.names:
        return {"name": choices.names.index(bare)}
    found = {}
    if choices.texts.count(label) == 1:
        found["text"] = choices.texts.index(label)
    if len(bare) == 1 and bare in string.ascii_uppercase[:count]:
        found["letter"] = string.ascii_uppercase.index(bare)
    if bare.isascii() and bare.isdigit() and int(bare[:4]) in range(count) and str(int(bare[:4])) == bare:
        found["number"] = int(bare)
    return found
