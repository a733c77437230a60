"""Which examples make up which batch."""

import itertools

import numpy as np
import pytest

from jaxft.data.order import GROUP, Order, sampled


def epochs(order: Order, count: int) -> list[list[int]]:
    """The examples of each epoch in their order."""
    each = order.batches_per_epoch
    return [np.concatenate([order[epoch * each + i] for i in range(each)]).tolist() for epoch in range(count)]


@pytest.mark.parametrize("grouped", [False, True])
def test_each_epoch_has_every_example_once_in_an_order_of_its_own(grouped):
    order = Order(np.arange(1, 24), 4, 7, grouped)
    found = epochs(order, 4)
    assert all(sorted(one) == list(range(23)) for one in found)
    assert len({*map(tuple, found)}) == 4
    assert [len(order[i]) for i in range(12)] == [4, 4, 4, 4, 4, 3] * 2
    assert (
        epochs(Order(np.arange(1, 24), 4, 7, grouped), 4) == found != epochs(Order(np.arange(1, 24), 4, 8, grouped), 4)
    )


def test_an_order_is_that_of_raw_philox_bits():
    """Keyed by the seed and twice the epoch: the same on every machine and under every numpy."""
    order = Order(np.ones(9, np.int64), 9, 3)
    for epoch in range(3):
        bits = np.random.Philox(key=np.array([3, 2 * epoch], np.uint64)).random_raw(9)
        assert order[epoch].tolist() == np.argsort(bits).tolist()


def test_batches_of_one_length_are_shuffled():
    """Examples of 50 batches are sorted together, the longest first; the batches come in a random order."""
    lengths = np.random.default_rng(0).permutation(GROUP * 4 * 2)
    order = Order(lengths, 4, 0, True)
    found = [lengths[order[i]] for i in range(order.batches_per_epoch)]
    assert all((np.diff(one) < 0).all() for one in found)
    spread = np.mean([np.ptp(one) for one in found])
    assert spread < 16  # by chance 240
    firsts = [int(one[0]) for one in found]
    assert firsts != sorted(firsts, reverse=True) and firsts != sorted(firsts)
    plain = Order(lengths, 4, 0)
    first = {*np.concatenate([plain[i] for i in range(GROUP)]).tolist()}
    sorted_together = [{*order[i].tolist()} <= first or not {*order[i].tolist()} & first for i in range(2 * GROUP)]
    assert all(sorted_together)


@pytest.mark.parametrize("weights", [[1.0] * 9, [0, 1, 2, 3, 4.5], np.random.default_rng(0).random(60)])
def test_each_is_drawn_as_often_as_its_weight_says(weights):
    weights = np.asarray(weights)
    wanted = len(weights) * weights / weights.sum()
    found = [sampled(weights, 3, epoch) for epoch in range(40)]
    counts = np.asarray([np.bincount(one, minlength=len(weights)) for one in found])
    assert (counts >= np.floor(wanted)).all() and (counts <= np.ceil(wanted)).all()
    assert len({tuple(one) for one in found}) > 20
    np.testing.assert_allclose(counts.mean(0), wanted, atol=0.35)
    np.testing.assert_array_equal(sampled(weights, 3, 0), found[0])
    assert (sampled(weights, 4, 0) != found[0]).any()


def test_rare_classes_are_drawn_as_often_as_others():
    """And what is drawn several times does not lie side by side."""
    labels = np.repeat([0, 1, 2], [90, 9, 3])
    order = Order(np.ones(102, np.int64), 8, 0, weights=1 / np.bincount(labels)[labels])
    found = epochs(order, 3)
    for one in found:
        assert len(one) == 102 and np.abs(np.bincount(labels[one]) - 34).max() <= 1
        assert 0 < sum(a == b for a, b in itertools.pairwise(one)) < 10
    assert len({*map(tuple, found)}) == 3
    by_length = Order(np.arange(102), 8, 0, True, 1 / np.bincount(labels)[labels])
    for one in epochs(by_length, 2):
        assert np.abs(np.bincount(labels[one]) - 34).max() <= 1


def test_what_is_drawn_is_that_of_raw_philox_bits():
    """The things of one weight side by side in random order, and points at equal distances among their weights."""
    weights, count = np.asarray([1.0, 3, 1, 0.5, 3, 1, 2]), 7
    for epoch in range(3):
        stream = 2**33 + 3 * epoch
        bits = [np.random.Philox(key=np.array([5, stream + part], np.uint64)).random_raw(count) for part in range(3)]
        side_by_side = sorted(np.argsort(bits[0]), key=lambda at: weights[at])
        points = [weights.sum() * (at + int(bits[1][0]) / 2**64) / count for at in range(count)]
        ends = list(itertools.accumulate(weights[at] for at in side_by_side))
        drawn = [side_by_side[next(at for at in range(count) if ends[at] >= point)] for point in points]
        assert sampled(weights, 5, epoch).tolist() == [drawn[at] for at in np.argsort(bits[2])]
