"""Confidence intervals of metrics hold the truth in a simulation, and rows that are drawn keep what is theirs."""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from support import TASKS, random_features

from jaxft import config, tables
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.report.tables import metrics_table
from jaxft.sure import bootstrap
from jaxft.sure.bootstrap import Labelled

LENGTHS = [5, 3, 8, 2, 6, 4]


def test_intervals_hold_the_truth_in_a_simulation():
    """Of 120 draws of 150 rows from a population, 90% intervals of a mean and of an F1, whose truths are known.

    The percentile bootstrap promises its level of many rows; of so few it may be a little less.
    """
    rng = np.random.default_rng(0)
    right, said, truth = 0.7, 0.4, {"accuracy": 0.7, "f1": 2 * 0.28 / (0.4 + 0.28 + 0.18)}
    held = dict.fromkeys(truth, 0)
    for _ in range(120):
        predicted = rng.random(150) < said
        labels = np.where(rng.random(150) < right, predicted, ~predicted)

        def measure(rows: np.ndarray, predicted: np.ndarray = predicted, labels: np.ndarray = labels) -> dict[str, Any]:
            p, q = predicted[rows], labels[rows]
            return {"accuracy": (p == q).mean(), "f1": 2 * (p & q).sum() / (p.sum() + q.sum())}

        found = bootstrap.intervals(measure, 150, 0.9, resamples=120)
        for name, (low, high) in found.items():
            held[name] += low <= truth[name] <= high
    for name, count in held.items():
        assert stats.binom(120, 0.86).ppf(0.001) <= count <= stats.binom(120, 0.92).ppf(0.999), (name, count)


def test_intervals_of_a_mean_are_those_of_its_standard_error():
    values = np.random.default_rng(0).exponential(size=900)
    for level, width in ((0.5, 0.6745), (0.95, 1.96)):
        low, high = bootstrap.intervals(lambda rows: {"mean": values[rows].mean()}, 900, level)["mean"]
        error = values.std() / 30
        assert low == pytest.approx(values.mean() - width * error, abs=0.2 * error)
        assert high == pytest.approx(values.mean() + width * error, abs=0.2 * error)
    rng = np.random.default_rng(0)
    drawn = [values[rng.integers(0, 900, 900)].mean() for _ in range(30)]
    found = bootstrap.intervals(lambda rows: {"mean": values[rows].mean()}, 900, 0.9, resamples=30)
    assert found["mean"] == pytest.approx(np.quantile(drawn, [0.05, 0.95])), "the same each time"


def test_what_a_resample_leaves_undefined_has_no_interval():
    for defined in ([True, True], [False, True]):
        calls = iter(defined)
        found = bootstrap.intervals(lambda rows: {"mean": 1.0} | ({"now": 2.0} if next(calls, False) else {}), 4, 0.9)  # noqa: B023
        assert found == {"mean": (1.0, 1.0)}


def test_levels():
    for level in (0.0, 0.5, 0.99):
        bootstrap.check(level)
    for level in (1.0, 1.5, -0.1):
        with pytest.raises(UserError, match=f"--evaluate.intervals is {level:g}; it must be below 1, e.g. 0.95"):
            bootstrap.check(level)


@pytest.mark.parametrize("name", ["single_label", "token", "documents", "choices", "masked_lm"])
def test_rows_that_are_drawn_keep_what_is_theirs(name):
    """Metrics do not depend on the order of rows; of a row twice tokens, outputs and labels are there twice."""
    rng, case = np.random.default_rng(0), TASKS[name]
    features = random_features(rng, case, LENGTHS, {"vocab_size": 40, "type_vocab_size": 2})
    count, tokens = len(features), int(features.offsets[-1])
    outputs = {
        one: rng.normal(size=(count if kind == "example" else tokens, 3)) for one, kind in case.task.outputs.items()
    }
    rows = len(features.bounds) - 1
    split = Split(pa.table({"n": np.arange(rows)}), "rows")
    drawn = np.asarray([rows - 1, 0, 0])
    taken = Labelled(split, features, case.task.outputs, outputs).take(drawn)
    assert taken.split.table["n"].to_pylist() == drawn.tolist() and len(taken.features.bounds) == 4
    for new, old in enumerate(drawn):
        ours, theirs = (range(*one.bounds[i : i + 2]) for one, i in ((taken.features, new), (features, old)))
        assert len(ours) == len(theirs) > 0
        for i, j in zip(ours, theirs, strict=True):
            mine, its = (slice(*one.offsets[k : k + 2]) for one, k in ((taken.features, i), (features, j)))
            for column, values in features.tokens.items():
                np.testing.assert_array_equal(taken.features.tokens[column][mine], values[its])
            for column in features.examples.keys() - {"row"}:
                np.testing.assert_array_equal(taken.features.examples[column][i], features.examples[column][j])
            for one, kind in case.task.outputs.items():
                here, there = (i, j) if kind == "example" else (mine, its)
                np.testing.assert_array_equal(taken.outputs[one][here], outputs[one][there])
            if "row" in features.examples:
                assert taken.features.examples["row"][i] == new


def test_every_metric_has_an_interval(monkeypatch):
    """Of classes: what a table measures, over and over; counts are none."""
    rng, names = np.random.default_rng(0), ("a", "b")
    logits, labels = rng.normal(size=(120, 2)), rng.integers(0, 2, 120).astype(np.int32)
    table = tables.build(config.SequenceClassification(problem="single_label", labels=names))
    features = Features(np.arange(121), {}, {"labels": labels})
    labelled = Labelled(
        Split(pa.table({"n": np.arange(120)}), "rows"), features, {"logits": "example"}, {"logits": logits}
    )
    whole = labelled.metrics(table)
    assert not any(name.startswith("support/") for name in whole)
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=40))
    found = bootstrap.of_metrics(table, labelled, 0.95)
    assert {*found} == {f"{name}_{end}" for name in whole for end in ("low", "high")}
    assert all(found[f"{name}_low"] < found[f"{name}_high"] for name in whole)
    near = [found[f"{name}_low"] <= value <= found[f"{name}_high"] for name, value in whole.items() if name != "ece"]
    assert all(near), "of what is no absolute value"


def test_texts_that_are_looked_for_have_none():
    for options, apart in ((config.SentenceEmbedding(), False), (config.SentenceEmbedding(score="score"), True)):
        assert tables.build(options).apart == apart
    nothing = Labelled(Split(pa.table({}), "rows"), Features(np.zeros(1, int), {}, {}), {}, {})
    with pytest.raises(UserError, match="each text is looked for among all of the split, so that rows cannot be drawn"):
        bootstrap.of_metrics(tables.build(config.SentenceEmbedding()), nothing, 0.9)


def test_a_table_of_metrics_has_them_beside_the_values():
    results = {"test/accuracy": 0.75, "test/accuracy_low": 0.7, "test/accuracy_high": 0.8, "test/loss": 0.5}
    assert metrics_table(results, "test") == "test\n  accuracy  0.7500  0.7000 to 0.8000\n  loss      0.5000"
    assert metrics_table({"test/fever_high": 1.0}, "test") == "test\n  fever_high  1.0000"
