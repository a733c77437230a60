"""Short hashes that tell whether a checkpoint belongs to what a run has at hand; the same on every mesh and machine."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models import nn
from jaxft.types import Array, Params


def of_values(values: Any) -> str:
    """Of what JSON can hold."""
    return _hash(json.dumps(values, sort_keys=True).encode())


def of_columns(columns: Mapping[str, np.ndarray]) -> str:
    """Of the names, types and contents of host arrays."""
    parts = [f"{name} {array.dtype} {array.shape}".encode() for name, array in sorted(columns.items())]
    return _hash(*parts, *(np.ascontiguousarray(array) for _, array in sorted(columns.items())))


def of_files(files: Sequence[Path]) -> str:
    """Of the contents of files, in this order."""
    digests = []
    for file in files:
        with open(file, "rb") as opened:
            digests.append(hashlib.file_digest(opened, hashlib.blake2b).digest())
    return _hash(*digests)


def of_params(params: Params) -> str:
    """Of parameters, each reduced where it lives to a number that does not depend on the order of summing."""
    flat = nn.arrays(params)
    sums = jax.device_get(_checksums(flat))
    return of_values({path: [str(x.dtype), list(x.shape), int(sums[path])] for path, x in flat.items()})


@jax.jit
def _checksums(arrays: dict[str, Array]) -> dict[str, Array]:
    return {path: _checksum(x) for path, x in arrays.items()}


def _checksum(x: Array) -> Array:
    """The sum over all elements of bits x hash(position), modulo 2^32."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum((bits ^ (bits >> 16)) * (place * np.uint32(0x9E3779B1) | 1), dtype=jnp.uint32)


def _hash(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
