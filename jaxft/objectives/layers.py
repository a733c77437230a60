"""Which layers of a student are to be as which of a teacher's, and what a model is to tell of them."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jaxft.batch import Target
from jaxft.config import Objective as Options
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.objectives.distill import PREFIX
from jaxft.types import Array, Batch, Outputs, Params

STATES = {"hidden": ("hidden",), "attention": ("query", "key"), "relations": ("query", "key", "value")}
"""Strength -> what of a layer it compares; see `nn.Run.tap`."""

Wanted = Mapping[str, tuple[int, ...]]
"""Strength -> the layers that it is of; the lowest is 1."""

Forward = Callable[[Params, Batch, nn.Run], Outputs]


def pairs(options: Options, own: int, theirs: int = 0) -> dict[int, int]:
    """Returns the student's layers -> the teacher's: those that are named, or each and one evenly over the teacher's.

    Args:
      own, theirs: how many there are; 0: it is not known how many the teacher has, and no matter.

    Raises:
      UserError: what is named is no pair, or no layer.
    """
    if not options.layers:
        return {layer: -(-layer * (theirs or own) // own) for layer in range(1, own + 1)}
    found = {}
    for pair in options.layers:
        one, _, other = pair.partition(":")
        if not (one.isdecimal() and other.isdecimal()):
            raise UserError(f"config.objective.layers has {pair!r}; write STUDENT:TEACHER, numbers from 1, as 3:6")
        for layer, count, whose in ((int(one), own, "the model"), (int(other), theirs, "the teacher")):
            if count and not 1 <= layer <= count:
                raise UserError(f"config.objective.layers has {pair!r}, but {whose} has layers 1 to {count}")
        found[int(one)] = int(other)
    return found


class States(NamedTuple):
    """What of its layers a student is to have as a teacher.

    Attributes:
      wanted: of which layers, by strength.
      heads: those of attention, and those that relations are split into.
      hidden, attention: numbers a token of the teacher's hidden states, and of its queries.
    """

    wanted: Wanted
    heads: Mapping[str, int]
    hidden: int
    attention: int

    @classmethod
    def of(cls, options: Options, on: Collection[str], model: Model) -> "States":
        """Returns what the strengths that are on ask for: relations of the last layer that is paired, others of all.

        Raises:
          UserError: layers that the model does not have, or heads that do not divide the numbers of a query.
        """
        facts, kinds = model.facts, [kind for kind in STATES if kind in on]
        if not kinds:
            return cls({}, {}, 0, 0)
        layers, own = tuple(sorted(pairs(options, depth(model)))), across(model)
        parts = options.relation_heads or facts.heads
        theirs = options.teacher_width or own
        for width, whose in ((own, "the model's"), (theirs, "the teacher's")):
            if "relations" in kinds and width % parts:
                raise UserError(
                    f"config.objective.relation_heads is {parts}, which does not divide {whose} {width} numbers of a "
                    "query"
                )
        wanted = {kind: layers[-1:] if kind == "relations" else layers for kind in kinds}
        hidden = options.teacher_hidden or facts.width
        return cls(wanted, {"attention": facts.heads, "relations": parts}, hidden, theirs)

    @property
    def names(self) -> list[tuple[str, int]]:
        """What is compared, part and layer, each once."""
        every = [(part, layer) for kind, of in self.wanted.items() for layer in of for part in STATES[kind]]
        return list(dict.fromkeys(every))

    @property
    def targets(self) -> dict[str, Target]:
        """The arrays that a batch has of the teacher, by name, float32."""
        sizes = {"hidden": self.hidden}
        return {
            f"{PREFIX}{part}/{layer}": Target("token", np.float32, size=(sizes.get(part, self.attention),))
            for part, layer in self.names
        }


def depth(model: Model) -> int:
    """Returns how many layers a model computes."""
    return len(model.facts.layers) * model.facts.repeats


def across(model: Model) -> int:
    """Returns how many numbers a query has, all heads together."""
    facts = model.facts
    return facts.heads * (facts.head_size or facts.width // facts.heads)


def told(forward: Forward, asked: Iterable[tuple[str, int]]) -> Forward:
    """Returns the same function, whose outputs also have what is asked of layers, as `query/3`."""

    def telling(params: Params, batch: Batch, run: nn.Run) -> Outputs:
        found: dict[str, list[Array]] = {}

        def tap(name: str, x: Array) -> Array:
            found.setdefault(name, []).append(x)
            return x

        outputs = forward(params, batch, dataclasses.replace(run, tap=tap))
        return {**outputs, **{f"{part}/{layer}": found[part][layer - 1] for part, layer in asked}}

    return telling
