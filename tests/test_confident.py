"""Which labels are doubtful, as confident learning defines it; and folds, which part rows fairly."""

import numpy as np
import pytest

from jaxft.data import folds
from jaxft.errors import UserError
from jaxft.metrics import confident

LABELS = np.asarray([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.asarray(
    [
        [0.8, 0.1, 0.1],
        [0.6, 0.3, 0.1],
        [0.1, 0.8, 0.1],  # labelled 0, is 1
        [0.2, 0.7, 0.1],
        [0.5, 0.4, 0.1],  # no threshold of 1 is reached, but that of 0: 0.5 = (0.8 + 0.6 + 0.1) / 3
        [0.3, 0.3, 0.4],
    ]
)


def test_by_hand():
    np.testing.assert_allclose(confident.thresholds(LABELS, PROBABILITIES), [0.5, 0.55, 0.4])
    found = confident.classes(LABELS, PROBABILITIES)
    np.testing.assert_array_equal(found, [0, 0, 1, 1, 0, 2])
    np.testing.assert_array_equal(confident.joint(LABELS, found, 3), [[2, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(confident.self_confidence(LABELS, PROBABILITIES), [0.8, 0.6, 0.1, 0.7, 0.4, 0.4])
    margins = [0.7, 0.3, -0.7, 0.5, -0.1, 0.1]
    np.testing.assert_allclose(confident.normalized_margin(LABELS, PROBABILITIES), (np.asarray(margins) + 1) / 2)


def test_a_row_that_reaches_no_threshold_is_of_no_class():
    labels, probabilities = np.asarray([0, 0, 1]), np.asarray([[0.9, 0.1], [0.6, 0.4], [0.0, 1.0]])
    found = confident.classes(labels, probabilities)  # thresholds 0.75 and 1
    np.testing.assert_array_equal(found, [0, -1, 1])
    np.testing.assert_array_equal(confident.joint(labels, found, 2), [[1, 0], [0, 1]])


def test_nothing_is_of_a_class_without_rows():
    found = confident.thresholds(np.asarray([0, 0]), np.asarray([[0.2, 0.8], [0.4, 0.6]]))
    np.testing.assert_allclose(found, [0.3, np.inf])
    assert confident.classes(np.asarray([0, 0]), np.asarray([[0.2, 0.8], [0.4, 0.6]])).tolist() == [-1, 0]


def test_classes_of_which_nothing_is_sure_have_their_place():
    np.testing.assert_array_equal(confident.joint(np.asarray([0, 1]), np.asarray([0, -1]), 3), np.diag([1, 0, 0]))


@pytest.mark.parametrize("right", [0.8, 0.1])
def test_as_a_loop_over_rows_finds_it(right):
    """Where most labels are right few thresholds are reached, where few are several at a time."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 200)
    labels = np.where(rng.random(200) < right, probabilities.argmax(-1), rng.integers(0, 4, 200))
    limits = [probabilities[labels == one, one].mean() for one in range(4)]
    wanted = np.zeros((4, 4), int)
    for label, row in zip(labels, probabilities, strict=True):
        if reached := [one for one in range(4) if row[one] >= limits[one]]:
            wanted[label, max(reached, key=lambda one: row[one])] += 1
    found = confident.joint(labels, confident.classes(labels, probabilities), 4)
    np.testing.assert_array_equal(found, wanted)
    assert found.sum() == wanted.sum() > 100


@pytest.mark.parametrize(("rows", "count"), [(47, 5), (10, 10), (200, 3)])
def test_folds_have_as_much_of_each_class(rows, count):
    classes = np.random.default_rng(rows).integers(0, 3, rows)
    found = folds.assigned(np.arange(rows), classes, count, seed=0)
    assert found.min() == 0 and found.max() == count - 1
    counts = np.asarray([np.bincount(found[classes == one], minlength=count) for one in range(3)])
    assert (counts.max(1) - counts.min(1) <= 1).all()
    sizes = counts.sum(0)
    assert sizes.max() - sizes.min() <= 2
    np.testing.assert_array_equal(folds.assigned(np.arange(rows), classes, count, seed=0), found)
    if rows > count:
        assert (folds.assigned(np.arange(rows), classes, count, seed=1) != found).any()


def test_rows_of_a_group_stay_together():
    rng = np.random.default_rng(3)
    groups, classes = rng.integers(0, 40, 160), rng.integers(0, 2, 160)
    found = folds.assigned(groups, classes, 4, seed=7)
    assert all(len(set(found[groups == one])) == 1 for one in groups)
    sizes = np.bincount(found, minlength=4)
    assert sizes.max() - sizes.min() <= 8
    large = np.asarray([0] * 30 + list(range(1, 31)))  # half of all rows are one text
    assert np.bincount(folds.assigned(large, np.zeros(60, int), 3, seed=0)).tolist() == [30, 15, 15]


def test_folds_without_rows_are_refused():
    groups = np.asarray([0, 0, 1, 1, 2])
    with pytest.raises(UserError, match=r"--crossfit\.folds is 4, but there are only 3 different rows; give fewer"):
        folds.assigned(groups, np.zeros(5, int), 4, seed=0)
    assert sorted(set(folds.assigned(groups, np.zeros(5, int), 3, seed=0).tolist())) == [0, 1, 2]
