"""Layers one after the other, unrolled or as a loop."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxft.models.nn.run import Run
from jaxft.types import Array, Key, Params


def repeat(
    layer: Callable[[Params, Array, Key[Array, ""] | None], Array],
    params: Sequence[Params],
    x: Array,
    run: Run,
    first: int = 1,
) -> Array:
    """Applies each layer in turn, `layer(parameters, x, key of its dropout masks)`, as `run.scan` and `run.remat` say.

    Args:
      first: which part of the model, for `Run.fold`, the first of these layers is.
    """
    layer = jax.jit(jax.checkpoint(layer) if run.remat else layer)  # traced once for all layers that are alike
    alike = len({jax.tree.structure(p) for p in params}) == 1  # an adaptation may have changed some layers alone
    if not run.scan or len(params) < 2 or not alike:
        for i, p in enumerate(params, first):
            x = layer(p, x, run.fold(i).key)
        return x
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    keys = None if run.key is None else jax.vmap(lambda i: run.fold(i).key)(first + jnp.arange(len(params)))
    return jax.lax.scan(lambda x, each: (layer(each[0], x, each[1]), None), x, (stacked, keys))[0]
