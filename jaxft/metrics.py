"""Metrics of predictions: numpy arrays in, a flat dict of numbers out.

A metric that its data leave undefined (a correlation with a constant, the ROC of a class without positives) is left
out of the result; it is never NaN and never warns.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


def classification(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Metrics of a single-label classifier; the most probable class is the prediction.

    The macro averages run over the classes that occur among the labels or the predictions, as scikit-learn's do, and
    a precision or recall of 0/0 counts as 0.

    Args:
      labels: true class ids, integers of shape [n], from 0 to classes - 1.
      probabilities: [n, classes], each row summing to one.
      names: names of the classes, in the order of their ids.

    Returns:
      `accuracy`, `{precision,recall,f1}_{macro,micro}`, `matthews` (the correlation coefficient), `ece` (see
      `expected_calibration_error`), `{precision,recall,f1,support}/NAME`, for two classes `f1` of class 1, and
      `roc_auc`: of class 1 for two classes, else the mean over the classes of one against the rest. Empty for n = 0.
    """
    from sklearn.metrics import matthews_corrcoef, precision_recall_fscore_support

    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if probabilities.shape != (len(labels), len(names)):
        raise ValueError(f"probabilities are {probabilities.shape} for {len(labels)} labels and {len(names)} names")
    if not len(labels):
        return {}
    predicted, classes = probabilities.argmax(-1), np.arange(len(names))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class only: the values below are still the defined ones
        each = precision_recall_fscore_support(
            labels,
            predicted,
            labels=classes,
            average=None,
            zero_division=0,  # pyright: ignore[reportArgumentType]
        )
        matthews = float(matthews_corrcoef(labels, predicted))
    occurring = np.isin(classes, labels) | np.isin(classes, predicted)
    accuracy = float(np.mean(labels == predicted))
    results: dict[str, float] = {"accuracy": accuracy}
    for kind, values in zip(("precision", "recall", "f1"), each, strict=False):
        results[f"{kind}_macro"] = float(np.mean(np.asarray(values)[occurring]))
        results[f"{kind}_micro"] = accuracy  # the same number where every example has exactly one label
    if len(names) == 2:
        results["f1"] = float(np.asarray(each[2])[1])
    results["matthews"] = matthews
    if (auc := _roc_auc(labels, probabilities)) is not None:
        results["roc_auc"] = auc
    if np.isfinite(probabilities).all():
        results["ece"] = expected_calibration_error(*calibration(labels, probabilities))
    for kind, values in zip(("precision", "recall", "f1", "support"), each, strict=True):
        convert = int if kind == "support" else float
        results |= {f"{kind}/{name}": convert(v) for name, v in zip(names, np.asarray(values), strict=True)}
    return results


def _roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Area under the ROC curve; None where a class has no positives or no negatives."""
    from sklearn.metrics import roc_auc_score

    classes = probabilities.shape[1]
    count = np.bincount(labels, minlength=classes)
    if (count == 0).any() or (count == len(labels)).any() or not np.isfinite(probabilities).all():
        return None
    if classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    # As indicators: sklearn's multi_class="ovr" gives the same but refuses rows that bfloat16 made not quite sum to 1.
    return float(roc_auc_score(np.eye(classes)[labels], probabilities, average="macro"))


def regression(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Mean squared error, Pearson's and Spearman's correlation of `[n]` labels and `[n]` scores. Empty for n = 0."""
    from scipy.stats import pearsonr, spearmanr

    labels, scores = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"scores are {scores.shape} and labels {labels.shape}; both must be [n]")
    if not len(labels):
        return {}
    results = {"mse": float(np.mean((labels - scores) ** 2))}
    if np.ptp(labels) > 0 and np.ptp(scores) > 0 and np.isfinite(scores).all():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of input that is constant but for rounding
            found: dict[str, Any] = {"pearson": pearsonr(labels, scores), "spearman": spearmanr(labels, scores)}
        values = {name: float(result.statistic) for name, result in found.items()}
        results |= {name: value for name, value in values.items() if np.isfinite(value)}
    return results


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often class i was taken for class j: integers of shape [classes, classes], true i in rows, predicted j."""
    flat = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def calibration(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence and accuracy in `bins` equal intervals `(a, b]` of confidence (Guo et al. 2017, section 2).

    The confidence of a prediction is the probability of the predicted class.

    Args:
      labels: [n] integers.
      probabilities: [n, classes].
      bins: number of intervals between 0 and 1.

    Returns:
      `(confidence, accuracy, count)`, each [bins]: the means within the interval (NaN where it is empty) and the
      number of predictions in it.
    """
    probabilities = np.asarray(probabilities, np.float64)
    confidence = probabilities.max(-1)
    correct = probabilities.argmax(-1) == np.asarray(labels)
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    count = np.bincount(place, minlength=bins)
    nonzero = np.where(count, count, np.nan)
    sums = (np.bincount(place, weights=weights, minlength=bins) for weights in (confidence, correct))
    mean_confidence, accuracy = (total / nonzero for total in sums)
    return mean_confidence, accuracy, count


def expected_calibration_error(confidence: np.ndarray, accuracy: np.ndarray, count: np.ndarray) -> float:
    """Mean |accuracy - confidence| over the predictions, by bin (Guo et al. 2017, equation 3), from `calibration`."""
    filled = count > 0
    return float(np.sum(np.abs(accuracy - confidence)[filled] * count[filled]) / count.sum())
