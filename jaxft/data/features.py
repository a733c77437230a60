"""Tokenized examples: made once, kept in an Arrow file, read without copying."""

import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxft.data import ragged
from jaxft.errors import UserError

FORMAT = 4
"""Part of each cache key; a change of the columns' meaning changes it."""

ABOUT = b"jaxft"
"""Key of what is kept beside the columns."""

CHUNK = 10_000
"""Rows tokenized at a time."""


class Items(NamedTuple):
    """What is put in order and laid out: each example, or the examples of one row of the table together.

    Attributes:
      bounds: `[items + 1]`; item i is the examples bounds[i] .. bounds[i + 1].
      lengths: tokens of each, `[items]`.
    """

    bounds: np.ndarray
    lengths: np.ndarray

    @property
    def most(self) -> int:
        """Examples of the item that has most."""
        return int(np.diff(self.bounds).max(initial=1))


@dataclass(frozen=True)
class Features:
    """Columns of n examples.

    Attributes:
      offsets: `[n + 1]`; example i has the tokens offsets[i] .. offsets[i + 1] of each flat array.
      tokens: flat arrays per token: input_ids, token_type_ids and the targets per token.
      examples: arrays `[n, ...]`: the targets per example, and `row` where a row can have several examples.
      about: what was found out when they were made, by name; kept with them.
    """

    offsets: np.ndarray
    tokens: Mapping[str, np.ndarray]
    examples: Mapping[str, np.ndarray]
    about: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, `[n]`."""
        return np.diff(self.offsets)

    @property
    def bounds(self) -> np.ndarray:
        """`[rows + 1]`: row i of the table has the examples bounds[i] .. bounds[i + 1]."""
        if "row" not in self.examples:
            return np.arange(len(self) + 1)
        rows = self.examples["row"]
        return np.searchsorted(rows, np.arange(rows[-1] + 2))

    def take(self, examples: np.ndarray) -> "Features":
        """Those of some examples, `[n]`."""
        sizes = self.lengths[examples]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        source = np.repeat(self.offsets[examples], sizes) + ragged.within(sizes)
        tokens = {name: column[source] for name, column in self.tokens.items()}
        return Features(offsets, tokens, {name: column[examples] for name, column in self.examples.items()})

    @classmethod
    def joined(cls, parts: Sequence["Features"]) -> "Features":
        """Those of one or more, of the same columns, one after the other."""
        if len(parts) == 1:
            return parts[0]
        before = np.cumsum([0, *(part.offsets[-1] for part in parts)])
        offsets = [part.offsets[1:] + n for part, n in zip(parts, before, strict=False)]
        tokens = {name: np.concatenate([part.tokens[name] for part in parts]) for name in parts[0].tokens}
        examples = {name: np.concatenate([part.examples[name] for part in parts]) for name in parts[0].examples}
        if "row" in examples:
            rows = np.cumsum([0, *(len(part.bounds) - 1 for part in parts)])
            numbered = [part.examples["row"] + n for part, n in zip(parts, rows, strict=False)]
            examples["row"] = np.concatenate(numbered)
        return cls(np.concatenate([[0], *offsets]), tokens, examples)

    def items(self, together: bool) -> Items:
        """The examples, or those of each row of the table together."""
        bounds = self.bounds if together else np.arange(len(self) + 1)
        return Items(bounds, np.diff(self.offsets[bounds]))

    @classmethod
    def of(cls, table: pa.Table) -> "Features":
        """Columns of lists of any length are per token, others per example. Lists of one example have one length."""
        offsets, tokens, examples = np.zeros(1, np.int64), {}, {}
        for name in table.column_names:
            column = table.column(name).combine_chunks()
            if pa.types.is_list(column.type):
                offsets = column.offsets.to_numpy().astype(np.int64)
                tokens[name] = column.values.to_numpy()
            elif pa.types.is_fixed_size_list(column.type):
                examples[name] = column.flatten().to_numpy().reshape(-1, column.type.list_size)
            else:
                examples[name] = column.to_numpy(zero_copy_only=False)
        about = (table.schema.metadata or {}).get(ABOUT)
        return cls(offsets, tokens, examples, json.loads(about) if about else {})


def cache_key(parts: Mapping[str, Any]) -> str:
    """A name for what is made from these parts (JSON values)."""
    return hashlib.sha256(json.dumps([FORMAT, parts], sort_keys=True).encode()).hexdigest()[:24]


def tokenize(
    count: int,
    make: Callable[[int, int], dict[str, Any]],
    path: Path | None,
    about: Callable[[Features], Mapping[str, float]] | None = None,
) -> Features:
    """Returns the features of `count` rows of a table: from the file if it is there, else made and written to it.

    Args:
      make: `(start, stop) -> columns` of those rows; a column `row` counts from `start`.
      path: of the Arrow file; None: keep them in memory. An unwritable cache is no error.
      about: finds out what is kept with them.
    """
    if path and path.exists():
        with pa.memory_map(str(path)) as source:
            return Features.of(pa.ipc.open_file(source).read_all())

    def chunk(start: int) -> pa.Table:
        columns = make(start, min(start + CHUNK, count))
        return _table(columns | ({"row": start + columns["row"]} if "row" in columns else {}))

    table = pa.concat_tables([chunk(start) for start in range(0, count, CHUNK)])
    if about:
        table = table.replace_schema_metadata({ABOUT: json.dumps(dict(about(Features.of(table))))})
    if path:
        _write(table, path)
    return Features.of(table)


def _table(columns: Mapping[str, Any]) -> pa.Table:
    def array(values: Any) -> pa.Array:
        if isinstance(values, np.ndarray):
            flat = pa.array(values.reshape(-1))
            return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        flat = np.fromiter(itertools.chain.from_iterable(values), np.int32)
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in values])]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))

    table = pa.table({name: array(values) for name, values in columns.items()})
    _check_lengths(table)
    return table


def _check_lengths(table: pa.Table) -> None:
    """Makes sure that all columns of lists have a value a token of `input_ids`.

    Raises:
      UserError: one has not, as of a task of one's own; trained on, its values would be those of other tokens.
    """
    lengths = {
        name: np.diff(column.chunk(0).offsets.to_numpy())
        for name, column in zip(table.column_names, table.columns, strict=True)
        if pa.types.is_list(column.type) and column.num_chunks
    }
    for name, found in lengths.items():
        wrong = np.flatnonzero(found != lengths["input_ids"])
        if len(wrong):
            at = int(wrong[0])
            raise UserError(
                f"features: example {at} has {lengths['input_ids'][at]} tokens in 'input_ids', but {found[at]} in "
                f"{name!r}; the task's `features` must give one a token"
            )


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")  # hosts that share the folder also share process ids
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_table(table.combine_chunks())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
