"""Metrics of predictions: numpy arrays in, a flat dict of numbers out.

A metric that its data leave undefined (a correlation with a constant, the ROC of a class without positives) is left
out of the result; it is never NaN and never warns.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


def single_label(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> dict[str, float]:
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
        results["ece"] = expected_calibration_error(*reliability(labels, probabilities))
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


def multi_label(
    labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float], names: Sequence[str]
) -> dict[str, float]:
    """Metrics where an example can have any number of labels; those at or above their thresholds are predicted.

    The averages are scikit-learn's: macro over all labels, 0/0 counts as 0; of the average precision over the labels
    that occur.

    Args:
      labels: [n, labels] of 0 and 1.
      probabilities: [n, labels].
      thresholds: of each label.
      names: of the labels.

    Returns:
      `subset_accuracy` (all labels of an example right), `{precision,recall,f1}_{macro,micro}`,
      `average_precision_{macro,micro}`, `{precision,recall,f1,support}/NAME`. Empty for n = 0.
    """
    from sklearn.metrics import average_precision_score

    labels, probabilities = np.asarray(labels) > 0, np.asarray(probabilities, np.float64)
    if labels.shape != probabilities.shape or labels.shape[1:] != (len(names),):
        raise ValueError(f"probabilities are {probabilities.shape}, labels {labels.shape} for {len(names)} names")
    if not len(labels):
        return {}
    predicted = probabilities >= np.asarray(thresholds)
    counts = ((labels & predicted).sum(0), predicted.sum(0), labels.sum(0))
    right, chosen, taken = (np.append(count, count.sum()) for count in counts)  # the last entry is of all labels
    ratio = lambda part, whole: np.where(whole, part / np.maximum(whole, 1), 0.0)  # noqa: E731
    each = {"precision": ratio(right, chosen), "recall": ratio(right, taken), "f1": ratio(2 * right, chosen + taken)}
    results = {"subset_accuracy": float((labels == predicted).all(1).mean())}
    for kind, values in each.items():
        results |= {f"{kind}_macro": float(values[:-1].mean()), f"{kind}_micro": float(values[-1])}
    there = taken[:-1] > 0
    if there.any() and np.isfinite(probabilities).all():
        found = [average_precision_score(labels[:, i], probabilities[:, i]) for i in np.flatnonzero(there)]
        results["average_precision_macro"] = float(np.mean(found))
        results["average_precision_micro"] = float(
            average_precision_score(labels.reshape(-1), probabilities.reshape(-1))
        )
    for kind, values in each.items():
        results |= {f"{kind}/{name}": float(value) for name, value in zip(names, values, strict=False)}
    return results | {f"support/{name}": int(count) for name, count in zip(names, taken, strict=False)}


def best_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, ...]:
    """Of each label the threshold of the highest F1, midway between two probabilities; 0.5 where it does not occur.

    Of several equally good ones the one nearest to 0.5.

    Args:
      labels: [n, labels] of 0 and 1.
      probabilities: [n, labels].
    """
    return tuple(_best_threshold(labels[:, i] > 0, probabilities[:, i]) for i in range(labels.shape[1]))


def _best_threshold(held: np.ndarray, probabilities: np.ndarray) -> float:
    if not held.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    f1 = 2 * np.cumsum(held[order]) / (np.arange(1, len(held) + 1) + held.sum())  # of the first 1, 2, ... predicted
    below = np.append(ranked[1:], 0.0)
    cuts = np.flatnonzero(ranked > below)
    middle = (ranked[cuts] + below[cuts]) / 2
    best = np.flatnonzero(f1[cuts] == f1[cuts].max(initial=0))
    return float(middle[best[np.abs(middle[best] - 0.5).argmin()]]) if len(best) else 0.5


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


def reliability(
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
    """Mean |accuracy - confidence| over the predictions, by bin (Guo et al. 2017, equation 3), from `reliability`."""
    filled = count > 0
    return float(np.sum(np.abs(accuracy - confidence)[filled] * count[filled]) / count.sum())
