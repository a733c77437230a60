"""Labels of texts, however the user has them: checked row by row, named, numbered, and weighted."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from jaxft.config import SequenceClassification
from jaxft.data.columns import is_text, numbered, spells, with_numbers, with_scores
from jaxft.data.sources import Split
from jaxft.errors import UserError, nearest
from jaxft.tables import multi_label, weighting
from jaxft.tables.multi_label import is_list, label_name

pc: Any = pyarrow.compute  # its functions are made at run time, where no type checker sees them


def read(options: SequenceClassification, split: Split) -> Split:
    """Returns the split with its labels checked: classes, or a list of names where a text can have several, or scores.

    Blanks around a label do not count. Labels that are numbers of `options.labels` become those names.

    Raises:
      UserError: a label that is none, and where.
    """
    if options.problem == "regression":
        return with_scores(split, options.label, "label")
    if options.problem == "multi_label" or options.label_columns:
        return multi_label.read(options, split)
    if options.problem == "auto" and (is_list(split, options.label) or spells(split, options.label, list)):
        return multi_label.read(options, split)
    if all(name == name.strip() for name in options.labels):
        split = _stripped(split, options.label)
    if split.cells and not set(split.table[options.label].to_pylist()) <= {*options.labels}:
        split = with_numbers(split, options.label)
    _check_classes(split, options.label)
    return _named(options, split)


def resolve(options: SequenceClassification, splits: Mapping[str, Split]) -> SequenceClassification:
    """Says which problem it is, lists the label names (those given, or the training data's, sorted) and their weights.

    Raises:
      UserError: labels that are not among them, or options that do not fit them.
    """
    train = splits["train"]
    listed = options.problem != "regression" and is_list(train, options.label)
    problem = options.problem if options.problem != "auto" else "multi_label" if listed else "single_label"
    for key, fits in (
        ("class_weights", "single_label multi_label"),
        ("thresholds", "multi_label"),
        ("sampling", "single_label"),
        ("contrastive", "single_label"),
    ):
        if getattr(options, key) and problem not in fits:
            raise UserError(f"config.task.{key} is set, but the problem is {problem}; it is for {fits}")
    weighting.check(options, problem)
    if problem == "regression":
        _check_hidden(splits, options.label)
        return dataclasses.replace(options, labels=())
    names = options.labels or options.label_columns or _names(train, options.label)
    if len(names) < (1 if listed else 2):
        what = (
            f"all labels in {options.label!r} are {names[0]!r}; there must be two or more"
            if names
            else f"no labels in {options.label!r}"
        )
        raise UserError(f"{train.origin}: {what}")
    known = "config.task.labels" if options.labels else f"those of {train.origin}"
    for split in splits.values():
        if is_list(split, options.label) != listed:
            raise UserError(f"{split.origin}: labels in {options.label!r} are of another kind than in {train.origin}")
        check_known(split, options.label, names, known)
    resolved = dataclasses.replace(options, labels=names, problem=problem)
    resolved = dataclasses.replace(resolved, class_weights=_weights(resolved, ids(resolved, train)))
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


def _stripped(split: Split, column: str) -> Split:
    """The split without blanks around its labels, and a note of how many had some."""
    values = split.table[column]
    if not is_text(values):
        return split
    bare = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
    count = pc.sum(pc.not_equal(bare, values.cast(pa.large_string()))).as_py()
    if not count:
        return split
    at = split.table.column_names.index(column)
    return split._replace(table=split.table.set_column(at, column, bare)).noting(multi_label.blanks(count, column))


def _named(options: SequenceClassification, split: Split) -> Split:
    """The split with names in place of their numbers, if that is what its labels are."""
    values = [label_name(value) for value in split.table[options.label].to_pylist()]
    if not numbered(values, options.labels):
        return split
    names = pa.array([options.labels[int(value)] for value in values], pa.string())
    at = split.table.column_names.index(options.label)
    return split._replace(table=split.table.set_column(at, options.label, names)).noting(multi_label.by_number(options))


def _weights(options: SequenceClassification, ids: np.ndarray) -> tuple[float, ...]:
    """Those of the labels; balanced ones where several can hold: examples without / with each."""
    if ids.ndim == 1:
        return weighting.of_counts(options, np.bincount(ids, minlength=len(options.labels)))
    if not options.balanced:
        return options.class_weights
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
            raise UserError(f"{split.where(row)}: no label in {column!r}; fill it in or remove the row{split.hint}")
        if not isinstance(value, str | int):
            kind = type(value).__name__
            raise UserError(f"{split.where(row)}: label {value} in {column!r} is a {kind}; make it text or an integer")


def check_known(split: Split, column: str, names: tuple[str, ...], known: str) -> None:
    """Makes sure that the labels of a split, as `read` gives them, are among the names.

    Args:
      known: what the names are called.

    Raises:
      UserError: one is not, and where.
    """
    there = set(names)
    for row, value in enumerate(split.table[column].to_pylist()):
        for one in value if isinstance(value, list) else [value]:
            if label_name(one) not in there:
                hidden = split.hint if label_name(one) == "-1" else ""
                hint = hidden or f"; {nearest(label_name(one), names)}"
                raise UserError(f"{split.where(row)}: label {label_name(one)!r} is not among {known}{hint}")


def _check_hidden(splits: Mapping[str, Split], column: str) -> None:
    """Sees to it that -1 is no score of a split where it stands for a hidden one, as in GLUE."""
    for split in splits.values():
        if (
            split.hint
            and set(split.table[column].to_pylist()) == {-1}
            and min(splits["train"].table[column].to_pylist()) > -1
        ):
            raise UserError(f"{split.origin}: all scores in {column!r} are -1, as training has none{split.hint}")
