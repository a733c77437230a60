"""How to attack: the ways there are to change a word, and what a user says of them."""

import dataclasses
from collections.abc import Mapping

from jaxft.errors import UserError, nearest

METHODS: Mapping[str, str] = {
    "typo": "a letter becomes its neighbour on the keyboard",
    "swap": "two letters change places",
    "delete": "a letter is left out",
    "case": "capitals become small, small ones capitals",
    "punctuation": "a mark is put behind, around or into it",
    "neighbours": "words whose embeddings are nearest to its own",
    "hotflip": "words whose embeddings raise the loss most by its gradient (Ebrahimi et al. 2018)",
}
"""Name of a way to change a word -> what becomes of it."""

OF_MODEL = ("neighbours", "hotflip")
"""Those that need the word embeddings of the model."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user says.

    Attributes:
      methods: names of `METHODS`, set off by commas; empty: all.
      words: of a row that may be changed, at most.
      candidates: of a word by each method, at most.
      rows: that are attacked, drawn by the seed; 0: all.
      seed: of what is drawn.
    """

    methods: str = ""
    words: int = 3
    candidates: int = 8
    rows: int = 200
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The methods in the order of `METHODS`."""
        asked = [name.strip() for name in self.methods.split(",") if name.strip()]
        return tuple(name for name in METHODS if name in asked or not asked)

    def check(self) -> "Options":
        """Returns the same.

        Raises:
          UserError: a method that there is not, or a number that changes nothing.
        """
        for name in filter(None, map(str.strip, self.methods.split(","))):
            if name not in METHODS:
                raise UserError(f"--attack.methods: there is no {name!r}; {nearest(name, METHODS)}")
        for key in ("words", "candidates"):
            if getattr(self, key) < 1:
                raise UserError(f"--attack.{key} is {getattr(self, key)}; it must be at least 1")
        return self
