"""Labels of texts, however the user has them: checked row by row, named, numbered, and weighted."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from jaxft.config import SequenceClassification
from jaxft.data.sources import Split
from jaxft.errors import UserError, nearest


def read(options: SequenceClassification, split: Split) -> Split:
    """The split with its labels checked; where a text can have several, `options.label` is a list of their names.

    Raises:
      UserError: a label that is none, and where.
    """
    if options.problem == "regression":
        _check_scores(split, options.label)
    elif (
        options.problem == "multi_label"
        or options.label_columns
        or (options.problem == "auto" and _lists(split, options))
    ):
        return _several(options, split)
    else:
        _check_classes(split, options.label)
    return split


def resolve(options: SequenceClassification, splits: Mapping[str, Split]) -> SequenceClassification:
    """Says which problem it is, lists the label names (those given, or the training data's, sorted) and their weights.

    Raises:
      UserError: labels that are not among them, or options that do not fit them.
    """
    train = splits["train"]
    several = options.problem != "regression" and _lists(train, options)
    problem = options.problem if options.problem != "auto" else "multi_label" if several else "single_label"
    for key, fits in (("class_weights", "single_label multi_label"), ("thresholds", "multi_label")):
        if getattr(options, key) and problem not in fits:
            raise UserError(f"config.task.{key} is set, but the problem is {problem}; it is for {fits}")
    if (options.label_smoothing and problem != "single_label") or (options.balanced and problem == "regression"):
        key = "balanced" if options.balanced else "label_smoothing"
        raise UserError(f"config.task.{key} is set, but the problem is {problem}; unset it")
    if problem == "regression":
        return dataclasses.replace(options, labels=())
    names = options.labels or options.label_columns or _names(train, options.label)
    if len(names) < (1 if several else 2):
        what = (
            f"all labels in {options.label!r} are {names[0]!r}; there must be two or more"
            if names
            else f"no labels in {options.label!r}"
        )
        raise UserError(f"{train.origin}: {what}")
    known = "config.task.labels" if options.labels else f"those of {train.origin}"
    for split in splits.values():
        if _lists(split, options) != several:
            raise UserError(f"{split.origin}: labels in {options.label!r} are of another kind than in {train.origin}")
        _check_known(split, options.label, names, known)
    resolved = dataclasses.replace(options, labels=names, problem=problem)
    if options.balanced:
        resolved = dataclasses.replace(resolved, class_weights=_balanced(ids(resolved, train), len(names)))
    for key in ("class_weights", "thresholds"):
        count = len(getattr(resolved, key))
        if count not in (0, len(names)):
            raise UserError(f"config.task.{key} has {count} numbers for {len(names)} labels: {', '.join(names)}")
    return resolved


def ids(options: SequenceClassification, split: Split) -> np.ndarray:
    """What the loss learns, of resolved options: `[n]` class ids, `[n, labels]` of 0 and 1, or `[n]` scores."""
    values = split.table[options.label].to_pylist()
    if options.problem == "regression":
        return np.asarray(values, np.float32)
    number = {name: i for i, name in enumerate(options.labels)}
    if options.problem == "multi_label":
        held = np.zeros((len(values), len(number)), np.float32)
        for row, names in enumerate(values):
            held[row, [number[one] for one in names]] = 1
        return held
    return np.asarray([number[label_name(value)] for value in values], np.int32)


def label_name(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lists(split: Split, options: SequenceClassification) -> bool:
    kind = split.table[options.label].type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _several(options: SequenceClassification, split: Split) -> Split:
    """A list of names a row, from such a list, from names in a text, or from columns of 0 and 1."""
    table = split.table
    if options.label_columns:
        held = [_zeros_and_ones(split, column) for column in options.label_columns]
        lists = [
            [n for n, one in zip(options.label_columns, row, strict=True) if one] for row in zip(*held, strict=True)
        ]
    else:
        values = table[options.label].to_pylist()
        lists = [_listed(value, options, split.where(row)) for row, value in enumerate(values)]
    array = pa.array(lists, pa.list_(pa.string()))
    at = table.column_names.index(options.label) if options.label in table.column_names else table.num_columns
    table = table.remove_column(at) if at < table.num_columns else table
    return split._replace(table=table.add_column(at, options.label, array))


def _listed(value: Any, options: SequenceClassification, where: str) -> list[str]:
    if value is None:
        raise UserError(f"{where}: no label in {options.label!r}; write an empty list for none, or remove the row")
    parts = [part.strip() for part in value.split(options.delimiter)] if isinstance(value, str) else value
    names = [label_name(part) for part in (parts if isinstance(parts, list) else [parts])]
    bad = next((part for part in names if part in ("", "None")), None)
    if bad is not None and value != "":
        raise UserError(f"{where}: {options.label!r} holds {str(value)[:60]!r}, with an empty label in it; remove it")
    return sorted(set(names) - {""})


def _zeros_and_ones(split: Split, column: str) -> list[Any]:
    values = split.table[column].to_pylist()
    for row, value in enumerate(values):
        if value not in (0, 1):
            raise UserError(f"{split.where(row)}: {column!r} is {value!r}; a column of a label holds 0 or 1")
    return values


def _balanced(ids: np.ndarray, classes: int) -> tuple[float, ...]:
    """n / (classes x count), as scikit-learn's "balanced"; where several labels can hold, those without / with it."""
    if ids.ndim == 1:
        return tuple(float(x) for x in len(ids) / (classes * np.maximum(np.bincount(ids, minlength=classes), 1)))
    held = ids.sum(0)
    return tuple(float(x) for x in np.maximum(len(ids) - held, 1) / np.maximum(held, 1))


def _names(split: Split, column: str) -> tuple[str, ...]:
    values = split.table[column].to_pylist()
    there = {one for value in values for one in (value if isinstance(value, list) else [value])}
    return tuple(label_name(value) for value in sorted(there, key=lambda v: (isinstance(v, str), v)))


def _check_classes(split: Split, column: str) -> None:
    for row, value in enumerate(split.table[column].to_pylist()):
        if isinstance(value, float):
            hint = "for scores set config.task.problem=regression"
            raise UserError(
                f"{split.where(row)}: label {value} in {column!r} is a number with a point, no class; {hint}"
            )
        if value is None or value == "":
            raise UserError(f"{split.where(row)}: no label in {column!r}; fill it in or remove the row")
        if not isinstance(value, str | int):
            kind = type(value).__name__
            raise UserError(f"{split.where(row)}: label {value} in {column!r} is a {kind}; make it text or an integer")


def _check_known(split: Split, column: str, names: tuple[str, ...], known: str) -> None:
    for row, value in enumerate(split.table[column].to_pylist()):
        for one in value if isinstance(value, list) else [value]:
            if label_name(one) not in names:
                hint = nearest(label_name(one), names)
                raise UserError(f"{split.where(row)}: label {label_name(one)!r} is not among {known}; {hint}")


def _check_scores(split: Split, column: str) -> None:
    for row, value in enumerate(split.table[column].to_pylist()):
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise UserError(f"{split.where(row)}: label {value!r} in {column!r} is not a finite number")
