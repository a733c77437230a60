"""Parameters that do not learn, kept in fewer bits than they are computed in.

bfloat16; int8, a scale for each output (Dettmers et al. 2022, without a part for outliers: what is multiplied stays as
it is); nf4, sixteen values that normal numbers fall on equally often, a scale for each 64 inputs of an output (Dettmers
et al. 2023, section 3; the scales stay float32). Each value is the nearest that its form has.
"""

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxft.models.nn.leaf import Leaf, Spec, flatten, unflatten
from jaxft.types import Array, Float, Params

WIDE, HALF, INT8, NF4 = "float32", "bfloat16", "int8", "nf4"
"""Forms, as `config.Compute.frozen` names them."""

# Dettmers et al. 2023, appendix E.
VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
BLOCK = 64
"""Inputs that share a scale, at most."""


class Narrow(struct.PyTreeNode):
    """A matrix `[inputs, outputs]` as codes and scales.

    Attributes:
      codes: int8 `[inputs, outputs]`; or uint8 `[inputs / 2, outputs]`, two codes of nf4 in each: low that of the first
        half of a block, high of the second.
      scales: float32 `[blocks, outputs]`, a row for as many inputs as there are to a block.
    """

    codes: Any
    scales: Any


def formed(spec: Spec, learns: Any, form: str) -> Spec:
    """Returns the spec, in which what does not learn is kept in a form: matrices of dense layers, as near as they can.

    Tables of embeddings, of which a step reads few rows, are bfloat16 in all forms but float32; so are matrices for nf4
    whose inputs are no multiple of 16. All else is small, and stays float32.
    """

    def of(path: str, leaf: Leaf) -> str:
        if form == WIDE or learns(path) or len(leaf.shape) != 2:
            return WIDE
        if path.endswith("/kernel"):
            return form if form != NF4 or leaf.shape[0] % 16 == 0 else HALF
        return HALF if path.endswith("/embedding") else WIDE

    return unflatten({path: leaf._replace(form=of(path, leaf)) for path, leaf in flatten(spec).items()})


def narrowed(params: Params, spec: Spec) -> Params:
    """Returns parameters, each in the form that the spec says."""
    forms = {path: leaf.form for path, leaf in flatten(spec).items()}
    return unflatten({path: narrow(x, forms[path]) for path, x in flatten(params).items()})


def widened(params: Params) -> Params:
    """Returns parameters in float32, of whatever form they are."""
    return unflatten({path: wide(x, jnp.float32) for path, x in flatten(params).items()})


def narrow(x: Array, form: str) -> Any:
    """Returns a parameter in a form: as it is, in bfloat16, or as `Narrow`."""
    if form in (WIDE, HALF):
        return x.astype(form)
    return (_int8 if form == INT8 else _nf4)(x)


def wide(x: Any, dtype: Any) -> Array:
    """Returns the parameter that a form stands for."""
    if not isinstance(x, Narrow):
        return x.astype(dtype)
    blocks = x.codes.reshape(x.scales.shape[0], -1, x.codes.shape[-1])
    values = blocks.astype(jnp.float32) if x.codes.dtype == jnp.int8 else _values(blocks)
    return (values * x.scales[:, None]).astype(dtype).reshape(-1, x.codes.shape[-1])


def parts(leaf: Leaf) -> Any:
    """Returns what a parameter is kept as: an abstract array, or a `Narrow` of such."""
    if leaf.form in (WIDE, HALF):
        return jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(leaf.form))
    return jax.eval_shape(partial(narrow, form=leaf.form), jax.ShapeDtypeStruct(leaf.shape, jnp.float32))


def arrays(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every array of a tree of parameters by its path; codes and scales are below that of their matrix."""
    found = {}
    for path, x in flatten(dict(params)).items():
        found |= {f"{path}/codes": x.codes, f"{path}/scales": x.scales} if isinstance(x, Narrow) else {path: x}
    return found


def _int8(x: Float[Array, "inputs outputs"]) -> Narrow:
    scales = jnp.abs(x).max(0, keepdims=True) / 127
    return Narrow(jnp.round(x / jnp.where(scales > 0, scales, 1)).astype(jnp.int8), scales)


def _nf4(x: Float[Array, "inputs outputs"]) -> Narrow:
    blocks = x.reshape(-1, math.gcd(x.shape[0], BLOCK), x.shape[1])
    scales = jnp.abs(blocks).max(1)
    within = blocks / jnp.where(scales > 0, scales, 1)[:, None]
    bounds = [(low + high) / 2 for low, high in pairwise(VALUES)]
    codes = sum(((within > bound).astype(jnp.uint8) for bound in bounds), jnp.zeros(blocks.shape, jnp.uint8))
    first, second = jnp.split(codes, 2, axis=1)
    return Narrow((first | second << 4).reshape(-1, x.shape[1]), scales)


def _values(codes: Array) -> Array:
    """The values of codes of nf4, `[blocks, block / 2, outputs]` of two in each, as `[blocks, block, outputs]`.

    By comparison, which devices do at once with what is behind, not by a gather.
    """
    each = jnp.concatenate([codes & 15, codes >> 4], axis=1)
    found = jnp.full(each.shape, VALUES[0], jnp.float32)
    for code, value in enumerate(VALUES[1:], 1):
        found = jnp.where(each == code, value, found)
    return found
