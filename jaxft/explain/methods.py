"""What each method makes of rows and targets: which examples it asks the model of, and what it has of the answers."""

from collections.abc import Sequence

import numpy as np

from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.explain import ablation, attention, gradients, lime, occlusion, shapley, targets
from jaxft.explain import inputs as rows_of
from jaxft.explain.options import FEW, METHODS, Options
from jaxft.explain.scores import Scores
from jaxft.explain.targets import Aim
from jaxft.explain.units import Reading, Unit, of_units, phrase_ends
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.ensemble import EnsembleEngine
from jaxft.predict.predictor import Predictor

MOST_STEPS = 512
"""Of integrated gradients: they are doubled up to so many."""

GAP = 0.01
"""The completeness error from which on steps are not doubled any more."""

SMALLEST = 0.01
"""A difference of outputs below this counts as this where the completeness error is measured by it."""

NOISE = 0.01
"""SmoothGrad's standard deviation, in parts of the range of a text's embeddings: AllenNLP's (Wallace et al. 2019)."""

Found = list[tuple[Scores, int]]
"""Of each row what a method has found, and in how many passes."""


def check(predictor: Predictor, options: Options) -> None:
    """Makes sure that the model can be asked as the method does.

    Raises:
      UserError: it cannot.
    """
    if METHODS[options.method].gradient:
        _engine(predictor, options)
    if METHODS[options.method].attention:
        attention.check(predictor, options.method)


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


def found(predictor: Predictor, readings: Sequence[Reading], aims: Sequence[Sequence[Aim]], options: Options) -> Found:
    """Returns what the method has found, for each row and the targets that are asked for of it.

    Raises:
      UserError: the model cannot be asked so; see `check`.
    """
    method = METHODS[options.method]
    by_method = _by_gradients if method.gradient else _by_attention if method.attention else _by_ablations
    return by_method(predictor, readings, aims, options)


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
        outputs = found["output"].reshape(len(jobs), len(points.place), readings[0].texts)[..., 0]
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
    made = []
    for one, wanted in zip(readings, aims, strict=True):
        tokens = attention.of_tokens(predictor, one, wanted, options.method)
        values = np.stack([of_units(share, one) for share in tokens], axis=1)
        special = tokens[:, one.unit_of < 0].sum(1)
        made.append((Scores(values, facts={"special_tokens": special}), one.texts))
    return made


def _by_ablations(
    predictor: Predictor, readings: Sequence[Reading], aims: Sequence[Sequence[Aim]], options: Options
) -> Found:
    plans = [_plan(one.units, options) for one in readings]
    hidden = [(one, kept) for one, (kept, _) in zip(readings, plans, strict=True)]
    computed = ablation.outputs(predictor, hidden, _fill(predictor, options))
    made = []
    for one, (kept, orders), wanted, (logits, passes) in zip(readings, plans, aims, computed, strict=True):
        values = targets.picked(logits, wanted)
        if options.method in ("occlusion", "leave_one_out"):
            scores = occlusion.scores(values)
        elif options.method == "lime":
            scores = lime.scores(kept, values)
        elif options.method == "partition_shap":
            scores = shapley.partitioned(values, len(one.units))
        else:
            scores = shapley.exact(values) if orders is None else shapley.sampled(orders, values)
        made.append((scores, passes))
    return made


def _plan(of: Sequence[Unit], options: Options) -> tuple[np.ndarray, np.ndarray | None]:
    """Which units are left in each ablation of a row, `[ablations, units]`; and in which orders, where there are such.

    What is drawn depends on the seed and the number of units alone, not on other rows.
    """
    units, rng = len(of), np.random.default_rng(options.seed)
    if options.method in ("occlusion", "leave_one_out"):
        return occlusion.ablations(units), None
    if options.method == "lime":
        return lime.ablations(units, options.samples, rng), None
    if options.method == "partition_shap":
        return shapley.orders_within(shapley.hierarchy(phrase_ends(of))), None
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
