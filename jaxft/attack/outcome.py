"""What an attack found: how much accuracy is left, and at what cost; as numbers, and as a page."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.attack.options import METHODS, Options
from jaxft.attack.search import Attacked
from jaxft.report import page
from jaxft.report.tables import number

SHOWN = 200
"""Flipped rows on the page, at most."""


def summed(rows: Sequence[Attacked]) -> dict[str, Any]:
    """Returns of one or more rows:

    `rows`; `accuracy_before` and `accuracy_after`; `success`, the share of the right answers that are flipped;
    `queries`, the mean of a row that was answered right; `words_changed`, the mean of a flipped row; and `by_method`,
    how many of the changes in flipped rows each has made. None where there are no such rows.
    """
    right, flipped = [one for one in rows if one.right], [one for one in rows if one.flipped]
    made = Counter(change.method for one in flipped for change in one.changes)
    return {
        "rows": len(rows),
        "accuracy_before": len(right) / len(rows),
        "accuracy_after": (len(right) - len(flipped)) / len(rows),
        "success": len(flipped) / len(right) if right else None,
        "queries": float(np.mean([one.queries for one in right])) if right else None,
        "words_changed": float(np.mean([len(one.changes) for one in flipped])) if flipped else None,
        "by_method": {name: made[name] for name in METHODS if made[name]},
    }


def lines(found: dict[str, Any]) -> list[list[str]]:
    """Returns what `summed` found, as rows of a name and a number."""
    spoken = {name: value for name, value in found.items() if name != "by_method"}
    return [
        *([name.replace("_", " "), number(value)] for name, value in spoken.items()),
        *([f"changes by {name}", number(count)] for name, count in found["by_method"].items()),
    ]


def made_page(rows: Sequence[Attacked], found: dict[str, Any], options: Options, name: str, origin: str) -> str:
    """Returns a page of the sums and of the rows that were flipped.

    Args:
      found: `summed` of the rows.
      name, origin: what the model and the rows are called.
    """
    flipped = [one for one in rows if one.flipped]
    heading = ["text", "attacked", "label", "answer", "probability of the label", "changes"]
    listed = [
        [
            " | ".join(one.row.values()),
            " | ".join(one.attacked.values()),
            one.label,
            one.attacked_prediction,
            f"{number(one.probability)} to {number(one.attacked_probability)}",
            ", ".join(f"{change.word} to {change.by} ({change.method})" for change in one.changes),
        ]
        for one in flipped[:SHOWN]
    ]
    about = f"{origin}: up to {options.words} words of a text changed by {', '.join(options.names)}"
    changed = page.table(heading, listed, names=len(heading))
    left = ("What is left", page.table((), lines(found)))
    return page.of_sections(
        f"Attack on {name}", about, [left, (f"Answers that changed ({len(listed):,} of {len(flipped):,})", changed)]
    )
