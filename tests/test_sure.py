"""How sure: temperatures, conformal sets, energies and risks against their definitions, by hand and by simulation."""

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn import metrics

from jaxft import config, tables
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.metrics.probabilities import sigmoid, softmax
from jaxft.storage import fingerprint
from jaxft.sure import calibration, conformal, energy, kept, selective, temperature
from jaxft.sure.calibration import Calibration
from jaxft.tables.sequence_classification import SequenceClassification

LEVELS = (0.8, 0.9, 0.95)


def classes(rng: np.random.Generator, rows: int, degrees: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of five classes, and labels that are drawn from their softmax at a temperature."""
    logits = rng.normal(0, 2, (rows, 5))
    labels = (softmax(logits / degrees).cumsum(1) < rng.random((rows, 1))).sum(1)
    return logits.astype(np.float32), labels.astype(np.int32)


def several(rng: np.random.Generator, rows: int, degrees: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of four labels, and labels that hold as their sigmoid at a temperature says."""
    logits = rng.normal(0, 2, (rows, 4))
    return logits.astype(np.float32), (rng.random((rows, 4)) < sigmoid(logits / degrees)).astype(np.float32)


@pytest.mark.parametrize("draw", [classes, several])
@pytest.mark.parametrize("degrees", [0.1, 1.0, 15.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(draw, degrees):
    logits, labels = draw(np.random.default_rng(0), 20_000, degrees)
    found = temperature.fit(logits, labels)
    assert found == pytest.approx(degrees, rel=0.1)
    best = temperature.log_loss(logits, labels, found)
    for other in (1.0, found * 0.99, found * 1.01):
        assert best <= temperature.log_loss(logits, labels, other)


@pytest.mark.parametrize("draw", [classes, several])
def test_a_temperature_never_worsens_the_rows_that_it_was_fitted_on(draw):
    """Whatever the labels: drawn, at random, a single row, all right, all wrong."""
    rng = np.random.default_rng(1)
    for rows in (1, 2, 3, 10, 50):
        for degrees in (0.3, 1.0, 4.0, 1e9):
            logits, labels = draw(rng, rows, degrees)
            found = temperature.fit(logits, labels)
            assert 1 / temperature.MOST <= found <= temperature.MOST
            assert temperature.log_loss(logits, labels, found) <= temperature.log_loss(logits, labels) + 1e-12
    logits = np.asarray([[2.0, -1.0], [3.0, 0.0]])
    assert temperature.fit(logits, np.asarray([0, 0])) < 0.1, "no errors at all"
    assert temperature.fit(logits, np.asarray([1, 1])) == pytest.approx(temperature.MOST)
    assert temperature.fit(np.zeros((2, 2)), np.asarray([0, 1])) == 1, "all are as good"


def test_log_losses_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = classes(rng, 40)
    wanted = metrics.log_loss(labels, softmax(logits / 2), labels=range(5))
    assert temperature.log_loss(logits, labels, 2) == pytest.approx(wanted)
    logits, labels = several(rng, 40)
    each = [metrics.log_loss(labels[:, i], sigmoid(logits[:, i])) for i in range(4)]
    assert temperature.log_loss(logits, labels) == pytest.approx(sum(each))
    assert np.isfinite(temperature.log_loss(np.asarray([[900.0, -900.0]]), np.asarray([1])))


def test_the_limit_is_a_quantile_of_finite_rows():
    scores = np.asarray([0.5, 0.1, 0.4, 0.2, 0.3, 0.6, 0.9, 0.7, 0.8])
    assert conformal.limit(scores, 0.9) == 0.9, "the 9th of 9"
    assert conformal.limit(scores, 0.7) == 0.7 and conformal.limit(scores, 0.5) == 0.5
    assert conformal.limit(scores, 0.71) == 0.8
    assert conformal.limit(scores, 0.91) is None, "of which 10 would be the 10th"
    for coverage in (0.5, 0.7, 0.9, 0.95, 0.99):
        least = conformal.fewest(coverage)
        assert conformal.limit(np.arange(least), coverage) == least - 1
        assert conformal.limit(np.arange(least - 1), coverage) is None


def test_scores_by_hand():
    probabilities = np.asarray([[0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
    np.testing.assert_allclose(conformal.plain(probabilities), [[0.8, 0.5, 0.7], [0.75, 0.75, 0.5]])
    np.testing.assert_allclose(conformal.adaptive(probabilities), [[0.8, 0, 0.5], [0.5, 0.75, 0]])
    np.testing.assert_allclose(conformal.of_truth(probabilities, np.asarray([2, 0])), [0.3, 0.25])
    held = np.asarray([[1, 0, 1], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(conformal.of_truth(probabilities, held), [0.3, 0])


def covered(draw, problem: str, sets: str, coverage: float, rows: int, rng: np.random.Generator) -> int:
    """Of so many other rows, those whose truth is held after a calibration on as many."""
    found = calibration.fit(problem, *draw(rng, rows), coverage=coverage, sets=sets)
    return round(calibration.figures(found, *draw(rng, rows))["covered"] * rows)


def scores(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels whose errors have long tails."""
    labels = rng.normal(size=rows)
    return (labels + rng.standard_t(2, rows))[:, None], labels


SETS = [(classes, "single_label", "plain"), (classes, "single_label", "adaptive"), (several, "multi_label", "plain")]


@pytest.mark.parametrize(("draw", "problem", "sets"), [*SETS, (scores, "regression", "")])
def test_sets_hold_the_truth_as_often_as_was_promised(draw, problem, sets):
    """A simulation, and exact: the number of 199 new rows is beta-binomial, of ranks among 199 and the new ones.

    Of 40 draws none is outside its interval of 1 - 1e-5, and their sum not outside that of its mean and variance.
    """
    rng = np.random.default_rng(0)
    for coverage in LEVELS:
        rank = round(200 * coverage)
        law = stats.betabinom(199, rank, 200 - rank)
        found = [covered(draw, problem, sets, coverage, 199, rng) for _ in range(40)]
        assert law.ppf(5e-6) <= min(found) and max(found) <= law.ppf(1 - 5e-6)
        off = (np.mean(found) - law.mean()) / (law.std() / np.sqrt(40))
        assert abs(off) < 4, (coverage, off)


@pytest.mark.parametrize(("draw", "problem", "sets"), [*SETS, (scores, "regression", "")])
def test_rows_that_were_fitted_on_keep_the_promise_too(draw, problem, sets):
    """The one whose score is the limit is held."""
    logits, labels = draw(np.random.default_rng(0), 199)
    found = calibration.fit(problem, logits, labels, 0.9, sets)
    measured = calibration.figures(found, logits, labels)
    assert (found.coverage, found.sets) == (0.9, sets)
    assert round(199 * measured["covered"]) == 180
    if problem == "regression":
        assert measured == {"covered": 180 / 199, "size": 2 * found.limit}
        assert found.limit == np.sort(np.abs(logits[:, 0] - labels))[179]
    else:
        assert found.energies == energy.percentiles(energy.energies(logits, labels.ndim == 2))


def test_the_likeliest_class_is_in_its_set():
    """Where a model is right more often than was asked for, the limit alone would leave sets empty."""
    rng = np.random.default_rng(0)
    logits, labels = classes(rng, 400, 0.1)
    found = calibration.fit("single_label", logits, labels, 0.5, "plain")
    assert (1 - softmax(logits).max(1) > found.limit).any(), "one that would be empty"
    held = found.held(logits)
    assert held[np.arange(400), logits.argmax(1)].all()
    measured = calibration.figures(found, logits, labels)
    assert measured["covered"] == pytest.approx(held[np.arange(400), labels].mean())
    assert measured["size"] == pytest.approx(held.sum(1).mean())


def test_energies_are_those_of_their_definition_and_tell_noise_from_knowledge():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_allclose(energy.energies(logits, False), -logsumexp(logits.astype(float), axis=1))
    np.testing.assert_allclose(energy.energies(logits, True), -np.log1p(np.exp(logits.astype(float))).sum(1))
    kept_ = energy.percentiles(np.arange(1000.0))
    assert len(kept_) == 100 and kept_[0] == pytest.approx(0.005 * 999)
    np.testing.assert_allclose(energy.unusual(np.asarray([-1.0, 499.5, 249.75, 2000]), kept_), [0, 0.5, 0.25, 1])
    known, unknown = rng.normal(0, 4, (1000, 5)), rng.normal(0, 1, (1000, 5))
    share = energy.unusual(energy.energies(unknown, False), energy.percentiles(energy.energies(known, False)))
    assert share.mean() > 0.8


def test_risks_by_hand():
    """Two answers of the same confidence, one of them wrong, count half each whatever their order."""
    confidence, wrong = np.asarray([0.9, 0.5, 0.8, 0.8, 0.3]), np.asarray([0, 1, 1, 0, 1])
    wanted = [0, 0.25, 1 / 3, 0.5, 0.6]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0]):
        np.testing.assert_allclose(selective.risks(confidence[order], wrong[order]), wanted)
    assert selective.area(np.asarray(wanted)) == pytest.approx(np.mean(wanted))
    assert [selective.at(np.asarray(wanted), share) for share in (1, 0.8, 0.5, 0.01)] == [0.6, 0.5, 0.25, 0]


def test_figures_are_measured_before_and_after():
    rng = np.random.default_rng(0)
    logits, labels = classes(rng, 500, 3.0)
    found = calibration.figures(calibration.fit("single_label", logits, labels), logits, labels)
    assert found["ece"] < found["ece_before"] and found["log_loss"] < found["log_loss_before"]
    confidence = softmax(logits).max(1)
    place = np.minimum((confidence * 10 - 1e-12).astype(int), 9)
    right = logits.argmax(1) == labels
    gaps = [abs((confidence - right)[place == bin_].sum()) for bin_ in range(10)]
    assert found["ece_before"] == pytest.approx(sum(gaps) / 500)
    assert found["error_of_surest/1"] == pytest.approx(1 - right.mean())
    degrees = temperature.fit(logits, labels)
    order = np.argsort(-softmax(logits / degrees).max(1))
    assert found["aurc"] == pytest.approx(np.mean(np.cumsum(~right[order]) / np.arange(1, 501)))
    assert found["error_of_surest/0.5"] < found["error_of_surest/1"] and found["aurc"] < found["error_of_surest/1"]
    logits, labels = several(rng, 500, 3.0)
    found = calibration.figures(calibration.fit("multi_label", logits, labels), logits, labels)
    assert found["ece"] < found["ece_before"] and "aurc" not in found
    chance, held = sigmoid(logits).reshape(-1), labels.reshape(-1) > 0
    confidence, right = np.maximum(chance, 1 - chance), (chance > 0.5) == held
    place = np.minimum((confidence * 10 - 1e-12).astype(int), 9)
    gaps = [abs((confidence - right)[place == bin_].sum()) for bin_ in range(10)]
    assert found["ece_before"] == pytest.approx(sum(gaps) / 2000)


def answers(table: tables.Table, logits: np.ndarray) -> list[dict[str, Any]]:
    outputs, features = {"logits": logits}, Features(np.arange(len(logits) + 1), {}, {})
    return list(table.predictions(outputs, features, Split(pa.table({}), "rows")))


def test_answers_of_classes_have_the_temperature_a_set_and_what_is_unusual():
    logits = np.asarray([[2.0, 1.0, 0.0], [0.0, 9.0, 0.0]], np.float32)
    plain = tables.build(config.SequenceClassification(problem="single_label", labels=("a", "b", "c")))
    # Of 1 - softmax(logits) = 0.335, 0.755, 0.910 two are not above the limit.
    made = Calibration("single_label", 2.0, tuple(np.linspace(-4, -1, 100)), 0.9, "plain", 0.8)
    before, after = answers(plain, logits), answers(plain.calibrated(made), logits)
    e = np.exp([1.0, 0.5, 0.0])
    assert list(after[0]["probabilities"].values()) == pytest.approx(list(e / e.sum()))
    assert after[0]["probability"] == pytest.approx(e[0] / e.sum())
    assert [one["prediction"] for one in after] == [one["prediction"] for one in before] == ["a", "b"]
    assert [one["set"] for one in after] == [["a", "b"], ["b"]]
    assert after[0]["unusual"] == pytest.approx((4 - np.log(np.exp(logits[0]).sum())) / 3, abs=0.01)
    assert after[1]["unusual"] == 0
    without = answers(plain.calibrated(dataclasses.replace(made, coverage=0.0, sets="")), logits)
    assert [{**one, "set": two["set"]} for one, two in zip(without, after, strict=True)] == after
    assert "set" not in without[0] and "unusual" not in before[0]
    assert answers(plain.calibrated(made).calibrated(None), logits) == before


def test_answers_of_several_labels_keep_their_decisions():
    """Thresholds are of the model's own probabilities; what a service says of them is of those that answers have."""
    rng = np.random.default_rng(0)
    options = config.SequenceClassification(problem="multi_label", labels=("a", "b", "c"), thresholds=(0.3, 0.5, 1.0))
    logits, table = rng.normal(0, 2, (50, 3)).astype(np.float32), tables.build(options)
    assert isinstance(table, SequenceClassification)
    calibrated = table.calibrated(Calibration("multi_label", 3.0, (0.0,) * 100, 0.9, "plain", 0.6))
    before, after = answers(table, logits), answers(calibrated, logits)
    assert [one["prediction"] for one in before] == [one["prediction"] for one in after]
    assert table.thresholds() == {"a": 0.3, "b": 0.5, "c": 1.0}
    assert calibrated.thresholds() == pytest.approx({"a": sigmoid(np.log([3 / 7]) / 3)[0], "b": 0.5, "c": 1.0})
    over = calibrated.thresholds()
    for one, row in zip(after, logits, strict=True):
        assert one["prediction"] == [name for name, chance in one["probabilities"].items() if chance >= over[name]]
        likely = sorted((-x, name) for x, name in zip(row, "abc", strict=True) if 1 / (1 + np.exp(x)) <= 0.6)
        assert one["set"] == [name for _, name in likely]
    assert SequenceClassification(config.SequenceClassification(labels=("a", "b"))).thresholds() == {}


def test_answers_of_scores_have_an_interval():
    table = tables.build(config.SequenceClassification(problem="regression"))
    made = table.calibrated(Calibration("regression", coverage=0.9, limit=0.5))
    assert answers(made, np.asarray([[1.25]], np.float32)) == [{"score": 1.25, "interval": [0.75, 1.75]}]


@pytest.mark.parametrize(
    ("problem", "coverage", "sets", "said"),
    [
        ("single_label", 1.0, "", "--calibrate.coverage is 1; it must be below 1, e.g. 0.9"),
        (
            "single_label",
            0.9,
            "adaptiv",
            "--calibrate.sets 'adaptiv': there are no such sets; did you mean 'adaptive'?",
        ),
        ("single_label", 0.0, "plain", "--calibrate.sets says how sets are made, but none are asked for; add"),
        ("multi_label", 0.9, "adaptive", "--calibrate.sets=adaptive adds up probabilities of classes, of which one"),
        ("regression", 0.0, "", "scores have no probabilities to calibrate; ask for intervals by --calibrate.coverage"),
        ("regression", 0.9, "plain", "--calibrate.sets is for classes and labels; of scores there are intervals"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(problem, coverage, sets, said):
    with pytest.raises(UserError) as error:
        calibration.check(problem, coverage, sets)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def test_what_can_be_calibrated():
    for problem, coverage, sets in (("multi_label", 0.9, "plain"), ("regression", 0.5, ""), ("single_label", 0.0, "")):
        calibration.check(problem, coverage, sets)


def test_rows_that_cannot_be_fitted_on_are_one_line():
    logits, labels = classes(np.random.default_rng(0), 20)
    said = "--calibrate.coverage=0.99 takes 99 labelled rows or more, and there are 20; promise less, or give more rows"
    with pytest.raises(UserError, match=said):
        calibration.fit("single_label", logits, labels, 0.99)
    logits[3, 1] = np.nan
    with pytest.raises(UserError, match="the model gives some of these rows logits that are no numbers; nothing can"):
        calibration.fit("single_label", logits, labels)


def test_sets_are_plain_unless_one_says():
    made = calibration.fit("single_label", *classes(np.random.default_rng(0), 50), coverage=0.9)
    assert made.sets == "plain" and made.coverage == 0.9
    assert made.says() == {"temperature": made.temperature, "coverage": 0.9, "sets": "plain"}
    assert made.line() == f"temperature {made.temperature:.4g}, plain sets hold the truth of 90% of the rows"
    of_scores = Calibration("regression", coverage=0.8, limit=1.0)
    assert of_scores.says() == {"coverage": 0.8} and of_scores.line() == "intervals hold the truth of 80% of the rows"


@pytest.mark.parametrize("names", [("a.safetensors", "b.safetensors"), ("flax_model.msgpack",)])
def test_weights_may_be_several_files(tmp_path, names):
    for name in names[::-1]:
        (tmp_path / name).write_text(name)
    if len(names) > 1:
        (tmp_path / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {name: name for name in names}})
        )
    made = Calibration("single_label", 2.0)
    file = kept.write(tmp_path, "jax", made, {"fitted_on": "a", "measured": {}})
    weights = json.loads(file.read_text())["float32"]["weights"]
    assert weights == fingerprint.of_files([tmp_path / name for name in names])
    (tmp_path / names[-1]).write_text("others")
    assert kept.read(tmp_path, "jax")[0] is None


def test_a_calibration_is_kept_with_the_weights_that_it_is_of(tmp_path):
    for name in ("model.safetensors", "onnx/model_quantized.onnx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"weights of {name}")
    assert kept.read(tmp_path, "jax") == (None, [])
    made = calibration.fit("single_label", *classes(np.random.default_rng(0), 50), coverage=0.9)
    file = kept.write(tmp_path, "jax", made, {"fitted_on": "ü.csv (50 rows)", "measured": {}})
    for engine in ("jax", "onnx"):
        assert kept.read(tmp_path, engine) == (made, [f"answers are calibrated on ü.csv (50 rows): {made.line()}"])
    values = json.loads(file.read_bytes())
    assert file.read_bytes().decode() == json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    found, lines = kept.read(tmp_path, "int8")
    assert found is None and lines == [f"{file} is of float32; answers of int8 are as the model gives them"]
    other = dataclasses.replace(made, temperature=5.0)
    kept.write(tmp_path, "int8", other, {"fitted_on": "b", "measured": {}})
    assert kept.read(tmp_path, "int8")[0] == other and kept.read(tmp_path, "jax")[0] == made
    (tmp_path / "model.safetensors").write_text("weights that are trained on")
    found, lines = kept.read(tmp_path, "jax")
    assert found is None and lines[0].startswith(f"{file} is of other weights than are there now, and is not used")
    assert kept.read(tmp_path, "int8")[0] == other
    values = json.loads(file.read_text())
    values["int8"]["applied"]["kelvin"] = 1
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match="is damaged, or of another version; delete it, and calibrate anew"):
        kept.read(tmp_path, "int8")
