"""Which ranks AdaLoRA cuts, worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft import config
from jaxft.adapt import adalora
from jaxft.models import nn
from jaxft.train import numbers

OF_VALUE = {"x": [1.0, 1.0, 4.0, 0.5], "y": [2.0, 0.5, 1.5, 2.0]}
OF_A = {"x": [7.0, 0.0, 2.0, 0.0], "y": [3.0, 1.0, 0.0, 0.0]}
OF_B = {"x": [0.0, 6.0, 0.0, 0.5], "y": [0.0, 0.5, 1.5, 2.0]}
"""Importance of four ranks of each of two layers by the parts of eq. 7: in all 8, 7, 6, 1 and 5, 2, 3, 4."""


def test_the_most_important_ranks_are_kept():
    """Of eight ranks four are left: 8, 7, 6 and 5, so three of one layer and one of the other.

    With the same gradients at each step, importance times variation (eqs. 8, 9, 11) of a number goes with the square of
    parameter times gradient; a rank has that of its value and the means of those of its vectors (eq. 7).
    """
    options = config.AdaLora(rank=4, target=2, start=0.0, end=0.5, every=1)
    flat = {}
    for layer in ("x", "y"):
        flat[f"adalora/{layer}/value"] = np.sqrt(OF_VALUE[layer])
        flat[f"adalora/{layer}/a"] = np.stack([np.sqrt(2 * np.asarray(OF_A[layer])), np.zeros(4)])
        # All in one number, but for the last rank, which is thereby the fourth by importance without its variation.
        spread = np.asarray([[3, 0, 0], [3, 0, 0], [3, 0, 0], [1, 1, 1]])
        flat[f"adalora/{layer}/b"] = np.sqrt(np.asarray(OF_B[layer])[:, None] * spread)
    params: Any = nn.unflatten({path: jnp.asarray(x, jnp.float32) for path, x in flat.items()})
    grads = nn.unflatten({path: jnp.ones(x.shape) for path, x in flat.items()})

    def still(updates: Any, state: Any, params: Any = None, *, numbers: numbers.Numbers, **_: Any) -> Any:
        return jax.tree.map(lambda x: 0 * numbers.learning_rate * x, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), still)  # pyright: ignore[reportArgumentType]
    transform = adalora._pruned(inner, options, ["x", "y"])
    values = jax.tree.map(jnp.asarray, numbers.of(config.Optimizer(), 4))
    state, kept = transform.init(params), []
    for _ in range(4):
        changes, state = transform.update(grads, state, params, numbers=values)  # pyright: ignore
        params_after: Any = optax.apply_updates(params, changes)
        after = nn.flatten(params_after)
        kept.append([np.flatnonzero(after[f"adalora/{layer}/value"]).tolist() for layer in ("x", "y")])
    every = [[0, 1, 2, 3], [0, 1, 2, 3]]
    # The budget falls by steps 0 and 2 of four: 8, 4 + 4 (1 - 1/2)^3 = 4.5, 4; and the choice at step 2 is the last.
    assert kept == [every, [[0, 1, 2], [0]], [[0, 1, 2], [0]], [[0, 1, 2], [0]]]


def test_importance_and_variation_are_averages():
    """Of |parameter x gradient|, and of how far it is from its average: eqs. 8 to 10, number by number."""
    options = config.AdaLora(rank=2, target=1, every=100, beta1=0.8, beta2=0.6)
    rng = np.random.default_rng(0)
    shapes = {"adalora/x/a": (3, 2), "adalora/x/value": (2,), "adalora/x/b": (2, 3)}

    def draw() -> dict[str, np.ndarray]:
        return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}

    params, gradients = draw(), [draw(), draw(), draw()]
    inner = optax.with_extra_args_support(optax.set_to_zero())
    transform = adalora._pruned(inner, options, ["x"])
    values = jax.tree.map(jnp.asarray, numbers.of(config.Optimizer(), 1000))
    state: Any = transform.init(nn.unflatten(params))
    for gradient in gradients:
        _, state = transform.update(nn.unflatten(gradient), state, nn.unflatten(params), numbers=values)  # pyright: ignore
    for path in shapes:
        importance = variation = np.zeros(shapes[path])
        for gradient in gradients:
            now = np.abs(params[path] * gradient[path])
            importance = 0.8 * importance + 0.2 * now
            variation = 0.6 * variation + 0.4 * np.abs(now - importance)
        np.testing.assert_allclose(state.importance[path], importance, rtol=1e-5)
        np.testing.assert_allclose(state.variation[path], variation, rtol=1e-5)
