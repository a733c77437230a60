"""Texts without labels beside the labelled ones of training: examples of weight 0, alone or side by side with a copy.

A copy has a few words changed; see `jaxft.data.augment`. What is which a batch says by `UNLABELLED` and `COPY`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxft.batch import COPY, UNLABELLED
from jaxft.config import Data
from jaxft.data import augment, sources, splits
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.storage import paths
from jaxft.tables import Table


class Unlabelled(NamedTuple):
    """The texts, and a copy of each where copies are compared."""

    texts: Split
    copies: Split | None

    @property
    def parts(self) -> list[Split]:
        return [self.texts, *([] if self.copies is None else [self.copies])]


def read(
    data: Data, table: Table, prepared: Mapping[str, Split], seed: int, copies: bool
) -> tuple[Unlabelled, list[str]]:
    """Returns the texts of `data.unlabelled`, and lines for the log.

    A text is left out that is in validation or test, or whose copy is, so that nothing of these is learned from.

    Args:
      prepared: the splits of a run, as `splits.prepare` makes them.
      copies: whether a copy of each is made.

    Raises:
      UserError: the file cannot be read, a text of it cannot be used, or none is left.
    """
    file = paths.file_of("config.data.unlabelled", data.unlabelled)
    texts = table.read(sources.read_input(str(file), data), labelled=False)
    texts = texts._replace(table=texts.table.select(list(table.inputs)))
    both = Unlabelled(texts, None)
    if copies:
        synonyms = augment.synonyms_of(data)
        changed = augment.copied(texts.table, table.inputs, 1, data.augment_share, synonyms, seed)
        both = Unlabelled(texts, texts._replace(table=changed))
    others = [split.table for key, split in prepared.items() if key != "train"]
    own = splits.input_ids([*(part.table for part in both.parts), *others], table.inputs)
    there = np.concatenate([np.zeros(0, int), *own[len(both.parts) :]])
    kept = ~np.any([np.isin(ids, there) for ids in own[: len(both.parts)]], axis=0)
    if not kept.any():
        raise UserError(f"{texts.origin}: all of its texts are in validation or test too; give others")
    lines = [*texts.notes, f"{kept.sum():,} of {len(kept):,} texts of {texts.origin} are learned from without labels"]
    at = np.flatnonzero(kept)
    return Unlabelled(texts.take(at), None if both.copies is None else both.copies.take(at)), lines


def joined(labelled: Features, parts: Sequence[Features]) -> Features:
    """Returns the examples of training with those of texts behind them, each text before its copy if there are any.

    Args:
      parts: of the texts, and of their copies.
    """
    counts = [len(labelled), *map(len, parts)]
    which = np.repeat(np.arange(len(counts)), counts)
    ones = np.ones(len(labelled), np.float32)
    weights = np.concatenate([labelled.examples.get("weights", ones), np.zeros(sum(counts[1:]), np.float32)])
    fill = lambda x, count: np.zeros((count, *x.shape[1:]), x.dtype)  # noqa: E731
    columns = {
        name: np.concatenate([x, *(fill(x, count) for count in counts[1:])]) for name, x in labelled.examples.items()
    }
    columns |= {"weights": weights}
    columns |= {name: (which == at).astype(np.float32) for at, name in enumerate((UNLABELLED, COPY)[: len(parts)], 1)}
    bare = [dataclasses.replace(part, examples={}) for part in (labelled, *parts)]
    every = dataclasses.replace(Features.joined(bare), examples=columns)
    behind = np.arange(counts[0], sum(counts)).reshape(len(parts), -1).T.reshape(-1)
    found = every.take(np.concatenate([np.arange(counts[0]), behind]))
    rows = np.concatenate([np.arange(counts[0]), counts[0] + np.repeat(np.arange(counts[1]), len(parts))])
    pairs = {"row": rows} if len(parts) > 1 else {}
    return dataclasses.replace(found, examples={**found.examples, **pairs}, about=labelled.about)


def kinds(features: Features) -> np.ndarray:
    """Returns of each example of training, `[n]`, 0 where it has a label, 1 where it has none, 2 where it is a copy."""
    none = np.zeros(len(features), np.float32)
    text, copy = (features.examples.get(name, none) for name in (UNLABELLED, COPY))
    return (text + 2 * copy).astype(int)


def drawn(weights: np.ndarray | None, labelled: int, texts: int, share: float) -> np.ndarray | None:
    """Returns by which weights an epoch draws, so that texts are a share of it; 0: as they are.

    Args:
      weights: those of the labelled rows among themselves, `[labelled]`; None: all alike.
    """
    if weights is None and not share:
        return None
    weights, share = np.ones(labelled) if weights is None else weights, share or texts / (labelled + texts)
    return np.concatenate([(1 - share) * weights / weights.sum(), np.full(texts, share / texts)])
