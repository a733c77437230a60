"""Which attention a run computes: the kernel of its platform, where there is one that serves, or plain operations."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxft import config, sharding
from jaxft.models import nn
from jaxft.sharding import Rules
from jaxft.types import Array


class Kernel(Protocol):
    """What a module of `KERNELS` has."""

    def supports(
        self, query: tuple[int, ...], length: int, dtype: Any, see: nn.See, drop: nn.PairDropout | None
    ) -> bool:
        """Tells whether `attention` computes queries of this shape and dtype, and rows of this length.

        Args:
          query: rows, queries, heads and their size, on one device.
        """
        ...

    @property
    def attention(self) -> Callable[..., Array]:
        """As `jaxft.models.nn.attention`, of one device.

        `among` are the number of its first head and of how many, which masks of dropout depend on.
        """
        ...


KERNELS = {"tpu": ("jaxft.kernels.tpu", "jaxft.kernels.tpu_long"), "gpu": ("jaxft.kernels.cudnn",)}
"""Platform -> modules, each a `Kernel`; the first that supports a shape serves."""

TOLERANCE = 0.03
"""Relative distance from plain attention that a kernel may have: TPUs multiply in bfloat16, a wrong mask makes 0.5."""

TRIED = 4096
"""Positions a row in a trial, at most: the scores of plain attention, which it is held against, still fit."""


def choose(compute: config.Compute, mesh: Mesh, rules: Rules) -> Callable[..., Array]:
    """The attention of the experiment on these devices, which turns to plain operations for shapes not supported."""
    found = [(kernel, sharding.spread(kernel.attention, mesh, rules)) for kernel in _kernels(compute, mesh)]

    def attend(query: Array, key: Array, value: Array, see: nn.See, drop: nn.PairDropout | None) -> Array:
        here = sharding.shard_shape(query.shape, sharding.QUERY, mesh, rules)
        serving = (spread for kernel, spread in found if kernel.supports(here, key.shape[1], query.dtype, see, drop))
        return next(serving, nn.attention)(query, key, value, see, drop)

    return attend if found else nn.attention


def serve(compute: config.Compute, mesh: Mesh) -> bool:
    """Tells whether these devices have a kernel that the experiment would use."""
    return bool(_kernels(compute, mesh))


def trial(compute: config.Compute, mesh: Mesh, heads: int, dim: int, length: int, causal: bool = False) -> str:
    """Why the kernel of these devices is not to be trusted with rows of this length; empty: it is.

    It is run once, on one device, and its output and gradients are held against those of plain attention.

    Args:
      causal: as in `nn.See`.
    """
    dtype, length = nn.DTYPES[compute.dtype], min(length, TRIED)
    found = (disagreement(kernel, dtype, heads, dim, length, causal) for kernel in _kernels(compute, mesh))
    return next(filter(None, found), "")


def disagreement(kernel: Kernel, dtype: Any, heads: int, dim: int, length: int, causal: bool = False) -> str:
    """How a kernel differs from `jaxft.models.nn.attention`, on two examples a row; empty: not beyond rounding.

    Of the heads as few are tried as it supports.
    """
    rng = np.random.default_rng(0)
    at = jnp.broadcast_to(jnp.arange(length), (2, length))
    segments, positions = 1 + at // (length // 2 + 1), at % (length // 2 + 1)
    see = nn.See(segments, segments, (positions, positions) if causal else None, causal=causal)
    dropped = nn.PairDropout(nn.Rate.of(0.1), jax.random.key(0), nn.hash_bits, at, positions, length)
    shapes = [(2, length, few, dim) for few in range(1, heads + 1) if heads % few == 0]
    cases = [(shape, drop) for drop in (dropped, None) for shape in shapes]
    case = next((case for case in cases if kernel.supports(case[0], length, dtype, see, case[1])), None)
    if case is None:
        return ""  # a run will not use it for such shapes either
    shape, drop = case
    query, key, value, weights = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4))

    def run(attend: Callable[..., Array]) -> Any:
        def total(query: Array, key: Array, value: Array) -> tuple[Array, Array]:
            out = attend(query, key, value, see, drop)
            return (out * weights).astype(jnp.float32).sum(), out

        return jax.device_get(jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(query, key, value))

    try:
        found, plain = jax.tree.leaves(run(kernel.attention)), jax.tree.leaves(run(nn.attention))
    except Exception as error:  # whatever a compiler, a driver or a missing library says
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    far = lambda a, b: np.linalg.norm(np.float32(a) - np.float32(b)) / np.linalg.norm(np.float32(b))  # noqa: E731
    distance = max(map(far, found, plain))
    return "" if distance < TOLERANCE else f"it differs from plain attention by {distance:.2g}"


def _kernels(compute: config.Compute, mesh: Mesh) -> list[Kernel]:
    names = KERNELS.get(mesh.devices.flat[0].platform, ()) if compute.attention == "auto" else ()
    return [cast(Kernel, importlib.import_module(name)) for name in names]
