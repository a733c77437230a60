"""`jaxft.explain`: texts or rows in, of each its words and how much they speak for an answer, out."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data.features import Features
from jaxft.data.rows import Rows
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.explain import (
    ablation,
    attention,
    faithfulness,
    gradients,
    guesses,
    influence,
    lime,
    occlusion,
    shapley,
    targets,
)
from jaxft.explain import inputs as rows_of
from jaxft.explain.options import FEW, METHODS, MOST_EXACT, Options
from jaxft.explain.scores import Scores
from jaxft.explain.targets import Aim
from jaxft.explain.units import Reading, Unit, of_units
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.ensemble import EnsembleEngine
from jaxft.predict.predictor import Predictor

GROUP = 32
"""Rows that are explained together."""

MOST_STEPS = 512
"""Of integrated gradients: they are doubled up to so many."""

GAP = 0.01
"""The completeness error from which on steps are not doubled any more."""

SMALLEST = 0.01
"""A difference of outputs below this counts as this where the completeness error is measured by it."""

NOISE = 0.01
"""SmoothGrad's standard deviation, in parts of the range of a text's embeddings: AllenNLP's (Wallace et al. 2019)."""


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
    """

    row: dict[str, str]
    answer: dict[str, Any]
    units: list[Unit]
    explanations: list[Explanation]
    method: str
    baseline: str
    cut: bool
    passes: int

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
    _check_task(task := rows_of.task_of(predictor), options)
    if options.examples:
        influence.run_of(predictor)
    if isinstance(task, guesses.Options):
        predictor = guesses.guessing(predictor)
    if METHODS[options.method].gradient:
        _engine(predictor, options)
    if METHODS[options.method].attention:
        attention.check(predictor)
    inputs, readings = rows_of.read(predictor, data, options.units, options.target)
    _check_sizes(readings, inputs.split, options)
    answers = rows_of.answers(predictor, inputs, outputs := predictor.compute(inputs.features))
    logits = list(whole := targets.logits_of(outputs))
    if targets.per_token(predictor.engine.task.outputs):
        logits = np.split(whole, inputs.features.offsets[1:-1])
    wanted = rows_of.aims(predictor, options.target, inputs, readings, logits, answers)
    columns = rows_of.texts_of(predictor, inputs.split)
    texts = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    taught = influence.taught(predictor, readings, wanted, options.examples) if options.examples else None
    how = METHODS[options.method]
    by_method = _by_gradients if how.gradient else _by_attention if how.attention else _by_ablations
    for start in range(0, len(readings), GROUP):
        group = range(start, min(start + GROUP, len(readings)))
        asked = [i for i in group if wanted[i]]
        part, aims = [readings[i] for i in asked], [wanted[i] for i in asked]
        found = by_method(predictor, part, aims, options)
        faithful = _faithful(predictor, part, aims, [scores.values for scores, _ in found], options)
        made = dict(zip(asked, zip(found, faithful, strict=True), strict=True))
        for i in group:
            explanations, passes = [], 0
            if i in made:
                (scores, passes), measured = made[i]
                explanations = _explanations(predictor, logits[i], wanted[i], scores, measured)
                if taught:
                    each = zip(explanations, taught[i], strict=True)
                    explanations = [dataclasses.replace(one, taught=rows) for one, rows in each]
            cut, units = readings[i].cut, readings[i].units
            yield Explained(texts[i], answers[i], units, explanations, options.method, options.baseline, cut, passes)


def _explanations(
    predictor: Predictor,
    logits: np.ndarray,
    aims: Sequence[Aim],
    scores: Scores,
    measured: list[dict[str, Any]] | None,
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
        )
        found.append(explanation)
    return found


def _check_task(task: targets.Options, options: Options) -> None:
    """Raises UserError where words are to be taken out of a text in which one of them is asked for."""
    of = {config.TokenClassification: "the one whose tag is asked for", config.QuestionAnswering: "those of the answer"}
    if type(task) in of and (options.baseline == "delete" or options.faithfulness):
        what = "explain.faithfulness" if options.faithfulness else f"explain.method {options.method!r}"
        raise UserError(
            f"{what} takes words out, also {of[type(task)]}; "
            "take a method with explain.baseline mask or pad, without faithfulness"
        )


def _engine(predictor: Predictor, options: Options) -> CompiledEngine:
    """The engine, of which there is a gradient.

    Raises:
      UserError: there is none.
    """
    engine, needs = predictor.engine, f"explain.method {options.method!r} needs gradients"
    if isinstance(engine, EnsembleEngine):
        raise UserError(f"{needs} of one model; open one of the runs alone, or take occlusion, lime or shap")
    if not isinstance(engine, CompiledEngine):
        raise UserError(f"{needs}, which a graph has not; use --engine=jax")
    if engine.composed.adaptation.tokens:
        raise UserError(
            f"explain.method {options.method!r}: the model has virtual tokens before each text (adapt=prompt), of "
            "which there are no gradients by words; take occlusion, lime or shap"
        )
    return engine


def _check_sizes(readings: Sequence[Reading], split: Split, options: Options) -> None:
    """Raises UserError where a row has more units than the exact method takes."""
    for row, one in enumerate(readings):
        if options.method == "exact_shap" and len(one.units) > MOST_EXACT:
            raise UserError(
                f"{split.where(row)}: it has {len(one.units):,} {options.units}; exact_shap takes {MOST_EXACT} at "
                "most: take shap, which samples, or units=sentences"
            )


Found = list[tuple[Scores, int]]
"""Of each row what a method has found, and in how many passes."""


def _by_gradients(
    predictor: Predictor, readings: Sequence[Reading], aims: Sequence[Sequence[Aim]], options: Options
) -> Found:
    engine = _engine(predictor, options)
    integrated = options.method == "integrated_gradients"
    level = NOISE if options.method == "smoothgrad" else 0.0
    slopes = engine.function(gradients.make_slopes, level, options.seed if level else 0)
    columns = {**gradients.COLUMNS, **{name: engine.task.targets[name] for name in engine.task.reads}}
    baseline = gradients.NOTHING
    if integrated:
        with predictor.tokenizer() as tokenizer:
            baseline = rows_of.stand_in(tokenizer, options.baseline)
    jobs = [(row, n) for row, wanted in enumerate(aims) for n in range(len(wanted))]
    values = [np.zeros((len(one.units), len(wanted))) for one, wanted in zip(readings, aims, strict=True)]
    facts: list[dict[str, np.ndarray]] = [{} for _ in readings]
    passes, steps = np.zeros(len(readings), int), options.samples or 1
    while jobs:
        points = gradients.path(steps) if integrated else gradients.here(steps)
        parts = [gradients.features(readings[row], aims[row][n], points, baseline) for row, n in jobs]
        found = engine.collect(slopes, Features.joined(parts), columns, gradients.KINDS)
        ends = np.cumsum([int(part.offsets[-1]) for part in parts])[:-1]
        again = []
        texts = len(found["output"]) // (len(jobs) * len(points.place))
        outputs = found["output"].reshape(len(jobs), len(points.place), texts)[..., 0]
        for (row, n), slope, output in zip(jobs, np.split(found["slope"], ends), outputs, strict=True):
            one, count = readings[row], len(aims[row])
            tokens = points.weight @ slope.reshape(len(points.weight), -1).astype(np.float64)
            values[row][:, n] = of_units(tokens, one)
            passes[row] += len(points.weight)
            said = {"special_tokens": tokens[one.unit_of < 0].sum()}
            if integrated:
                change = float(output[1]) - float(output[0])
                gap = abs(tokens.sum() - change) / max(abs(change), SMALLEST)
                said = {"completeness_error": gap, "steps": steps, "baseline_output": float(output[0])}
                if gap >= GAP and 2 * steps <= MOST_STEPS:
                    again.append((row, n))
            for name, value in said.items():
                facts[row].setdefault(name, np.zeros(count))[n] = value
        jobs, steps = again, 2 * steps
    return [(Scores(x, facts=said), int(n)) for x, said, n in zip(values, facts, passes, strict=True)]


def _by_attention(
    predictor: Predictor, readings: Sequence[Reading], aims: Sequence[Sequence[Aim]], options: Options
) -> Found:
    found = []
    for one, wanted in zip(readings, aims, strict=True):
        tokens = attention.shares(predictor, one, wanted)
        values = np.stack([of_units(share, one) for share in tokens], axis=1)
        special = tokens[:, one.unit_of < 0].sum(1)
        found.append((Scores(values, facts={"special_tokens": special}), one.texts))
    return found


def _by_ablations(
    predictor: Predictor, readings: Sequence[Reading], aims: Sequence[Sequence[Aim]], options: Options
) -> Found:
    plans = [_plan(len(one.units), options) for one in readings]
    hidden = [(one, kept) for one, (kept, _) in zip(readings, plans, strict=True)]
    computed = ablation.outputs(predictor, hidden, _fill(predictor, options))
    found = []
    for (kept, orders), wanted, (logits, passes) in zip(plans, aims, computed, strict=True):
        values = targets.picked(logits, wanted)
        if options.method in ("occlusion", "leave_one_out"):
            scores = occlusion.scores(values)
        elif options.method == "lime":
            scores = lime.scores(kept, values)
        else:
            scores = shapley.exact(values) if orders is None else shapley.sampled(orders, values)
        found.append((scores, passes))
    return found


def _plan(units: int, options: Options) -> tuple[np.ndarray, np.ndarray | None]:
    """Which units are left in each ablation of a row, `[ablations, units]`; and in which orders, where there are such.

    What is drawn depends on the seed and the number of units alone, not on other rows.
    """
    rng = np.random.default_rng(options.seed)
    if options.method in ("occlusion", "leave_one_out"):
        return occlusion.ablations(units), None
    if options.method == "lime":
        return lime.ablations(units, options.samples, rng), None
    if options.method == "exact_shap" or units <= FEW:
        return shapley.coalitions(units), None
    orders = shapley.orders(units, options.samples, rng)
    return shapley.walks(orders), orders


def _fill(predictor: Predictor, options: Options) -> int | None:
    """The token that stands in the place of each that is hidden; None: it is taken out."""
    if options.baseline == "delete":
        return None
    with predictor.tokenizer() as tokenizer:
        return rows_of.stand_in(tokenizer, options.baseline)


def _faithful(
    predictor: Predictor,
    readings: Sequence[Reading],
    aims: Sequence[Sequence[Aim]],
    values: Sequence[np.ndarray],
    options: Options,
) -> list[list[dict[str, Any]] | None]:
    """Of each row and target what `faithfulness` measures; None where it was not asked for."""
    if not options.faithfulness:
        return [None] * len(readings)
    orders = [faithfulness.orders(scores, np.random.default_rng(options.seed)) for scores in values]
    jobs = [(one, faithfulness.ablations(order)) for one, order in zip(readings, orders, strict=True)]
    found: list[list[dict[str, Any]] | None] = []
    for wanted, (logits, _) in zip(aims, ablation.outputs(predictor, jobs, None), strict=True):
        found.append(faithfulness.measured(rows_of.probabilities(predictor, logits)[:, [aim.entry for aim in wanted]]))
    return found
