"""How the gradient of an objective is computed: a gradient, and what changes one.

A gradient transform is `Gradient -> Gradient`. Accumulation, adversarial training, SAM and DP-SGD are such transforms.
Each says its formula and what it does not compose with.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxft.train.objective import Objective
from jaxft.types import Array, Batch, Key, Params

Gradient = Callable[[Params, Params, Batch, Key[Array, ""]], tuple[Array, Array, Params]]
"""`(trainable, frozen, batch, key) -> total, weight, grads`: the sums of an `Objective`, and the gradient of `total` by
what learns, a tree like `trainable`. All three are sums over a batch, so those of its parts add up to those of it."""

GradientTransform = Callable[[Gradient], Gradient]


def gradient_of(objective: Objective, join: Callable[[Params, Params], Params]) -> Gradient:
    """Returns the gradient of an objective by reverse-mode differentiation; `join` puts all parameters together."""

    def gradient(trainable: Params, frozen: Params, batch: Batch, key: Array) -> tuple[Array, Array, Params]:
        def total(trainable: Params) -> tuple[Array, Array]:
            return objective(join(trainable, frozen), batch, key)[0]

        (value, weight), grads = jax.value_and_grad(total, has_aux=True)(trainable)
        return value, weight, grads

    return gradient


def accumulate(parts: int) -> GradientTransform:
    """Returns the transform that computes a batch in parts, one after the other, to save memory: sum over parts.

    Part i takes every parts-th row, so that each part is spread over all devices. The parts share a key: dropout masks
    are a function of the example, which only one part holds.

    It is exact where the losses of examples do not depend on each other. It does not compose with objectives that
    compare the examples of a batch (contrastive losses): these compare those of a part then.
    """

    def transform(inner: Gradient) -> Gradient:
        if parts == 1:
            return inner

        def gradient(trainable: Params, frozen: Params, batch: Batch, key: Array) -> tuple[Array, Array, Params]:
            split = {k: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}
            zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, trainable))
            add = lambda sums, part: (jax.tree.map(jnp.add, sums, inner(trainable, frozen, part, key)), None)  # noqa: E731
            return jax.lax.scan(add, zeros, split)[0]

        return gradient

    return transform
