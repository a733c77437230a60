"""How a parameter is declared: its shape, its logical axes, its initial value; and trees of parameters by path."""

import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxft.types import Array, Float, Key

Spec = dict[str, Any]
"""A tree of `Leaf`, of the shape of the parameters that it declares."""


class Leaf(NamedTuple):
    """One parameter: its shape, a logical axis a dimension (None: never sharded), and its initializer.

    Attributes:
      form: how it is kept while it does not learn; see `jaxft.models.nn.forms`.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str = "normal"
    stddev: float = 0.02
    form: str = "float32"

    def initial(self, key: Key[Array, ""]) -> Float[Array, "..."]:
        """A new float32 value: N(0, stddev^2), zeros or ones."""
        if self.init == "normal":
            return self.stddev * jax.random.normal(key, self.shape)
        return {"zeros": jnp.zeros, "ones": jnp.ones}[self.init](self.shape)


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """`{"bert/pooler/dense/kernel": leaf}` of a nested dict."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    return traverse_util.unflatten_dict(flat, sep="/")


def merged(*trees: dict[str, Any]) -> dict[str, Any]:
    """Returns one tree of all that several have."""
    return unflatten({path: leaf for tree in trees for path, leaf in flatten(tree).items()})


def path_key(key: Key[Array, ""], path: str) -> Key[Array, ""]:
    """The key of one parameter: the same whatever other parameters there are."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def dense_spec(
    inputs: int, outputs: int, axes: tuple[str | None, str | None], stddev: float, bias: bool = True
) -> Spec:
    """Declares a dense layer: a kernel `[inputs, outputs]` with these axes, and a bias `[outputs]` unless without."""
    kernel = {"kernel": Leaf((inputs, outputs), axes, stddev=stddev)}
    return kernel | ({"bias": Leaf((outputs,), axes[1:], "zeros")} if bias else {})


def layer_norm_spec(size: int, bias: bool = True) -> Spec:
    """Declares a layer normalization: a scale and, unless without, a bias, `[size]` each."""
    scale = {"scale": Leaf((size,), ("embed",), "ones")}
    return scale | ({"bias": Leaf((size,), ("embed",), "zeros")} if bias else {})
