"""Counterfactuals: the fewest words of a text by whose replacement the model answers otherwise.

What stands in a word's place is what a masked language model finds likely there, so that the text stays one that could
be written (as in BAE, Garg and Ramakrishnan 2020, there for attacks). First one word is replaced, each by each of its
candidates; while no text has another answer, one word more in the texts that leave the answer least likely.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxft import config
from jaxft.errors import UserError
from jaxft.explain import guesses
from jaxft.explain.units import Unit
from jaxft.predict.predictor import Predictor

MOST = 3
"""Words of a text that are replaced, at most."""

CANDIDATES = 8
"""Words that are tried in the place of one."""

BEAM = 4
"""Texts in which one word more is replaced."""

PLACES = 10
"""Words that are replaced together with others: those whose replacement alone costs the answer most."""

SHOWN = 3
"""Counterfactuals of a text, at most: those whose other answer is likeliest."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A unit, by its number, and the word in its place."""

    unit: int
    word: str


Changes = tuple[Change, ...]
"""Of different units, ascending."""

Said = Mapping[str, float]
"""The probability of each answer."""

Say = Callable[[Sequence[Changes]], Sequence[Said]]
"""What a model says of a text with each of several sets of changes."""


@dataclasses.dataclass(frozen=True)
class Counterfactual:
    """A row that is answered otherwise.

    Attributes:
      row: its texts by column.
      changes: what is replaced in it.
      answer, probability: what the model then says.
    """

    row: dict[str, str]
    changes: list[Change]
    answer: str
    probability: float


def check(predictor: Predictor) -> None:
    """Makes sure that a model's answers are one class of several.

    Raises:
      UserError: they are not.
    """
    options = predictor.table.options
    if not isinstance(options, config.SequenceClassification) or options.problem != "single_label":
        kind = f"{type(options).__name__} {getattr(options, 'problem', '')}".strip()
        raise UserError(
            "explain.counterfactuals is for SequenceClassification with a class a text (problem single_label); this is "
            f"{kind}; leave it out"
        )


def language_model(path: str) -> Predictor:
    """Opens a masked language model, as `guesses.likeliest` takes it.

    Raises:
      UserError: it is none.
    """
    predictor = Predictor.open(path)
    if type(predictor.table.options) is not config.MaskedLM:
        kind = type(predictor.table.options).__name__
        raise UserError(f"explain.counterfactuals={path}: it is a model of {kind}; give one of MaskedLM")
    return guesses.guessing(predictor)


def of_row(
    predictor: Predictor, language: Predictor, row: Mapping[str, str], units: Sequence[Unit], answer: str
) -> list[Counterfactual]:
    """Returns the counterfactuals of a row, of the fewest words; there may be none.

    Args:
      language: as `language_model` opens it.
      row: its texts by column.
      units: its words.
      answer: what the model says of it.

    Raises:
      UserError: a text that the language model cannot read.
    """

    def say(variants: Sequence[Changes]) -> list[Said]:
        found = predictor([replaced(row, units, changes) for changes in variants])
        return [one["probabilities"] for one in found]

    words = candidates(language, row, units)
    found = []
    for changes, said in fewest(words, answer, say):
        other = max(said, key=said.__getitem__)
        found.append(Counterfactual(replaced(row, units, changes), list(changes), other, float(said[other])))
    return found


def candidates(language: Predictor, row: Mapping[str, str], units: Sequence[Unit]) -> list[list[str]]:
    """Returns for each unit the words that are likely in its place, other ones than itself, the likeliest first."""
    with language.tokenizer() as tokenizer:
        mask = tokenizer.mask_token
    hidden = [replaced(row, [unit], (Change(0, mask),))[unit.column] for unit in units]
    found = []
    for unit, words in zip(units, guesses.likeliest(language, hidden), strict=True):
        capital = unit.text[:1].isupper()
        others = [word for word in words if word.lower() != unit.text.lower()][:CANDIDATES]
        found.append([word.capitalize() if capital and word.islower() else word for word in others])
    return found


def replaced(row: Mapping[str, str], units: Sequence[Unit], changes: Changes) -> dict[str, str]:
    """Returns the texts of a row with words in the place of some units."""
    texts = dict(row)
    for change in sorted(changes, key=lambda one: -units[one.unit].start):
        unit = units[change.unit]
        text = texts[unit.column]
        texts[unit.column] = text[: unit.start] + change.word + text[unit.end :]
    return texts


def fewest(words: Sequence[Sequence[str]], answer: str, say: Say) -> list[tuple[Changes, Said]]:
    """Returns the smallest sets of changes that change an answer, and what is said then, the surest first.

    It looks at single changes all, at larger sets greedily: there may be smaller ones than it finds.

    Args:
      words: of each unit those that may stand in its place.
      answer: that is to change.
      say: what the model says of the text with such changes.
    """
    single = [(Change(unit, word),) for unit, several in enumerate(words) for word in several]
    tried, places = single, list(range(len(words)))
    for size in range(1, MOST + 1):
        if not tried:
            break
        told = say(tried)
        left = np.asarray([said[answer] for said in told])
        flipped = [n for n, said in enumerate(told) if max(said, key=said.__getitem__) != answer]
        if flipped:
            flipped.sort(key=lambda n: -max(told[n].values()))
            return [(tried[n], told[n]) for n in flipped[:SHOWN]]
        order = np.argsort(left, kind="stable")
        if size == 1:
            places = list(dict.fromkeys(tried[n][0].unit for n in order))[:PLACES]
        beam = [tried[n] for n in order[:BEAM]]
        further = (
            tuple(sorted((*changes, *one), key=lambda change: change.unit))
            for changes in beam
            for one in single
            if one[0].unit in places and one[0].unit not in {change.unit for change in changes}
        )
        tried = list(dict.fromkeys(further))
    return []
