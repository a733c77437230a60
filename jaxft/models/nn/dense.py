"""Dense layers, embedding tables, activations; and how an adaptation changes them."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxft.models.nn.forms import Narrow, wide
from jaxft.models.nn.operator import operator
from jaxft.models.nn.run import Run
from jaxft.types import Array, Float, Int, Params


class Change(Protocol):
    """Stands among the parameters of a dense layer or an embedding table, as `change`, and computes it instead.

    It is a pytree: an adaptation puts it there.
    """

    def __call__(self, p: Params, x: Array, run: Run | None) -> Array:
        """Returns what a dense layer gives for x, `[..., inputs]`, or a table for the ids x, `[...]`.

        `run` is that of x's tokens, where the model hands it over.
        """
        ...


def dense(p: Params, x: Float[Array, "*batch inputs"], run: Run | None = None) -> Float[Array, "*batch outputs"]:
    """Computes x W + b, or what an adaptation has made of that."""
    change: Change | None = p.get("change")
    return linear(p, x) if change is None else change(p, x, run)


def linear(p: Params, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    """Computes x W + b in x's dtype, or x W where there is no b.

    b is added in float32, so that its gradient is summed in float32.
    """
    y = product(x, p["kernel"])
    return (y + p["bias"]).astype(x.dtype) if "bias" in p else y


@operator
def product(
    x: Float[Array, "*batch inputs"], kernel: Float[Array, "inputs outputs"] | Narrow
) -> Float[Array, "*batch outputs"]:
    """Computes x W in x's dtype.

    One matrix product of all positions: XLA on CPU computes it faster than the same with several batch axes.
    """
    times = _of_narrow if isinstance(kernel, Narrow) else _of_wide
    return times(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


def _of_wide(x: Array, kernel: Any) -> Array:
    return x @ wide(kernel, x.dtype)


_of_narrow = jax.custom_vjp(_of_wide)


def _again(kernel: Narrow, slope: Array) -> tuple[Array, None]:
    """The gradient for x; of W there is none. W is widened again, only then: the wide one is not kept until here."""
    kernel, slope = jax.lax.optimization_barrier((kernel, slope))
    return slope @ wide(kernel, slope.dtype).T, None


_of_narrow.defvjp(lambda x, kernel: (_of_wide(x, kernel), kernel), _again)


def kept_narrow(wide: Callable[..., Array], x: Array, *rest: Array) -> Array:
    """Applies `wide(x, ...)`, which computes in float32 and is recomputed in the backward pass where x is narrower.

    Else XLA, which leaves out a cast to bfloat16 and back, keeps float32 activations from the forward pass: twice the
    bytes.
    """
    return (wide if x.dtype == jnp.float32 else jax.checkpoint(wide))(x, *rest)


@operator
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes x Phi(x) (Hendrycks and Gimpel 2016) in float32; by erf, of which XLA has a faster kernel than erfc."""

    def wide(x: Array) -> Array:
        h = x.astype(jnp.float32)
        return (0.5 * h * (1 + jax.lax.erf(h * 2**-0.5))).astype(x.dtype)

    return kept_narrow(wide, x)


def embed(p: Params, ids: Int[Array, "*batch"], dtype: Any) -> Float[Array, "*batch embed"]:
    """Returns rows of an embedding table, or what an adaptation has made of them; gradients are summed in float32."""
    change: Change | None = p.get("change")
    return (p["embedding"][ids] if change is None else change(p, ids, None)).astype(dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}
