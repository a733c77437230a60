"""Functions that keep their names in a traced program."""

from collections.abc import Callable
from typing import TypeVar

import jax

Function = TypeVar("Function", bound=Callable)

OPERATOR = "jaxft."
"""What the names of operators begin with in a traced program."""


def operator(function: Function) -> Function:
    """Returns the same function, as a call in the traced program instead of its parts: `jit[name=jaxft.NAME ...]`.

    XLA puts the parts in again before it does anything else. `jaxft.out.onnx` has an operator for the whole.
    """
    function.__name__ = f"{OPERATOR}{function.__name__}"
    return jax.jit(function)  # pyright: ignore[reportReturnType]
