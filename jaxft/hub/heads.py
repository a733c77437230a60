"""Whether the head of a checkpoint is the one that a run wants, and which of its outputs stands for which label."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxft import tasks
from jaxft.models import nn
from jaxft.program import Program

GENERIC = re.compile(r"LABEL_\d+")
"""What the Hugging Face library calls a label that nobody has named."""


class Fit(NamedTuple):
    """How the outputs of a checkpoint's head are taken.

    Attributes:
      paths: the parameters with an entry a label, on their last axis.
      order: label i here is output order[i] there; empty: as they stand.
      new: why they are initialized instead; empty: they are not.
      must: whether a checkpoint without them, or with others, is refused.
      note: a line for the log about `order`.
    """

    paths: frozenset[str] = frozenset()
    order: tuple[int, ...] = ()
    new: str = ""
    must: bool = False
    note: str = ""


AS_IT_STANDS = Fit()


def fit(hf: Mapping[str, Any], hf_class: str, labels: Sequence[str], wanted: str, paths: Iterable[str]) -> Fit:
    """Returns how the head of a checkpoint fits labels: by their names, where it names its own.

    Args:
      hf: its config.json.
      hf_class: end of the name of the class that the run's head is of, such as ForSequenceClassification.
      labels: in the order of the run's outputs; none: there are no names to compare.
      wanted: `config.model.head`.
      paths: the parameters with an entry a label; for a new head all of it.
    """
    paths = frozenset(paths)
    if wanted == "new":
        return Fit(paths, new="as config.model.head is new")
    if wanted == "load":
        return Fit(paths, must=True)
    there = str((hf.get("architectures") or [""])[0])
    if "For" in there and not there.endswith(hf_class):
        return Fit(paths, new=f"as the checkpoint is a {there}; config.model.head=load takes its head as it stands")
    names = _names(hf)
    plain = [name.strip().casefold() for name in labels]
    numbers = [str(i) for i in range(len(labels))]
    if not names or not labels or plain in (names, numbers):
        return Fit(paths)
    if sorted(plain) == sorted(names) and len({*names}) == len(names):
        order = tuple(names.index(name) for name in plain)
        return Fit(paths, order, note=f"head: its outputs are put in the order of the labels: {', '.join(labels)}")
    listed = ", ".join(str(name) for name in dict(hf["id2label"]).values())[:100]
    return Fit(paths, new=f"as the checkpoint's is for {listed}; config.model.head=load takes it as it stands")


def fit_of(hf: Mapping[str, Any], composed: Program, wanted: str) -> Fit:
    """Returns how the head of a checkpoint, or of an adapter, fits the labels of a program's task; see `fit`."""
    flat, prefix = nn.flatten(composed.spec), composed.model.prefix
    beside = [path for path in flat if not path.startswith(f"{prefix}/")]
    labels = composed.task.head_outputs if getattr(composed.task.options, "labels", ()) else ()
    return fit(hf, composed.task.hf_class, labels, wanted, beside if wanted == "new" else _of_labels(composed))


def _of_labels(composed: Program) -> list[str]:
    """The paths of the head's parameters that have an entry a label: those that one label more makes larger."""
    options = composed.task.options
    if not getattr(options, "labels", ()):
        return []
    more = tasks.build(dataclasses.replace(options, labels=(*options.labels, ""))).param_spec(composed.model)
    flat = nn.flatten(composed.spec)
    return [path for path, leaf in nn.flatten(more).items() if leaf.shape != flat[path].shape]


def _names(hf: Mapping[str, Any]) -> list[str]:
    """The names of a checkpoint's labels by their numbers, case and blanks around them aside; none: it has none."""
    named = hf.get("id2label")
    if not isinstance(named, Mapping) or not all(str(key).isdigit() for key in named):
        return []
    names = [str(name) for _, name in sorted((int(number), name) for number, name in named.items())]
    return [] if all(GENERIC.fullmatch(name) for name in names) else [name.strip().casefold() for name in names]
