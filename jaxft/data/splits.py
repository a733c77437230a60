"""Makes train, validation and test of what a source has: carves, limits, and keeps training data out of the others."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from jaxft.config import Data, SentenceEmbedding, SequenceClassification, Task
from jaxft.data.order import permutation
from jaxft.data.sources import Split
from jaxft.errors import UserError

pc: Any = pyarrow.compute  # its functions are made at run time, where no type checker sees them

STREAMS = {
    name: 2**32 + i
    for i, name in enumerate(("carve", "train", "validation", "test", "folds", "attack", "augment", "pairs"))
}
"""What a random order is for -> the number of its stream, beyond those of the epochs: no choice moves another."""
BATCH = 1 << 16


class Carving(NamedTuple):
    """What carving pays heed to.

    Attributes:
      classes: the column of a class a row: none of two rows or more is left out of a split that has room for it.
      whole: whether rows that agree in their inputs go to one split, all of them.
    """

    classes: str = ""
    whole: bool = False


BY_CHANCE = Carving()


def carving(options: Task) -> Carving:
    """Returns what carving pays heed to, by the options of a task that have been resolved.

    An anchor of embeddings has many texts that belong to it: a part of them in validation would take the others from
    training.
    """
    if isinstance(options, SequenceClassification) and options.problem == "single_label":
        return Carving(classes=options.label)
    return Carving(whole=isinstance(options, SentenceEmbedding))


def prepare(
    splits: dict[str, Split], data: Data, seed: int, inputs: Sequence[str], heed: Carving = BY_CHANCE
) -> tuple[dict[str, Split], list[str]]:
    """Makes the splits that a run uses. Rows stay in the order of their source; equal data and seed, equal splits.

    A missing test split (if `data.test_examples` asks for one), then a missing validation split, are carved off train;
    those that exist are cut to `validation_examples` and `test_examples`. Then train loses each example whose inputs
    are exactly those of one in validation or test, and is cut to `train_examples`.

    Args:
      splits: "train" and perhaps "validation" and "test"; left as they are.
      data: the numbers of examples wanted.
      seed: of the random choices.
      inputs: the columns that make an example what it is; every split has them.
      heed: what carving pays heed to; see `carving`.

    Returns:
      "train", "validation" (unless `data` wants none) and perhaps "test"; and a line for the log about each thing done
      to them.

    Raises:
      UserError: more examples are to be carved off than there are, or none remain to train on.
    """
    splits, notes = _carve(splits, data, seed, inputs, heed)
    for key, limit in (("validation", data.validation_examples), ("test", data.test_examples)):
        if key in splits:
            splits[key] = _limit(splits[key], key, limit, seed, notes)
    splits["train"] = _without_leaks(splits, inputs, notes)
    splits["train"] = _limit(splits["train"], "train", data.train_examples, seed, notes)
    return splits, notes


def fingerprint(table: pa.Table) -> str:
    """A hash of a table's column names, types and values, however its memory is laid out.

    Each run of rows is copied afresh (what lies below nulls becomes zeros, bits and offsets start at zero), then hashed
    in Arrow's IPC format. Schema metadata does not count. A new version of Arrow may give another hash.
    """
    digest = hashlib.blake2b(digest_size=16)
    table = pa.table(table.columns, names=table.column_names)
    digest.update(str(table.schema).encode())
    for start in range(0, table.num_rows, BATCH):
        part = table.slice(start, BATCH)
        part = part.take(pa.array(np.arange(part.num_rows)))
        for batch in part.combine_chunks().to_batches():
            digest.update(batch.serialize())
    return digest.hexdigest()


def _carve(
    splits: dict[str, Split], data: Data, seed: int, inputs: Sequence[str], heed: Carving
) -> tuple[dict[str, Split], list[str]]:
    train = splits["train"]
    count = train.table.num_rows
    wanted = {}
    if "test" not in splits and data.test_examples:
        wanted["test"] = data.test_examples
    if "validation" not in splits and (data.validation_examples or data.validation_fraction):
        wanted["validation"] = data.validation_examples or max(round(data.validation_fraction * count), 1)
    if not wanted:
        return dict(splits), []
    asked = sum(wanted.values())
    if asked >= count:
        parts = " and ".join(f"{n:,} {key}" for key, n in wanted.items())
        raise UserError(
            f"{train.origin} has {count:,} examples; carving {parts} examples off leaves none to train on; lower "
            "config.data.validation_examples, validation_fraction or test_examples"
        )
    order = permutation(count, seed, STREAMS["carve"])
    if heed.whole:
        order, sizes = _grouped(order, input_ids([train.table], inputs)[0], list(wanted.values()))
    else:
        sizes = list(wanted.values())
    if sum(sizes) >= count:
        raise UserError(
            f"{train.origin} has so few different {', '.join(inputs)} that carving {', '.join(wanted)} off leaves none "
            f"to train on; give more data, or a file in config.data.{next(iter(wanted))}"
        )
    cuts = np.split(order, np.cumsum(sizes))
    if heed.classes:
        codes = input_ids([train.table], [heed.classes])[0]
        cuts = _with_every_class(cuts, codes)
    carved = {key: train.take(np.sort(rows)) for key, rows in zip((*wanted, "train"), cuts, strict=True)}
    notes = [f"carved {n:,} of {count:,} training examples off for {key}" for key, n in zip(wanted, sizes, strict=True)]
    return splits | carved, notes


def _grouped(order: np.ndarray, groups: np.ndarray, wanted: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Puts the rows of a group side by side, each group where its first row is, and cuts between groups.

    Args:
      order: rows in random order, `[n]`.
      groups: the number of each row's group, `[n]`.
      wanted: sizes of the parts to cut off.

    Returns:
      The rows in their new order, and the sizes nearest to those wanted, each of a group at least.
    """
    first = np.full(groups.max() + 1, len(order))
    np.minimum.at(first, groups[order], np.arange(len(order)))
    order = order[np.argsort(first[groups[order]], kind="stable")]
    ends = np.flatnonzero(np.diff(groups[order], append=-1)) + 1
    sizes, begun = [], 0
    for size in wanted:
        ahead = ends[ends > begun]
        end = int(ahead[np.abs(ahead - begun - size).argmin()]) if len(ahead) else len(order)
        sizes.append(end - begun)
        begun = end
    return order, sizes


def _with_every_class(cuts: Sequence[np.ndarray], classes: np.ndarray) -> list[np.ndarray]:
    """Exchanges rows so that each part has one of each class, as far as classes have the rows and parts the room.

    Args:
      cuts: the rows of each part, the last of them what remains to train on, which goes first.
      classes: the number of each row's class, `[n]`.

    Returns:
      The parts, of the same sizes; the same rows where nothing was missing.
    """
    parts = [list(map(int, rows)) for rows in cuts]
    counts = [np.bincount(classes[rows], minlength=classes.max() + 1) for rows in cuts]
    training = len(parts) - 1
    for at in (training, *range(training)):
        kept = 0 if at == training else 1  # what is tested is learned
        for missing in np.flatnonzero((counts[at] == 0) & (np.bincount(classes) > 0)):
            givers = [one for one in range(len(parts)) if counts[one][missing] > kept]
            spare = int(counts[at].argmax())
            if not givers or counts[at][spare] < 2:
                continue
            giver = max(givers, key=lambda one: counts[one][missing])
            given = next(row for row in parts[giver] if classes[row] == missing)
            back = next(row for row in reversed(parts[at]) if classes[row] == spare)
            parts[giver][parts[giver].index(given)], parts[at][parts[at].index(back)] = back, given
            for part, lost, won in ((giver, missing, spare), (at, spare, missing)):
                counts[part][lost] -= 1
                counts[part][won] += 1
    return [np.asarray(rows, np.int64) for rows in parts]


def _limit(split: Split, key: str, limit: int, seed: int, notes: list[str]) -> Split:
    count = split.table.num_rows
    if not limit or limit >= count:
        return split
    notes.append(f"using {limit:,} of {count:,} {key} examples")
    return split.take(np.sort(permutation(count, seed, STREAMS[key])[:limit]))


def _without_leaks(splits: dict[str, Split], inputs: Sequence[str], notes: list[str]) -> Split:
    """The training examples whose inputs occur neither in validation nor in test."""
    keys = [key for key in ("train", "validation", "test") if key in splits]
    ids = dict(zip(keys, input_ids([splits[key].table for key in keys], inputs), strict=True))
    if {"validation", "test"} <= ids.keys():
        shared = int(np.isin(ids["validation"], ids["test"]).sum())
        if shared:
            notes.append(f"{shared:,} of {len(ids['validation']):,} validation examples also occur in test; they stay")
    train, count = splits["train"], len(ids["train"])
    if len(keys) == 1:
        return train
    kept = np.flatnonzero(np.isin(ids["train"], np.concatenate([ids[key] for key in keys[1:]]), invert=True))
    if not len(kept):
        raise UserError(
            f"all {count:,} training examples of {train.origin} also occur in validation or test (same "
            f"{', '.join(inputs)}); give other data, or check config.data.train, validation and test"
        )
    if len(kept) == count:
        return train
    notes.append(f"dropped {count - len(kept):,} of {count:,} training examples that also occur in validation or test")
    return train.take(kept)


def input_ids(tables: Sequence[pa.Table], inputs: Sequence[str]) -> list[np.ndarray]:
    """Numbers the rows of all tables so that two get the same number exactly where all their inputs are equal."""
    ids = np.zeros(sum(table.num_rows for table in tables), np.int64)
    for column in inputs:
        chunks = [chunk for table in tables for chunk in _as_text(table[column]).chunks]
        values = pa.chunked_array(chunks, pa.large_string()).combine_chunks()
        codes = values.dictionary_encode(null_encoding="encode").indices.to_numpy()
        # Both factors are at most the number of rows, so their product fits; unique makes it small again.
        ids = np.unique(ids * (int(codes.max()) + 1) + codes, return_inverse=True)[1].reshape(-1)
    return np.split(ids, np.cumsum([table.num_rows for table in tables])[:-1])


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Equal text exactly where the values are equal."""
    if pa.types.is_nested(column.type):
        return pa.chunked_array([pa.array(map(json.dumps, column.to_pylist()), pa.large_string())])
    return column.cast(pa.large_string())
