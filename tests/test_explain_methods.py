"""Methods of explanation as functions of arrays: noise, Shapley values, LIME, gradients of every architecture."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from support import ARCHITECTURES, FILES, TASKS, compose, once, random_params

from jaxft import config, models
from jaxft.data.features import Features
from jaxft.explain import gradients, lime, shapley, units
from jaxft.explain.targets import Aim
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
