"""Methods of explanation as functions of arrays: noise, Shapley values, LIME, gradients of every architecture."""

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from support import ARCHITECTURES, FILES, TASKS, compose, once, random_params

from jaxft import config, models
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.explain import agreement, explainer, faithfulness, gradients, lime, shapley, units
from jaxft.explain.options import Options
from jaxft.explain.targets import Aim
from jaxft.explain.units import Unit, phrase_ends
from jaxft.predict.engine import CompiledEngine


def test_noise_is_normal_and_in_parts_of_the_range_of_an_example():
    """Of the entries of the example's own embeddings; another draw is other noise, wherever it lies."""
    rng = np.random.default_rng(0)
    x, owner = rng.normal(size=(2, 12, 40)).astype(np.float32), np.asarray([[1] * 5 + [2] * 7, [1] * 9 + [0] * 3])
    found = np.asarray(gradients.spread(jnp.asarray(x), jnp.asarray(owner), 3))
    for row, number, place in ((0, 1, 2), (0, 2, 8), (1, 1, 0)):
        mine = x[row][owner[row] == number]
        assert found[row, place] == pytest.approx(mine.max() - mine.min(), rel=1e-5)
    assert not found[1, 9:].any()
    numbers = {"positions": jnp.asarray([[*range(5), *range(7)]]), "segment_ids": jnp.asarray(owner[:1])}
    shift = np.asarray(gradients.noise(numbers | {"draw": jnp.asarray([[4, 5]])}, 28, 400, 0))
    other = np.asarray(gradients.noise(numbers | {"draw": jnp.asarray([[5, 4]])}, 28, 400, 0))
    assert abs(shift.mean()) < 0.05 and abs(shift.std() - 1) < 0.05 and np.abs(shift).max() < 6
    np.testing.assert_array_equal(shift[0, :5], other[0, 5:10])
    assert abs(np.corrcoef(shift[0, :5].ravel(), shift[0, 5:10].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("kind", once(FILES, "electra"))
def test_integrated_gradients_add_up_for_every_architecture(kind):
    """Of packed rows, what tokens have adds up to the output less that of the baseline; each row by itself does."""
    case, model = TASKS["single_label"], models.build(ARCHITECTURES[kind])
    composed = compose(case.task, model)
    params = random_params(case.task, model, seed=0)
    rng = np.random.default_rng(0)
    readings = []
    for length in (5, 9, 3):
        ids = rng.integers(4, 40, length).astype(np.int32)
        unit_of = np.asarray([-1, *range(length - 2), -1])
        readings.append(units.Reading(ids, np.zeros(length, np.int32), unit_of, [], False))
    points = gradients.path(128)  # Gemma's output bends where its norm meets the baseline
    steps = len(points.weight)
    parts = [gradients.features(one, Aim("", n), points, 2) for n, one in enumerate(readings)]
    engine = CompiledEngine(config.Experiment(data=config.Data(max_length=24)), composed, composed.split(params))
    slopes = engine.function(gradients.make_slopes, 0.0, 0)
    found = engine.collect(slopes, Features.joined(parts), gradients.COLUMNS, gradients.KINDS)
    at, changes = 0, []
    for number, one in enumerate(readings):
        each = found["slope"][at : at + steps * len(one.ids)].reshape(steps, -1)
        tokens, output = points.weight @ each, found["output"][steps * number :]
        at += each.size
        assert tokens.sum() == pytest.approx(output[1] - output[0], abs=1e-4)
        changes.append(abs(output[1] - output[0]))
        assert not tokens[[0, -1]].any(), "special tokens stay"
    assert max(changes) > 0.01, "something to add up to"


def test_sampled_shap_comes_near_the_exact_one():
    """Of a game of ten whose values are known: within four standard errors, which shrink with the pairs of orders."""
    rng = np.random.default_rng(0)
    worth, pair = rng.normal(size=10), rng.normal(size=(10, 10))

    def value(kept: np.ndarray) -> np.ndarray:
        return (np.tanh(kept @ worth) + np.sin(np.einsum("ni,ij,nj->n", kept, pair, kept)))[:, None]

    exact = shapley.exact(value(shapley.coalitions(10))).values
    assert exact.sum() == pytest.approx(float(value(np.ones((1, 10)))[0, 0]))
    errors = []
    for pairs in (32, 512):
        orders = shapley.orders(10, pairs, rng)
        walks = shapley.walks(orders)
        assert walks.shape == (pairs * 2 * 11, 10) and not walks[0].any() and walks[10].all()
        found = shapley.sampled(orders, value(walks))
        assert found.errors is not None
        assert found.values.sum() == pytest.approx(exact.sum())
        assert (np.abs(found.values - exact) <= 4 * found.errors + 1e-9).all()
        twice = [np.concatenate([pair, pair]) for pair in orders.reshape(pairs, 2, 10)]
        each = [shapley.sampled(pair, value(shapley.walks(pair))).values for pair in twice]
        np.testing.assert_allclose(found.errors, np.std(each, axis=0, ddof=1) / np.sqrt(pairs), atol=1e-9)
        errors.append(found.errors.mean())
    assert 2 < errors[0] / errors[1] < 8, "about the root of 16"


def test_lime_is_the_ridge_of_scikit_learn():
    rng = np.random.default_rng(0)
    kept = lime.ablations(7, 60, rng)
    assert kept[0].all() and not kept[1:].all(1).any() and kept.shape == (60, 7)
    values = kept @ rng.normal(size=(7, 2)) + rng.normal(0, 0.3, (60, 2)) + 5
    found = lime.scores(kept, values)
    cosine = np.asarray([row.sum() / np.sqrt(max(row.sum(), 1) * 7) for row in kept])
    weights = np.sqrt(np.exp(-((100 * (1 - cosine)) ** 2) / 25**2))
    ridge = Ridge(alpha=1.0).fit(kept, values, sample_weight=weights)
    np.testing.assert_allclose(found.values, ridge.coef_.T, atol=1e-8)
    for target in range(2):
        one = Ridge(alpha=1.0).fit(kept, values[:, target], sample_weight=weights)
        assert found.facts["fidelity"][target] == pytest.approx(one.score(kept, values[:, target], weights))


def by_orders(tree: Any, value: Any) -> dict[int, float]:
    """The definition: mean gains over all orders that keep what the hierarchy puts together together."""

    def orders(tree: Any) -> list[list[int]]:
        if isinstance(tree, int):
            return [[tree]]
        first, other = map(orders, tree)
        return [a + b for x, y in itertools.product(first, other) for a, b in ((x, y), (y, x))]

    every, gains = orders(tree), dict.fromkeys(shapley.leaves(tree), 0.0)
    for order in every:
        for at, unit in enumerate(order):
            gains[unit] += (value(order[: at + 1]) - value(order[:at])) / len(every)
    return gains


def game(units: int) -> tuple[Any, np.ndarray]:
    """A number of each subset of units, as a function of the subset and by the bits of its units."""
    numbers = np.random.default_rng(units).normal(size=1 << units)
    return (lambda left: numbers[sum(1 << unit for unit in left)]), numbers


@pytest.mark.parametrize("ends", [[1], [0, 1], [0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 1], [0, 0, 0, 1]])
def test_partition_shap_is_the_mean_over_orders_within_the_hierarchy(ends):
    tree = shapley.hierarchy([end == 1 for end in ends])
    value, numbers = game(len(ends))
    kept = shapley.orders_within(tree)
    assert len(kept) == shapley.ways(tree)
    found = shapley.partitioned(numbers[kept @ (1 << np.arange(len(ends)))][:, None], len(ends)).values[:, 0]
    wanted = by_orders(tree, value)
    np.testing.assert_allclose(found, [wanted[unit] for unit in range(len(ends))], atol=1e-12)
    assert found.sum() == pytest.approx(numbers[-1] - numbers[0])


def test_partition_shap_is_that_of_the_shap_package():
    """Its exact recursion over the same hierarchy, that of `scipy.cluster.hierarchy`."""
    shap = pytest.importorskip("shap", reason="shap, a reference, is not installed")
    ends = [False, True, False, False, False, True]
    tree, (_, numbers) = shapley.hierarchy(ends), game(len(ends))
    merges: list[list[float]] = []

    def merged(tree: Any) -> tuple[int, int]:
        """The number of a part in scipy's table, and how many units it has."""
        if isinstance(tree, int):
            return tree, 1
        (one, few), (other, more) = map(merged, tree)
        merges.append([one, other, len(merges) + 1.0, few + more])
        return len(ends) + len(merges) - 1, few + more

    merged(tree)
    masker = shap.maskers.Partition(np.zeros((1, len(ends))), clustering=np.asarray(merges))
    explain = shap.explainers.Partition(lambda x: numbers[(x > 0) @ (1 << np.arange(len(ends)))], masker)
    theirs = explain(np.ones((1, len(ends))), max_evals=10_000).values[0]
    kept = shapley.orders_within(tree)
    values = numbers[kept @ (1 << np.arange(len(ends)))][:, None]
    np.testing.assert_allclose(shapley.partitioned(values, len(ends)).values[:, 0], theirs, atol=1e-9)


def test_a_hierarchy_is_cut_where_phrases_end():
    assert shapley.hierarchy([False] * 4) == ((0, 1), (2, 3))
    assert shapley.hierarchy([True, False, False, False, True]) == (0, ((1, 2), (3, 4)))
    assert shapley.hierarchy([False, True, False, True, False]) == ((0, 1), ((2, 3), 4))
    words = [Unit(text, "text", 0, 1) for text in ("a", "day,", "or", "two")] + [Unit("b", "other", 0, 1)]
    assert phrase_ends(words) == [False, True, False, True, True]
    assert shapley.leaves(shapley.hierarchy([False] * 9)) == list(range(9))


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    found: Any = stats.spearmanr(one, other)
    return float(found.statistic)


def test_ranks_are_correlated_as_scipy_has_it():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, 12).astype(float), rng.normal(size=12)
    assert agreement.correlation(one, other) == pytest.approx(spearman(one, other))
    assert agreement.correlation(other, -other) == pytest.approx(-1)
    for few in (np.zeros(12), one[:2]):
        assert agreement.correlation(few, other[: len(few)]) is None
    scores = np.stack([one, other], axis=1)
    found = agreement.measured(scores, {"a": scores, "b": -scores[:, ::-1]})
    assert [part["a"] for part in found] == pytest.approx([1, 1])
    assert found[0]["b"] == found[1]["b"] == pytest.approx(-spearman(one, other))


def test_which_orders_are_compared():
    options = Options(
        "lime", agreement="occlusion, shap", faithfulness=True, baseline="mask", samples=40, seed=3
    ).check()
    found = agreement.others(options)
    assert list(found) == ["occlusion", "shap", agreement.SEED]
    assert [(one.method, one.baseline, one.samples, one.seed) for one in found.values()] == [
        ("occlusion", "mask", 0, 3), ("shap", "mask", 16, 3), ("lime", "mask", 40, 4),
    ]  # fmt: skip
    assert not any(one.faithfulness or one.agreement for one in found.values())
    assert agreement.others(dataclasses.replace(options, faithfulness=False)).keys() == {"occlusion", "shap"}
    assert agreement.others(Options("occlusion", faithfulness=True).check()) == {}
    with pytest.raises(UserError, match=r"explain\.agreement 'lim': there is no such method; did you mean 'lime'"):
        Options(agreement="shap,lim").check()


def test_faithfulness_is_that_of_its_definition():
    """Of an output that is a sum of what the units are worth, so that each number can be worked out."""
    worth = np.asarray([0.5, -0.1, 0.25, 0.05, 0.0])
    scores = np.stack([worth, -worth], axis=1)
    orders = faithfulness.orders(scores, np.random.default_rng(0))
    for nothing in (True, False):
        kept = faithfulness.ablations(orders, nothing)
        assert len(kept) == 1 + len(orders) * 10 + 5 + nothing
        values = 0.1 + kept @ worth
        found = faithfulness.measured(np.stack([values, values], axis=1), orders, nothing)
        needed = [0.5, 0.5, 0.5, 0.5, 0.8]  # the strongest one of five, and of half of them three
        assert found[0]["comprehensiveness"]["curve"] == pytest.approx(needed)
        assert found[0]["sufficiency"]["curve"] == pytest.approx([0.7 - one for one in needed])
        share = np.mean(needed) / 0.7
        assert found[0]["comprehensiveness"]["normalized"] == (pytest.approx(share) if nothing else None)
        assert found[0]["sufficiency"]["normalized"] == (pytest.approx(1 - share) if nothing else None)
        alike = faithfulness.alike(scores, np.stack([values, values], axis=1), orders)
        assert [one[faithfulness.LEFT_OUT] for one in alike] == pytest.approx([1, -1])
        ranks = [spearman(-np.argsort(order), worth) for order in orders[2:]]
        assert alike[0][faithfulness.CHANCE] == pytest.approx(np.mean(ranks))
    falls = faithfulness.measured(-np.stack([values, values], axis=1), orders, nothing=True)
    assert falls[0]["sufficiency"]["normalized"] is None, "it gains by losing all of them"


def test_more_ways_than_partition_shap_takes_are_one_line():
    many = [Unit("a", "text", 0, 1)] * 200
    none = np.zeros(0, np.int32)
    rows, options = [units.Reading(none, none, none, many, False)], Options("partition_shap").check()
    said = r"r\.csv, row 1: its 200 words can be added in 102,400 ways; partition_shap takes 32,768 at most: take shap"
    with pytest.raises(UserError, match=said):
        explainer._check_sizes(rows, Split(pa.table({"text": ["a"]}), "r.csv"), options)
    explainer._check_sizes([rows[0]._replace(units=many[:100])], Split(pa.table({"text": ["a"]}), "r.csv"), options)
