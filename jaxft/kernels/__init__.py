"""Which attention a run computes: the kernel of its platform, where there is one that serves, or plain operations."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxft import config, sharding
from jaxft.models import nn
from jaxft.sharding import Rules
from jaxft.types import Array

KERNELS = {"tpu": "jaxft.kernels.tpu", "gpu": "jaxft.kernels.cudnn"}
"""Platform -> a module with `attention`, as `jaxft.models.nn` has it, and `supports`."""

TOLERANCE = 0.03
"""Relative distance from plain attention that a kernel may have: TPUs multiply in bfloat16, a wrong mask makes 0.5."""


def choose(compute: config.Compute, mesh: Mesh, rules: Rules) -> Callable[..., Array]:
    """The attention of the experiment on these devices, which turns to plain operations for shapes not supported."""
    kernel = _kernel(compute, mesh)
    if kernel is None:
        return nn.attention
    spread = sharding.spread(kernel.attention, mesh, rules)

    def attend(query: Array, key: Array, value: Array, see: nn.See, drop: nn.PairDropout | None) -> Array:
        here = sharding.shard_shape(query.shape, sharding.QUERY, mesh, rules)
        serves = kernel.supports(here, key.shape[1], query.dtype, see, drop)
        return (spread if serves else nn.attention)(query, key, value, see, drop)

    return attend


def serve(compute: config.Compute, mesh: Mesh) -> bool:
    """Tells whether these devices have a kernel that the experiment would use."""
    return _kernel(compute, mesh) is not None


def trial(compute: config.Compute, mesh: Mesh, heads: int, dim: int, length: int, causal: bool = False) -> str:
    """Why the kernel of these devices is not to be trusted with rows of this length; empty: it is.

    It is run once, on one device, and its output and gradients are held against those of plain attention.

    Args:
      causal: as in `nn.See`.
    """
    kernel = _kernel(compute, mesh)
    if kernel is None:
        return ""
    return disagreement(kernel.attention, kernel.supports, nn.DTYPES[compute.dtype], heads, dim, length, causal)


def disagreement(
    attend: Callable[..., Array],
    supports: Callable[..., bool],
    dtype: Any,
    heads: int,
    dim: int,
    length: int,
    causal: bool = False,
) -> str:
    """How an attention differs from `jaxft.models.nn.attention`, on two examples a row; empty: not beyond rounding."""
    rng = np.random.default_rng(0)
    shape = (2, length, heads, dim)
    query, key, value, weights = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4))
    at = jnp.broadcast_to(jnp.arange(length), shape[:2])
    segments, positions = 1 + at // (length // 2 + 1), at % (length // 2 + 1)
    see = nn.See(segments, segments, (positions, positions) if causal else None, causal=causal)
    drop = nn.PairDropout(nn.Rate.of(0.1), jax.random.key(0), nn.hash_bits, at, positions, length)
    drop = drop if supports(shape, length, dtype, see, drop) else None
    if not supports(shape, length, dtype, see, drop):
        return ""  # a run will not use it for such shapes either

    def run(attend: Callable[..., Array]) -> Any:
        def total(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
            out = attend(query, key, value, see, drop)
            return (out * weights).astype(jnp.float32).sum(), out

        return jax.device_get(jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value))

    try:
        found, plain = jax.tree.leaves(run(attend)), jax.tree.leaves(run(nn.attention))
    except Exception as error:  # whatever a compiler, a driver or a missing library says
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    far = lambda a, b: np.linalg.norm(np.float32(a) - np.float32(b)) / np.linalg.norm(np.float32(b))  # noqa: E731
    distance = max(map(far, found, plain))
    return "" if distance < TOLERANCE else f"it differs from plain attention by {distance:.2g}"


def _kernel(compute: config.Compute, mesh: Mesh) -> ModuleType | None:
    name = KERNELS.get(mesh.devices.flat[0].platform)
    return importlib.import_module(name) if name and compute.attention == "auto" else None
