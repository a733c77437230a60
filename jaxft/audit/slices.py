"""Slices: rows of a kind, on which a model may be wrong more often than chance gives so many rows.

Each slice is tested by the hypergeometric law: were the wrong answers dealt out to the rows at random, how often would
it get so many? Of many slices some would by chance: p is corrected by Holm (1979), which holds however they overlap.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxft.data.sources import Split
from jaxft.sure import groups

FEWEST = 20
"""Rows of a slice that is tested; of the others there must be as many."""

PARTS = 5
"""Slices by length, of as many rows each."""

WORDS = 200
"""Words whose rows are tested, at most: those of most rows, so that errors do not choose them."""

WORD = re.compile(r"\w+")


class Slice(NamedTuple):
    """Rows of a kind, and what is said of them.

    Attributes:
      name: `COLUMN: VALUE`, `length: ...`, `answer: LABEL` or `word: WORD`.
      rows, wrong: how many there are, and how many of them are answered wrong.
      p: how likely so many wrong answers are, or more, were they dealt out to all rows at random.
      corrected: p, corrected by Holm for all slices that were tested.
    """

    name: str
    rows: int
    wrong: int
    p: float
    corrected: float


def tested(kinds: Mapping[str, np.ndarray], wrong: np.ndarray) -> list[Slice]:
    """Returns the slices that are large enough, the least likely first.

    Args:
      kinds: of each name the numbers of its rows.
      wrong: `[n]` of bool.
    """
    from scipy.stats import hypergeom

    found = []
    for name, rows in kinds.items():
        if FEWEST <= len(rows) <= len(wrong) - FEWEST:
            count = int(wrong[rows].sum())
            p = float(hypergeom.sf(count - 1, len(wrong), int(wrong.sum()), len(rows)))
            found.append(Slice(name, len(rows), count, p, 1.0))
    found.sort(key=lambda one: one.p)
    fixed = holm([one.p for one in found])
    return [one._replace(corrected=p) for one, p in zip(found, fixed, strict=True)]


def holm(ascending: Sequence[float]) -> list[float]:
    """Returns p-values, which ascend, corrected for their number (Holm 1979)."""
    left = len(ascending) - np.arange(len(ascending))
    return [float(p) for p in np.minimum(np.maximum.accumulate(left * np.asarray(ascending)), 1)]


def kinds(split: Split, inputs: Sequence[str], answers: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the rows of each kind, by name: of lengths, of values of columns, of answers, and of words.

    Args:
      inputs: the columns that are read. Of the others those count that make few enough groups.
      answers: what is predicted of each row; empty: nothing that could be counted.
    """
    columns = [split.table[name].to_pylist() for name in inputs if name in split.table.column_names]
    texts = [" ".join(str(value) for value in row) for row in zip(*columns, strict=True)]
    found = _of_lengths([len(text) for text in texts])
    for name in split.table.column_names:
        if name not in inputs and not name.startswith("_"):
            values = groups.values(split, name)
            found |= {f"{name}: {value}": rows for value, rows in values.items() if len(values) <= groups.MOST}
    listed = np.asarray(answers, object)
    found |= {f"answer: {one}": np.flatnonzero(listed == one) for one in dict.fromkeys(answers)}
    return found | _of_words(texts)


def _of_lengths(lengths: Sequence[int]) -> dict[str, np.ndarray]:
    """Parts of about as many rows; rows of one length are in one part."""
    ends = np.unique(np.quantile(lengths, np.arange(1, PARTS) / PARTS, method="lower"))
    part, found = np.searchsorted(ends, lengths), {}
    for number in np.unique(part):
        rows = np.flatnonzero(part == number)
        own = np.asarray(lengths)[rows]
        found[f"length: {own.min():,} to {own.max():,} characters"] = rows
    return found


def _of_words(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows that hold a word, small and capital letters alike, of those words that most rows hold."""
    held: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        for word in sorted({*WORD.findall(text.lower())}):
            held.setdefault(word, []).append(row)
    usable = [word for word, rows in held.items() if FEWEST <= len(rows) <= len(texts) - FEWEST]
    most = sorted(usable, key=lambda word: -len(held[word]))[:WORDS]
    return {f"word: {word}": np.asarray(held[word]) for word in most}
