"""Texts and rows that are in memory, as the splits that files become."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jaxft import config
from jaxft.data import formats
from jaxft.data.sources import IN_MEMORY, KEYS, Split
from jaxft.errors import UserError, nearest

Rows = Sequence[Mapping[str, Any]]
"""Rows of a table, each from column to value; a column that a row lacks is null there."""


def split_of(rows: Sequence[Any], origin: str) -> Split:
    """Returns the split that rows make.

    Args:
      origin: what errors call them.

    Raises:
      UserError: a row that is none, or a column that holds values of several kinds; names the row.
    """
    if isinstance(rows, str | bytes | Mapping) or not hasattr(rows, "__iter__"):
        raise UserError(f"{origin} is a {type(rows).__name__}; it must be a list of rows, each a dict of columns")

    def named() -> Any:
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
                raise UserError(f"{origin}, row {number}: {str(row)[:40]!r} is not a dict of columns and values")
            yield f"row {number}", row

    return Split(formats.of_rows(named(), origin), origin)


def texts_of(texts: Sequence[Any], column: str) -> Split:
    """Returns the split of one column that texts make.

    Raises:
      UserError: one of them is no text; names it.
    """
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise UserError(f"texts, row {number}: {str(text)[:40]!r} is a {type(text).__name__}, not a text")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"texts, row {number}: {text[:40]!r} holds half a character; mend its encoding")
    return Split(pa.table({column: pa.array(list(texts), pa.large_string())}), "texts")


def given(
    experiment: config.Experiment, data: Mapping[str, Rows] | None
) -> tuple[config.Experiment, dict[str, Split] | None]:
    """Returns the experiment of a run on rows in memory, as its config.json says it, and their splits.

    Without rows it is the experiment as it is, whose `data.source` is read, and None.

    Raises:
      UserError: the experiment names a source as well; as `splits_of` does.
    """
    if data is None:
        return experiment, None
    splits = splits_of(data)
    if experiment.data.source not in ("", IN_MEMORY):
        raise UserError(
            f"config.data.source is {experiment.data.source!r}, and data is given too; leave one of them out"
        )
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, source=IN_MEMORY)), splits


def splits_of(data: Mapping[str, Rows]) -> dict[str, Split]:
    """Returns the splits of a run on rows in memory: of "train" and, where they are given, "validation" and "test".

    Raises:
      UserError: there is no "train", a split of another name, or one without rows; as `split_of` does.
    """
    if not isinstance(data, Mapping):
        raise UserError(f'data is a {type(data).__name__}; give {{"train": rows}}, and "validation" and "test" if any')
    for name in data:
        if name not in KEYS:
            raise UserError(f"data has a split {name!r}; {nearest(str(name), KEYS)}")
    if "train" not in data:
        raise UserError('data has no "train"; give {"train": rows}, a list of dicts of columns and values')
    splits = {name: split_of(rows, f"data[{name!r}]") for name, rows in data.items()}
    for split in splits.values():
        if not split.table.num_rows:
            raise UserError(f"{split.origin} has no rows")
    return splits
