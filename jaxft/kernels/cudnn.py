"""Attention by cuDNN's flash attention, for NVIDIA GPUs: scores and probabilities never reach the device's memory."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxft.models import nn
from jaxft.types import Array, Float

WIDEST = 128
"""Size of a head, at most, on all GPUs that cuDNN's flash attention runs on."""


def supports(query: tuple[int, ...], length: int, dtype: Any, see: nn.See, drop: nn.PairDropout | None) -> bool:
    """Whether `attention` computes queries of this shape and dtype, and rows of this length.

    Without dropout alone: cuDNN's masks depend on where in the batch a token lies, which ours must not.
    """
    _, queries, _, dim = query
    even = queries % 2 == 0 and length % 2 == 0  # what its backward pass asks for
    return (
        drop is None
        and see.bias is None
        and even
        and dtype in (jnp.bfloat16, jnp.float16)
        and dim % 8 == 0
        and dim <= WIDEST
    )


def attention(
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    see: nn.See,
    drop: None,
    *,
    implementation: str = "cudnn",
    among: Any = None,
) -> Float[Array, "rows queries heads dim"]:
    """As `jaxft.models.nn.attention`, of what `supports` admits; which heads these are (`among`) does not matter.

    Args:
      implementation: "xla" computes the same on any device, to test the masks.
    """
    return jax.nn.dot_product_attention(query, key, value, mask=see.mask(), implementation=implementation)  # pyright: ignore
