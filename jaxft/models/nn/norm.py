"""Normalization of hidden states."""

import jax
import jax.numpy as jnp

from jaxft.models.nn.dense import kept_narrow
from jaxft.models.nn.operator import operator
from jaxft.types import Array, Float, Params


@operator
def layer_norm(
    p: Params, x: Float[Array, "*batch embed"], eps: float | Float[Array, ""]
) -> Float[Array, "*batch embed"]:
    """Layer normalization over the last axis (Ba et al. 2016), computed in float32; its bias may be missing."""

    def wide(x: Array, scale: Array, bias: Array | None = None) -> Array:
        h = x.astype(jnp.float32)
        h = h - h.mean(-1, keepdims=True)
        h = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + eps)
        return (h * scale if bias is None else h * scale + bias).astype(x.dtype)

    return kept_narrow(wide, x, p["scale"], *([p["bias"]] if "bias" in p else []))


def rms_norm(p: Params, x: Float[Array, "*batch embed"], eps: float) -> Float[Array, "*batch embed"]:
    """Root mean square normalization over the last axis (Zhang and Sennrich 2019), computed in float32."""

    def wide(x: Array, scale: Array) -> Array:
        h = x.astype(jnp.float32)
        return (h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + eps) * scale).astype(x.dtype)

    return kept_narrow(wide, x, p["scale"])
