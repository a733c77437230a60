"""How to write: what a user says of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxft.errors import UserError


class How(NamedTuple):
    """What the compiled program depends on, beside shapes.

    Attributes:
      sample: whether tokens are drawn; else the best is taken.
      top_k: of how many; 0: of all.
      top_p, min_p, repetition: whether these are in the program; what they are it is given.
      ngram: see `Options.no_repeat_ngram`.
      beams: see `Options`.
    """

    sample: bool = False
    top_k: int = 0
    top_p: bool = False
    min_p: bool = False
    repetition: bool = False
    ngram: int = 0
    beams: int = 1


MOST_SEED = 2**32 - 1
"""The greatest seed."""

BOUNDS: dict[str, tuple[float, float | None]] = {
    "max_new_tokens": (1, None),
    "temperature": (0, None),
    "top_k": (0, None),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (0, None),
    "no_repeat_ngram": (0, None),
    "beams": (1, 64),
    "answers": (1, 1024),
    "seed": (0, MOST_SEED),
    "rows": (1, None),
}
"""Option -> the least and the greatest value that it may have; None: there is no greatest."""

ABOVE = ("top_p", "repetition_penalty")
"""Those that must be above the least."""


def words_of(listed: str) -> tuple[str, ...]:
    """Returns words that are set off by commas, in which \\n stands for the end of a line and \\t for a tab."""
    return tuple(word.replace("\\n", "\n").replace("\\t", "\t") for word in listed.split(",")) if listed else ()


def check_bounds(values: Mapping[str, Any], called: Callable[[str], str] = "generate.{}".format) -> None:
    """Makes sure that options have values that they may have, each by itself.

    Args:
      values: by name, of all options or of some.
      called: what the user knows an option as, by its name.

    Raises:
      UserError: one is out of its bounds, or a stop word is empty.
    """
    for name in (name for name in BOUNDS if name in values):
        value, above, (low, high) = values[name], name in ABOVE, BOUNDS[name]
        if not (value > low if above else value >= low) or (high is not None and value > high):
            least = f"above {low}" if above else f"{low} or more"
            raise UserError(f"{called(name)} is {value}; it must be {least}{f', at most {high}' if high else ''}")
    if "" in values.get("stop", ()):
        raise UserError(f"{called('stop')} has an empty word, at which every answer would end; leave it out")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user says.

    Attributes:
      max_new_tokens: of an answer, at most; the end of the model's positions ends it too.
      temperature: by which scores are divided before a token is drawn; 0: none is drawn, the best is taken.
      top_k: a token is drawn of so many, those with the best scores; 0: of all.
      top_p: of the fewest whose probabilities make so much together (Holtzman et al. 2020).
      min_p: of those that are at least so likely, in parts of the likeliest (Nguyen et al. 2024).
      repetition_penalty: what scores of tokens that are in the text are made smaller by (Keskar et al. 2019); 1: they
        are as they were.
      no_repeat_ngram: no run of so many tokens comes twice, the prompt's included; 0: any may.
      beams: texts that are continued at a time, of which the best is the answer; 1: one (docs/generate.md).
      length_penalty: an answer of n tokens counts as its log probability / n ** length_penalty among beams.
      stop: words that end an answer, before them.
      answers: to each prompt: the best of the beams; or as many draws, answer j being that of `seed` + j.
      seed: of what is drawn; row i of the input has draws of its own.
      rows: prompts that are continued together.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    answers: int = 1
    seed: int = 0
    rows: int = 8

    def check(self) -> "Options":
        """Returns the same.

        Raises:
          UserError: a number that is out of its bounds, a stop word that is empty, or what cannot go together.
        """
        check_bounds(vars(self))
        self._check_drawn()
        self._check_beams()
        if self.answers > 1 and not self.temperature and self.answers > self.beams:
            raise UserError(
                f"generate.answers is {self.answers}, but nothing is drawn, and generate.beams is {self.beams}; set "
                "generate.temperature above 0, or generate.beams to as many or more"
            )
        return self

    def _check_drawn(self) -> None:
        for name in ("top_k", "top_p", "min_p"):
            if not self.temperature and getattr(self, name) != getattr(Options, name):
                raise UserError(
                    f"generate.{name} is {getattr(self, name)}, but nothing is drawn; set generate.temperature "
                    "above 0, or leave it out"
                )
        if self.temperature and self.seed + self.answers - 1 > MOST_SEED:
            raise UserError(
                f"generate.seed is {self.seed}, and {self.answers} answers have seeds from there on; the greatest is "
                f"{MOST_SEED}: take a smaller one"
            )

    def _check_beams(self) -> None:
        if self.beams > 1 and self.temperature:
            raise UserError(
                f"generate.beams is {self.beams} and generate.temperature {self.temperature}; beams take what is best "
                "and draw nothing: leave one of the two out"
            )
        if self.beams > 1 and self.stop:
            raise UserError(
                f"generate.beams is {self.beams}, and generate.stop has words; beams end at tokens alone: leave one of "
                "the two out"
            )
        if self.beams == 1 and self.length_penalty != Options.length_penalty:
            raise UserError(
                f"generate.length_penalty is {self.length_penalty}, but there is one beam; set generate.beams to 2 or "
                "more, or leave it out"
            )

    @property
    def how(self) -> How:
        """What of it the compiled program depends on."""
        return How(
            sample=self.temperature > 0,
            top_k=self.top_k,
            top_p=self.top_p < 1,
            min_p=self.min_p > 0,
            repetition=self.repetition_penalty != 1,
            ngram=self.no_repeat_ngram,
            beams=self.beams,
        )
