"""Near duplicates: texts that a model is tested on, and has as good as learned from.

Texts are as alike as their sets of characters in a row: their Jaccard similarity. All pairs that reach the limit are
found, without comparing all: of two such sets the rarest few members, in one order for all, have one in common (prefix
filtering, Chaudhuri et al. 2006).
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

GRAM = 5
"""Characters in a row."""

NEAR = 0.8
"""Jaccard similarity from which on two texts are near duplicates."""


class Twin(NamedTuple):
    """A row, the row that is most like it among others, and how much, from `NEAR` to 1."""

    row: int
    other: int
    similarity: float


def grams(text: str) -> set[str]:
    """Returns the characters in a row of a text, in small letters, blanks as one each; of a short text itself."""
    plain = " ".join(text.lower().split())
    return {plain[at : at + GRAM] for at in range(max(len(plain) - GRAM + 1, 1))}


def near(asked: Sequence[str], others: Iterable[str], limit: float = NEAR) -> list[Twin]:
    """Returns of each asked text that has such the first of the other texts that is most like it, the most alike first.

    Args:
      others: are gone through once, one at a time.
      limit: the least similarity, above 0.
    """
    sets = [grams(text) for text in asked]
    common = Counter(gram for one in sets for gram in one)

    def rarest(one: set[str]) -> list[str]:
        ranked = sorted(one, key=lambda gram: (common[gram], gram))
        return ranked[: len(one) - math.ceil(limit * len(one) - 1e-9) + 1]

    holders: dict[str, list[int]] = {}
    for row, one in enumerate(sets):
        for gram in rarest(one):
            holders.setdefault(gram, []).append(row)
    best: dict[int, Twin] = {}
    for at, text in enumerate(others):
        one = grams(text)
        for row in {row for gram in rarest(one) for row in holders.get(gram, ())}:
            similarity = len(one & sets[row]) / len(one | sets[row])
            if similarity >= limit and (row not in best or similarity > best[row].similarity):
                best[row] = Twin(row, at, similarity)
    return sorted(best.values(), key=lambda twin: (-twin.similarity, twin.row))
