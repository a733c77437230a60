"""What there is to say of the data before the first step: of classes, of texts that are cut, of unknown tokens."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxft.config import Assistant, MultipleChoice, SequenceClassification, Task, TokenClassification
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.data.truncation import cuts
from jaxft.tables.multi_label import label_name

MANY = 0.5
"""From so many classes a training row on, a column is likely none of classes."""

FEW = 10
"""Of fewer training rows that is not said."""

UNKNOWN = 0.05
"""From this share of unknown tokens on, the tokenizer is likely another language's, or of another case."""


def of_classes(options: Task, splits: Mapping[str, Split]) -> list[str]:
    """Returns a line for each oddity of the classes in splits that are ready to be tokenized.

    Args:
      options: resolved. Of tasks without classes there is nothing to say.
      splits: by what they are called; of "train" classes of one row are told as well.
    """
    if not isinstance(options, SequenceClassification | TokenClassification) or options.problem == "regression":
        return []
    tagged = isinstance(options, TokenClassification)
    column = options.tags if tagged else options.label
    what = "labels" if not tagged else "types of entities" if options.problem == "entities" else "tags"

    def kinds(value: Any) -> set[str]:
        """The classes that a row has."""
        names = {label_name(one) for one in (value if isinstance(value, list) else [value])}
        return {name[2:] for name in names if name != "O"} if what == "types of entities" else names

    held = {
        key: Counter(one for value in split.table[column].to_pylist() for one in kinds(value))
        for key, split in splits.items()
    }
    names = list(options.labels) if what != "types of entities" else sorted(kinds(list(options.labels)))
    lines = []
    if "train" in splits:
        rows = splits["train"].table.num_rows
        if isinstance(options, SequenceClassification) and rows >= FEW and len(held["train"]) > MANY * rows:
            hint = "is it a column of classes? for scores set config.task.problem=regression"
            return [f"warning: {len(held['train']):,} labels in {column!r} for {rows:,} training rows; {hint}"]
        if once := [name for name in names if held["train"][name] == 1]:
            lines.append(f"one training row alone has the {what} {_listed(once)}")
    for key, counts in held.items():
        if lacking := [name for name in names if not counts[name]]:
            lines.append(f"{'training' if key == 'train' else key} lacks the {what} {_listed(lacking)}")
    return lines


def of_tokens(options: Task, features: Mapping[str, Features], max_length: int) -> list[str]:
    """Returns a line for each split of which texts fill `max_length`, or tokens are unknown to the model."""
    lines = []
    for key, part in features.items():
        full = int((part.lengths >= max_length).sum())
        if isinstance(options, Assistant):
            lines += of_turns(key, part, max_length)
        elif full and cuts(options):
            what = "choices" if isinstance(options, MultipleChoice) else "texts"
            fill = f"{full:,} of {len(part):,} {key} {what} fill config.data.max_length {max_length}"
            lines.append(f"{fill}; what is longer is cut")
        share = part.about.get("unknown", 0.0)
        if share >= UNKNOWN:
            hint = "does the tokenizer know their language and their case?"
            lines.append(
                f"warning: {100 * share:.1f}% of the {key} tokens are unknown to the model's vocabulary; {hint}"
            )
        elif share >= 0.0005:
            lines.append(f"{100 * share:.1f}% of the {key} tokens are unknown to the model's vocabulary")
    return lines


def of_turns(key: str, part: Features, max_length: int) -> list[str]:
    """Returns a line for a split of conversations of which a turn of the assistant is cut, or left without its end."""
    columns = part.examples
    halved, lost = (int(columns[name].sum()) for name in ("halved", "lost"))
    if not halved + lost:
        return []
    cut, nothing = (int(there.sum()) for there in (columns["halved"] + columns["lost"] > 0, columns["learned"] == 0))
    line = (
        f"{cut:,} of {len(part):,} {key} conversations are longer than config.data.max_length {max_length}: {halved:,} "
        f"turns of the assistant are cut in two there, and {lost:,} lie behind it"
    )
    return [f"{line}; {nothing:,} conversations are left with nothing to learn" if nothing else line]


def of_features(made: Features, tokenizer: Any) -> dict[str, float]:
    """Returns what is kept with features: the share of `unknown` tokens among theirs."""
    return {"unknown": unknown_share(made.tokens["input_ids"], tokenizer.unk_token_id, tokenizer.all_special_ids)}


def unknown_share(ids: np.ndarray, unknown: int | None, special: Iterable[int]) -> float:
    """Returns the share of unknown tokens among those that are no other special ones.

    Args:
      ids: of all tokens, `[n]`.
      unknown: the id that stands for what a vocabulary lacks; None: it lacks nothing.
    """
    if unknown is None:
        return 0.0
    counts = len(ids) - int(np.isin(ids, [one for one in special if one != unknown]).sum())
    return float((ids == unknown).sum()) / counts if counts else 0.0


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more
