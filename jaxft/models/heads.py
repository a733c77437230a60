"""Heads that several architectures share."""

from functools import reduce

import jax
import jax.numpy as jnp

from jaxft.models import nn
from jaxft.models.interface import Head
from jaxft.types import Array, Float, Params


def linear(path: str, width: int, outputs: int, stddev: float, drops: bool = True) -> Head:
    """Returns a dense layer at `path`, behind dropout unless told otherwise."""

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        p = reduce(lambda tree, name: tree[name], path.split("/"), params)
        return nn.dense(p, run.drop(x, "classifier") if drops else x).astype(jnp.float32)

    return Head(nn.unflatten({path: nn.dense_spec(width, outputs, ("embed", None), stddev)}), apply)


def pooled(body: str, width: int, stddev: float, top: Head) -> Head:
    """Returns tanh(dense(.)) by the body's own pooler, below another head (Devlin et al. 2019)."""
    spec = {f"{body}/pooler/dense": nn.dense_spec(width, width, ("embed", None), stddev)}

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        with jax.named_scope("pooler"):
            x = jnp.tanh(nn.dense(params[body]["pooler"]["dense"], x))
        return top.apply(params, x, run)

    return Head(nn.unflatten({**nn.flatten(top.spec), **nn.flatten(nn.unflatten(spec))}), apply)


def word_scores(
    x: Float[Array, "rows places width"], table: Float[Array, "words width"], bias: Float[Array, " words"]
) -> Float[Array, "rows places words"]:
    """Computes x E^T + b for a table E of word embeddings, the products summed in float32."""
    return jnp.einsum("rce,ve->rcv", x, table.astype(x.dtype), preferred_element_type=jnp.float32) + bias
