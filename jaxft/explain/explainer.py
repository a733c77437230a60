"""`jaxft.explain`: texts or rows in, of each its words and how much they speak for an answer, out."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data.rows import Rows
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.explain import (
    ablation,
    agreement,
    counterfactual,
    faithfulness,
    guesses,
    influence,
    methods,
    shapley,
    targets,
)
from jaxft.explain import inputs as rows_of
from jaxft.explain.agreement import Alike
from jaxft.explain.counterfactual import Counterfactual
from jaxft.explain.options import MOST_EXACT, MOST_WAYS, Options
from jaxft.explain.scores import Scores
from jaxft.explain.targets import Aim
from jaxft.explain.units import Reading, Unit, phrase_ends
from jaxft.predict.predictor import Predictor

GROUP = 32
"""Rows that are explained together."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """How much each unit of a row speaks for one target.

    Attributes:
      target: the label, "score", "start" or "end" of an answer, "similarity", or the word that is guessed.
      output: the logit, the score or the similarity, which `scores` are parts of.
      probability: of the label or the word; None: it is a score.
      scores: one a unit; below zero it speaks against the target.
      errors: their standard errors, where the method samples.
      facts: what the method says of itself: completeness_error and steps, fidelity, special_tokens.
      faithfulness: see `jaxft.explain.faithfulness`; None: it was not asked for.
      word: whose tag the target is, or the answer; None: it is of the row.
      taught: which training rows taught it; None: it was not asked for.
      agreement: with what -> the rank correlation of the scores with it, see `jaxft.explain.agreement`.
    """

    target: str
    output: float
    probability: float | None
    scores: list[float]
    errors: list[float] | None
    facts: dict[str, float]
    faithfulness: dict[str, Any] | None
    word: str | None = None
    taught: influence.Taught | None = None
    agreement: Alike = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Explained:
    """One row, explained.

    Attributes:
      row: its texts by column.
      answer: what the model answers, as `Predictor` gives it.
      units: the words, sentences or tokens, in order.
      explanations: one a target.
      method, baseline: how.
      cut: whether the model read a part of the row alone, as it is too long.
      passes: examples that were computed for it; of gradient methods each with a backward pass.
      counterfactuals: the fewest words that change the answer; None: they were not asked for.
    """

    row: dict[str, str]
    answer: dict[str, Any]
    units: list[Unit]
    explanations: list[Explanation]
    method: str
    baseline: str
    cut: bool
    passes: int
    counterfactuals: list[Counterfactual] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the same as JSON values."""
        return dataclasses.asdict(self) | {"units": [unit._asdict() for unit in self.units]}


def explain(
    model: Predictor | str | Path,
    inputs: Sequence[str] | Rows,
    method: str = "integrated_gradients",
    target: str = "",
    **how: Any,
) -> list[Explained]:
    """Returns of each text or row which of its words speak for the model's answer, and which against it.

    Args:
      model: a predictor, or what `Predictor.open` takes.
      inputs: texts, or rows: dicts of the columns that the model reads.
      method, target, how: see `jaxft.explain.options.Options`.

    Raises:
      UserError: a model, a row, a method or a target that cannot be explained, and why.
    """
    options = Options(method, target, **how).check()
    predictor = model if isinstance(model, Predictor) else Predictor.open(model)
    return list(explained(predictor, inputs, options))


def explained(predictor: Predictor, data: Split | Sequence[str] | Rows, options: Options) -> Iterator[Explained]:
    """Yields the explanations of each row. Options are as `Options.check` returns them; raises as `explain`."""
    predictor = _able(predictor, options)
    inputs, readings = rows_of.read(predictor, data, options.units, options.target)
    for one in (options, *agreement.others(options).values()):
        _check_sizes(readings, inputs.split, one)
    answers = rows_of.answers(predictor, inputs, outputs := predictor.compute(inputs.features))
    logits = list(whole := targets.logits_of(outputs))
    if targets.per_token(predictor.engine.task.outputs):
        logits = np.split(whole, inputs.features.offsets[1:-1])
    wanted = rows_of.aims(predictor, options.target, inputs, readings, logits, answers)
    columns = rows_of.texts_of(predictor, inputs.split)
    texts = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    taught = influence.taught(predictor, readings, wanted, options.examples) if options.examples else None
    changed = _changed(predictor, options)
    for start in range(0, len(readings), GROUP):
        group = range(start, min(start + GROUP, len(readings)))
        asked = [i for i in group if wanted[i]]
        part, aims = [readings[i] for i in asked], [wanted[i] for i in asked]
        found = methods.found(predictor, part, aims, options)
        own = [scores for scores, _ in found]
        alike = agreement.of_rows(own, lambda how: _scores(predictor, part, aims, how), options)  # noqa: B023
        faithful = _faithful(predictor, part, aims, own, options)
        made = dict(zip(asked, zip(found, faithful, alike, strict=True), strict=True))
        for i in group:
            explanations, passes = [], 0
            if i in made:
                (scores, passes), (measured, costs), alike = made[i]
                both = [{**one, **other} for one, other in zip(costs, alike, strict=True)]
                explanations = _explanations(predictor, logits[i], wanted[i], scores, measured, both)
                if taught:
                    each = zip(explanations, taught[i], strict=True)
                    explanations = [dataclasses.replace(one, taught=rows) for one, rows in each]
            cut, units = readings[i].cut, readings[i].units
            others = changed(texts[i], units, answers[i]) if changed else None
            how = options.method, options.baseline, cut, passes
            yield Explained(texts[i], answers[i], units, explanations, *how, others)


def _explanations(
    predictor: Predictor,
    logits: np.ndarray,
    aims: Sequence[Aim],
    scores: Scores,
    measured: list[dict[str, Any]] | None,
    alike: Sequence[Alike],
) -> list[Explanation]:
    """What a method has found for a row, by target.

    Args:
      logits: of the row, or of its tokens.
    """
    found = []
    for n, aim in enumerate(aims):
        own = aim.of(logits)
        chance = float(rows_of.probabilities(predictor, own[None])[0, aim.entry])
        explanation = Explanation(
            target=aim.label,
            output=float(own[aim.entry]),
            probability=chance if rows_of.likely(predictor) else None,
            scores=[float(x) for x in scores.values[:, n]],
            errors=None if scores.errors is None else [float(x) for x in scores.errors[:, n]],
            facts={name: float(fact[n]) for name, fact in scores.facts.items()},
            faithfulness=measured[n] if measured else None,
            word=aim.word,
            agreement=alike[n],
        )
        found.append(explanation)
    return found


def _able(predictor: Predictor, options: Options) -> Predictor:
    """The predictor, of a language model that which scores words at one place of a text.

    Raises:
      UserError: it cannot do what is asked for.
    """
    task = rows_of.task_of(predictor)
    every = [options, *agreement.others(options).values()]
    for one in every:
        _check_task(task, one)
    if options.examples:
        influence.run_of(predictor)
    if options.counterfactuals:
        counterfactual.check(predictor)
    if isinstance(task, guesses.Options):
        predictor = guesses.guessing(predictor)
    for one in every:
        methods.check(predictor, one)
    return predictor


def _changed(
    predictor: Predictor, options: Options
) -> Callable[[dict[str, str], Sequence[Unit], dict[str, Any]], list[Counterfactual]] | None:
    """What finds the counterfactuals of a row, by its texts, units and answer; None: they are not asked for."""
    if not options.counterfactuals:
        return None
    language = counterfactual.language_model(options.counterfactuals)
    return lambda row, units, answer: counterfactual.of_row(predictor, language, row, units, answer["prediction"])


def _check_task(task: targets.Options, options: Options) -> None:
    """Raises UserError where words are to be taken out of a text in which one of them is asked for."""
    of = {config.TokenClassification: "the one whose tag is asked for", config.QuestionAnswering: "those of the answer"}
    if type(task) in of and (options.baseline == "delete" or options.faithfulness):
        what = "explain.faithfulness" if options.faithfulness else f"explain.method {options.method!r}"
        raise UserError(
            f"{what} takes words out, also {of[type(task)]}; "
            "take a method with explain.baseline mask or pad, without faithfulness"
        )


def _check_sizes(readings: Sequence[Reading], split: Split, options: Options) -> None:
    """Raises UserError where a row has more units than the exact method takes."""
    for row, one in enumerate(readings):
        if options.method == "exact_shap" and len(one.units) > MOST_EXACT:
            raise UserError(
                f"{split.where(row)}: it has {len(one.units):,} {options.units}; exact_shap takes {MOST_EXACT} at "
                "most: take shap, which samples, or units=sentences"
            )
        if options.method == "partition_shap":
            count = shapley.ways(shapley.hierarchy(phrase_ends(one.units)))
            if count > MOST_WAYS:
                raise UserError(
                    f"{split.where(row)}: its {len(one.units):,} {options.units} can be added in {count:,} ways; "
                    f"partition_shap takes {MOST_WAYS:,} at most: take shap, which samples, or units=sentences"
                )


def _scores(
    predictor: Predictor, readings: Sequence[Reading], aims: Sequence[Sequence[Aim]], options: Options
) -> list[Scores]:
    return [scores for scores, _ in methods.found(predictor, readings, aims, options)]


def _faithful(
    predictor: Predictor,
    readings: Sequence[Reading],
    aims: Sequence[Sequence[Aim]],
    found: Sequence[Scores],
    options: Options,
) -> list[tuple[list[dict[str, Any]] | None, list[Alike]]]:
    """Of each row and target what `faithfulness` measures, and how alike; None and nothing: it was not asked for."""
    if not options.faithfulness:
        return [(None, [{} for _ in wanted]) for wanted in aims]
    orders = [faithfulness.orders(scores.values, np.random.default_rng(options.seed)) for scores in found]
    bare = [one.bare for one in readings]
    jobs = [
        (one, faithfulness.ablations(order, not left)) for one, order, left in zip(readings, orders, bare, strict=True)
    ]
    made: list[tuple[list[dict[str, Any]] | None, list[Alike]]] = []
    computed = ablation.outputs(predictor, jobs, None)
    for wanted, order, scores, left, (logits, _) in zip(aims, orders, found, bare, computed, strict=True):
        values = rows_of.probabilities(predictor, logits)[:, [aim.entry for aim in wanted]]
        alike = faithfulness.alike(scores.values, values, order)
        made.append((faithfulness.measured(values, order, not left), alike))
    return made
