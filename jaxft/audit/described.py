"""What rows are, beside those that were learned from: of which classes, how long, how much is cut or unknown."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft import config
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.sure.groups import said
from jaxft.tables.multi_label import label_name

CLASSES = 30
"""Classes that are counted, at most: those of most rows."""


class Line(NamedTuple):
    """A number of the rows that are measured, and the same of those that were learned from; None: it is not known."""

    name: str
    measured: float
    known: float | None


def lines(
    options: Any, inputs: Sequence[str], split: Split, features: Features, known: Split | None, limits: tuple[int, int]
) -> list[Line]:
    """Returns what there is to say of rows.

    Args:
      options: of the task, resolved.
      inputs: columns of what the model reads.
      features: of the rows.
      known: what was learned from; None: it is not known.
      limits: how many tokens are read at once, and the token of what is unknown; below 0: none.
    """
    both = (split, known) if known else (split,)
    full, unknown = limits

    def line(name: str, *values: float) -> Line:
        return Line(name, values[0], values[1] if known else None)

    sizes = [_sizes(inputs, part) for part in both]
    found = [
        line("rows", *(part.table.num_rows for part in both)),
        line("characters, median", *(round(np.median(each)) for each, _ in sizes)),
        line("characters, 95% have fewer", *(round(np.quantile(each, 0.95)) for each, _ in sizes)),
        line("rows with the text of an earlier one", *(again for _, again in sizes)),
        Line("tokens, median", round(np.median(features.lengths)), None),
        Line(f"share that fills the {full:,} tokens read at once", float((features.lengths >= full).mean()), None),
    ]
    if unknown >= 0:
        share = float((features.tokens["input_ids"] == unknown).mean())
        found.append(Line("share of tokens that the model does not know", share, None))
    own, *others = (counts(options, part) for part in both)
    return found + [line(name, count, *(each[name] for each in others)) for name, count in own.most_common(CLASSES)]


def counts(options: Any, split: Split) -> Counter[str]:
    """Returns how many rows, or words, have each class, as `class NAME`; of tasks without classes nothing."""
    if isinstance(options, config.TokenClassification):
        column = options.tags
    elif isinstance(options, config.SequenceClassification) and options.problem != "regression":
        column = options.label
    else:
        return Counter()
    each = ((one if isinstance(one, list) else [one]) for one in split.table[column].to_pylist())
    return Counter(f"class {label_name(one)}" for row in each for one in row)


def _sizes(inputs: Sequence[str], split: Split) -> tuple[np.ndarray, int]:
    """Characters of each row, and how many rows have the text of an earlier one."""
    named = [name for name in inputs if name in split.table.column_names]
    rows = list(zip(*([said(text, " ") for text in split.table[name].to_pylist()] for name in named), strict=True))
    return np.asarray([sum(map(len, row)) for row in rows]), len(rows) - len(set(rows))
