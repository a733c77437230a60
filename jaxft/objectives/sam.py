"""Sharpness-aware minimization: the gradient where the loss is worst nearby (Foret et al. 2021, eqs. 2 and 3).

The gradient of L at w + rho * g / |g|, g the gradient at w, both of the whole batch and with the same dropout masks.
The loss that is reported is that at w. It costs a second pass forward and backward, and one copy of what learns.

It composes with every task, method and transform; each pass is then as many as theirs.
"""

import jax
import jax.numpy as jnp
import optax

from jaxft.train.gradient import Gradient, GradientTransform
from jaxft.types import Array, Batch, Float, Params


def sam(rho: Float[Array, ""]) -> GradientTransform:
    """Returns the transform, for the gradient of a whole batch: of a part of one, g would be another."""

    def transform(inner: Gradient) -> Gradient:
        def gradient(trainable: Params, frozen: Params, batch: Batch, key: Array) -> tuple[Array, Array, Params]:
            total, weight, grads = inner(trainable, frozen, batch, key)
            step = rho / jnp.maximum(optax.tree.norm(grads), 1e-30)
            worst = jax.tree.map(lambda w, g: w + step * g, trainable, grads)
            return total, weight, inner(worst, frozen, batch, key)[2]

        return gradient

    return transform
