"""jaxft.metrics against scikit-learn and scipy called directly."""

import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sk

from jaxft.metrics import classification


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def random_classes(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, probabilities, [f"name {i}" for i in range(classes)]


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification_is_sklearn(classes):
    labels, probabilities, names = random_classes(400, classes, seed=classes)
    predicted = probabilities.argmax(1)
    found = classification.single_label(labels, probabilities, names)
    expected = {"accuracy": sk.accuracy_score(labels, predicted), "matthews": sk.matthews_corrcoef(labels, predicted)}
    functions = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    for kind, function in functions.items():
        expected |= {f"{kind}_{how}": function(labels, predicted, average=how) for how in ("macro", "micro")}
        for i, name in enumerate(names):
            expected[f"{kind}/{name}"] = function(labels == i, predicted == i)
    if classes == 2:
        expected |= {"roc_auc": sk.roc_auc_score(labels, probabilities[:, 1]), "f1": sk.f1_score(labels, predicted)}
    else:
        expected["roc_auc"] = sk.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    expected |= {f"support/{name}": np.sum(labels == i) for i, name in enumerate(names)}
    assert found.keys() == expected.keys() | {"ece"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_one_true_class_leaves_roc_auc_out():
    _, probabilities, names = random_classes(50, 2, seed=0)
    labels = np.ones(50, int)
    found = classification.single_label(labels, probabilities, names)
    assert "roc_auc" not in found
    assert found["recall/name 1"] == pytest.approx(np.mean(probabilities.argmax(1) == 1))
    assert found["recall/name 0"] == 0 and found["support/name 0"] == 0
    assert found["matthews"] == 0


def test_class_never_predicted_counts_as_zero():
    labels = np.array([0, 1, 2, 0])
    probabilities = np.eye(3)[[0, 1, 1, 0]]
    found = classification.single_label(labels, probabilities, ["a", "b", "c"])
    assert found["precision/c"] == found["f1/c"] == 0
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_macro_leaves_out_classes_that_do_not_occur():
    labels, predicted = np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1])
    found = classification.single_label(labels, np.eye(3)[predicted], ["a", "b", "c"])
    assert found["f1_macro"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert "roc_auc" not in found


@pytest.mark.parametrize("n", [0, 1])
def test_hardly_any_examples(n):
    found = classification.single_label(np.zeros(n, int), np.full((n, 2), 0.5), ["a", "b"])
    assert found.get("accuracy") == (1.0 if n else None)
    assert all(np.isfinite(value) for value in found.values())


def test_not_finite_probabilities_leave_out_what_needs_them():
    found = classification.single_label(np.array([0, 1, 1]), np.full((3, 2), np.nan), ["a", "b"])
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert not {"roc_auc", "ece"} & found.keys()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) for 3 labels and 3 names"):
        classification.single_label(np.zeros(3, int), np.ones((3, 2)), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"labels \(3, 3\) for 2 names"):
        classification.multi_label(np.zeros((3, 3)), np.ones((3, 3)), [0.5] * 3, ["a", "b"])
    with pytest.raises(ValueError, match=r"must be \[n\]"):
        classification.regression(np.zeros(3), np.zeros((3, 1)))


@pytest.mark.parametrize("count", [1, 4])
def test_multi_label_is_sklearn(count):
    rng = np.random.default_rng(count)
    labels = (rng.random((300, count)) < 0.3).astype(np.float32)
    labels[:, 3:] = 0  # one label never holds
    probabilities = np.clip(0.3 * labels + 0.7 * rng.random((300, count)), 0, 1)
    thresholds, names = rng.uniform(0.3, 0.7, count), [f"name {i}" for i in range(count)]
    predicted = probabilities >= thresholds
    found = classification.multi_label(labels, probabilities, thresholds.tolist(), names)
    expected = {"subset_accuracy": (predicted == labels).all(1).mean()}
    functions = {"precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score}
    for kind, function in functions.items():
        each = [function(labels[:, i], predicted[:, i], zero_division=0) for i in range(count)]  # pyright: ignore
        expected |= {f"{kind}/{name}": value for name, value in zip(names, each, strict=True)}
        expected[f"{kind}_macro"] = np.mean(each)
        expected[f"{kind}_micro"] = function(labels.reshape(-1), predicted.reshape(-1))
    if count > 1:
        assert expected["f1_macro"] == pytest.approx(
            sk.f1_score(labels[:, :3], predicted[:, :3], average="macro") * 3 / 4
        )
        assert expected["f1_micro"] == pytest.approx(sk.f1_score(labels, predicted, average="micro"))
        assert expected["subset_accuracy"] == sk.accuracy_score(labels, predicted)
    there = labels[:, :3], probabilities[:, :3]
    expected["average_precision_macro"] = sk.average_precision_score(*there, average="macro")
    expected["average_precision_micro"] = sk.average_precision_score(labels, probabilities, average="micro")
    expected |= {f"support/{name}": labels[:, i].sum() for i, name in enumerate(names)}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_best_thresholds_are_those_of_all_that_can_be_chosen():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 5)) < 0.4).astype(np.float32)
    labels[:, 4] = 0
    probabilities = np.round(0.2 * labels + 0.8 * rng.random((60, 5)), 1)  # with ties
    probabilities[:, 3] = 0.25  # all tied
    found = classification.best_thresholds(labels, probabilities)
    assert found[3:] == (0.125, 0.5)
    for i, threshold in enumerate(found[:3]):
        f1 = lambda cut, i=i: sk.f1_score(labels[:, i], probabilities[:, i] >= cut)  # noqa: E731
        assert f1(threshold) == max(f1(cut) for cut in np.arange(0.05, 1, 0.1))


def test_regression_is_scipy():
    rng = np.random.default_rng(0)
    labels = rng.integers(6, size=200).astype(np.float32)
    scores = labels + rng.normal(size=200).astype(np.float32)
    found = classification.regression(labels, scores)
    wide = labels.astype(np.float64), scores.astype(np.float64)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(*wide), abs=1e-9)
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(*wide)[0], abs=1e-9)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(*wide)[0], abs=1e-9)


@pytest.mark.parametrize(
    "scores", [np.full(4, 2.5), np.array([1.0, np.nan, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])[:1]]
)
def test_undefined_correlations_are_left_out(scores):
    assert classification.regression(np.arange(4.0)[: len(scores)], scores).keys() == {"mse"}


def test_confusion_is_sklearn():
    labels, probabilities, _ = random_classes(300, 5, seed=1)
    predicted = probabilities.argmax(1)
    found = classification.confusion(labels, predicted, 6)
    np.testing.assert_array_equal(found, sk.confusion_matrix(labels, predicted, labels=range(6)))


def test_calibration_by_hand():
    confidence = np.array([0.55, 0.6, 0.9, 0.95, 1.0])
    probabilities = np.stack([confidence, 1 - confidence], 1)
    labels = np.array([0, 1, 0, 0, 1])
    mean, accuracy, count = classification.reliability(labels, probabilities)
    np.testing.assert_array_equal(count, [0, 0, 0, 0, 0, 2, 0, 0, 1, 2])  # (0.8, 0.9] holds 0.9
    np.testing.assert_allclose(mean[[5, 8, 9]], [0.575, 0.9, 0.975])
    np.testing.assert_allclose(accuracy[[5, 8, 9]], [0.5, 1.0, 0.5])
    assert np.isnan(accuracy[0])
    expected = (2 * 0.075 + 1 * 0.1 + 2 * 0.475) / 5
    assert classification.expected_calibration_error(mean, accuracy, count) == pytest.approx(expected, abs=1e-12)
    assert classification.single_label(labels, probabilities, ["a", "b"])["ece"] == pytest.approx(expected, abs=1e-12)
