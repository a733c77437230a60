"""Greedy search for the words of a text whose change makes a model answer otherwise.

The word that the label stands on most, by leave-one-out, comes first (as in Jin et al. 2020, Is BERT Really Robust?,
algorithm 1); of all that may stand in its place what leaves the label the lowest probability is kept, and so on, until
the answer is another one or the budget is spent. What several rows try at a time shares the rows of batches.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.attack import edits, words
from jaxft.attack.options import OF_MODEL, Options
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.explain import ablation, occlusion
from jaxft.explain import inputs as rows_of
from jaxft.explain.units import Reading
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Predictor

GROUP = 16
"""Rows that are attacked together."""


class Change(NamedTuple):
    """A word, the characters `start` .. `end` - 1 of the row's `column`, and what stands in its place."""

    method: str
    column: str
    start: int
    end: int
    word: str
    by: str


@dataclasses.dataclass(frozen=True)
class Attacked:
    """One row, attacked. A row that was answered wrong is left as it is.

    Attributes:
      row: its texts by column.
      label: the right one.
      prediction, probability: what the model answers, and how probable the right label is to it.
      attacked: the texts with the changes.
      changes: in the order in which they were made.
      attacked_prediction, attacked_probability: of those texts.
      flipped: whether the answer was right, and is not any more.
      queries: texts that the model was asked about, and gradients.
    """

    row: dict[str, str]
    label: str
    prediction: str
    probability: float
    attacked: dict[str, str]
    changes: tuple[Change, ...]
    attacked_prediction: str
    attacked_probability: float
    flipped: bool
    queries: int

    @property
    def right(self) -> bool:
        return self.prediction == self.label

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON values."""
        return dataclasses.asdict(self) | {"changes": [change._asdict() for change in self.changes]}


@dataclasses.dataclass
class _State:
    """How far the attack on a row is.

    Attributes:
      order: units that are left to try, the most important first.
      slopes: `[units, width]`, of the text as it was; None: nobody asks for them.
      chance: of each label for the texts with the changes, `[labels]`.
    """

    texts: dict[str, str]
    reading: Reading
    label: int
    chance: np.ndarray
    order: list[int] = dataclasses.field(default_factory=list)
    slopes: np.ndarray | None = None
    changes: tuple[Change, ...] = ()
    queries: int = 1

    @property
    def flipped(self) -> bool:
        return int(self.chance.argmax()) != self.label


def attacked(predictor: Predictor, split: Split, labels: np.ndarray, options: Options) -> Iterator[Attacked]:
    """Yields what becomes of each row.

    Args:
      predictor: of one class a text, which it does not read in windows.
      labels: the right class ids, `[rows]`.

    Raises:
      UserError: a method that needs the embeddings of a model which has none at hand.
    """
    known = None
    if asked := [name for name in options.names if name in OF_MODEL]:
        engine = _engine(predictor, asked[0])
        with predictor.tokenizer() as tokenizer:
            known = words.of_model(tokenizer, engine)
    for start in range(0, len(labels), GROUP):
        group = np.arange(start, min(start + GROUP, len(labels)))
        yield from _of_group(predictor, split.take(group), labels[group], options, known)


def _engine(predictor: Predictor, method: str) -> CompiledEngine:
    engine = predictor.engine
    if not isinstance(engine, CompiledEngine) or engine.composed.adaptation.tokens:
        raise UserError(
            f"--attack.methods: {method} needs the word embeddings of one model without virtual tokens, computed by "
            "jax; leave it out"
        )
    return engine


def _of_group(
    predictor: Predictor, split: Split, labels: np.ndarray, options: Options, known: words.Words | None
) -> Iterator[Attacked]:
    inputs, readings = rows_of.read(predictor, split, "words")
    texts = inputs.split.table.select(list(predictor.table.inputs)).to_pylist()
    first = rows_of.probabilities(predictor, predictor.compute(inputs.features)["logits"])
    states = [_State(*one) for one in zip(texts, readings, map(int, labels), first, strict=True)]
    right = [state for state in states if not state.flipped]
    if right:
        _put_in_order(predictor, right)
        if "hotflip" in options.names:
            _find_slopes(predictor, right)
    while asked := [(state, made) for state in right if (made := _next(state, options, known))]:
        _try(predictor, asked)
    names = predictor.table.options.labels
    for state, before in zip(states, first, strict=True):
        yield Attacked(
            row=state.texts,
            label=names[state.label],
            prediction=names[int(before.argmax())],
            probability=float(before[state.label]),
            attacked=_written(state.texts, state.changes),
            changes=state.changes,
            attacked_prediction=names[int(state.chance.argmax())],
            attacked_probability=float(state.chance[state.label]),
            flipped=bool(state.changes) and state.flipped,
            queries=state.queries,
        )


def _put_in_order(predictor: Predictor, states: Sequence[_State]) -> None:
    """Finds which units of each row the label stands on most: what its probability loses without them."""
    several = [state for state in states if len(state.reading.units) > 1]
    for state in states:
        state.order = [0]
    if not several:
        return
    made = [ablation.features(s.reading, occlusion.ablations(len(s.reading.units))[1:], None) for s in several]
    for state, found in zip(several, predictor.compute_each(made), strict=True):
        left = rows_of.probabilities(predictor, found["logits"])[:, state.label]
        state.order = [int(at) for at in np.argsort(left, kind="stable")]
        state.queries += len(left)


def _find_slopes(predictor: Predictor, states: Sequence[_State]) -> None:
    """Finds the gradient of each row's loss by the embedding of each unit."""
    engine = _engine(predictor, "hotflip")
    parts = []
    for state in states:
        tokens = {"input_ids": state.reading.ids, "token_type_ids": state.reading.types}
        parts.append(
            Features(np.asarray([0, len(state.reading.ids)]), tokens, {"aim": np.asarray([state.label], np.int32)})
        )
    function = engine.function(words.make_slopes)
    found = engine.collect(function, Features.joined(parts), words.COLUMNS, words.KINDS)["slope"]
    ends = np.cumsum([len(state.reading.ids) for state in states])[:-1]
    for state, slope in zip(states, np.split(found, ends), strict=True):
        state.slopes = _of_units(slope, state.reading)
        state.queries += 1


def _of_units(tokens: np.ndarray, reading: Reading) -> np.ndarray:
    """The sum over the tokens of each unit, `[units, width]`."""
    found = np.zeros((len(reading.units), tokens.shape[1]), tokens.dtype)
    there = reading.unit_of >= 0
    np.add.at(found, reading.unit_of[there], tokens[there])
    return found


def _next(state: _State, options: Options, known: words.Words | None) -> list[Change]:
    """What may stand in the place of the next word, which is then no longer left to try; empty: the attack is over."""
    while state.order and len(state.changes) < options.words and not state.flipped:
        if made := _changes(state, state.order.pop(0), options, known):
            return made
    return []


def _changes(state: _State, at: int, options: Options, known: words.Words | None) -> list[Change]:
    """All that may stand in the place of a unit; nothing where it has no letter."""
    unit, most = state.reading.units[at], options.candidates
    if not any(map(str.isalpha, unit.text)):
        return []
    found = []
    for method in options.names:
        if method in edits.EDITS:
            made = edits.some(unit.text, edits.EDITS[method](unit.text), most, options.seed)
        elif method == "hotflip":
            assert known is not None and state.slopes is not None
            made = words.uphill(known, unit.text, state.slopes[at], most)
        else:
            assert known is not None
            made = words.nearest(known, unit.text, state.reading.ids[state.reading.unit_of == at], most)
        found += [Change(method, unit.column, unit.start, unit.end, unit.text, by) for by in made]
    return found


def _try(predictor: Predictor, asked: Sequence[tuple[_State, Sequence[Change]]]) -> None:
    """Asks the model about each change of each row, and keeps the best where it takes probability from the label."""
    rows = [_written(state.texts, (*state.changes, change)) for state, made in asked for change in made]
    chance = rows_of.probabilities(predictor, predictor.compute(predictor.tokenized(rows).features)["logits"])
    ends = np.cumsum([len(made) for _, made in asked])[:-1]
    for (state, made), found in zip(asked, np.split(chance, ends), strict=True):
        state.queries += len(made)
        best = min(range(len(made)), key=lambda at: (found[at].argmax() == state.label, found[at, state.label]))
        if found[best].argmax() != state.label or found[best, state.label] < state.chance[state.label]:
            state.changes, state.chance = (*state.changes, made[best]), found[best]


def _written(texts: dict[str, str], changes: Sequence[Change]) -> dict[str, str]:
    """The texts with the changes in them; the last one in a text comes first, so that places stay right."""
    found = dict(texts)
    for change in sorted(changes, key=lambda one: -one.start):
        text = found[change.column]
        found[change.column] = text[: change.start] + change.by + text[change.end :]
    return found
