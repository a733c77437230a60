"""An ONNX graph under construction: nodes, constants, and sizes that are known when it runs."""

import ast
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import onnx_ir as ir

from jaxft.errors import UserError

Size = Any
"""Of an axis: an int, or an expression of `jax.export` in the names of axes, such as `2*length - 1`."""

OPSET = 17
"""Version of the operators: the first with LayerNormalization."""


def dtype_of(dtype: Any) -> np.dtype:
    """Returns what numbers of a JAX dtype are in the graph: all integers are int64, as sizes and token ids are."""
    if dtype == jnp.bool_:
        return np.dtype(np.bool_)
    return np.dtype(np.int64 if jnp.issubdtype(dtype, jnp.integer) else np.float32)


class Tensor(NamedTuple):
    """A value of the graph, and its sizes.

    JAX broadcasts before it computes, ONNX while it does: axes in front may be lacking here, and others be 1, that are
    longer in JAX.
    """

    value: ir.Value
    sizes: tuple[Size, ...]


class Graph:
    """Nodes in the order in which they run."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: dict[Any, ir.Value] = {}
        self.axes: dict[str, ir.Value] = {}

    def add(self, op: str, *inputs: ir.Value | None, outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns what it gives, a tuple where that is several values."""
        node = ir.node(op, inputs, attributes, num_outputs=outputs)
        self.nodes.append(node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def constant(self, array: Any, name: str = "") -> ir.Value:
        """Returns a constant: the same one for the same numbers, or one with a name of its own."""
        array = np.asarray(array)
        array = np.ascontiguousarray(array.astype(dtype_of(array.dtype))).reshape(array.shape)
        key = name or (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            name = name or f"constant_{len(self.constants)}"
            held = ir.tensor(array, name=name)
            made = ir.Value(name=name, const_value=held, type=ir.TensorType(held.dtype), shape=ir.Shape(array.shape))
            self.constants[key] = made
        return self.constants[key]

    def input(self, name: str, axes: Sequence[str]) -> ir.Value:
        """Adds an input of int64, and says that its sizes are those of these axes."""
        made = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(axes))
        for at, axis in enumerate(axes):
            if axis not in self.axes:
                self.axes[axis] = self.add("Shape", made, start=at, end=at + 1)
        return made

    def size(self, size: Size) -> int | ir.Value:
        """Returns an int, or what will be known when the graph runs, int64 `[1]`."""
        if isinstance(size, int):
            return size
        return self._evaluate(ast.parse(str(size).replace("^", "**"), mode="eval").body)

    def sizes(self, sizes: Sequence[Size]) -> ir.Value:
        """Returns sizes as a value, int64 `[n]`."""
        parts = [self.size(size) for size in sizes]
        if all(isinstance(part, int) for part in parts):
            return self.constant(np.array(parts, np.int64))
        return self.add("Concat", *(self.constant([p]) if isinstance(p, int) else p for p in parts), axis=0)

    def whole(self, x: Tensor, sizes: Sequence[Size]) -> ir.Value:
        """Returns x with all the sizes that it has in JAX."""
        return x.value if x.sizes == tuple(sizes) else self.add("Expand", x.value, self.sizes(sizes))

    def reshape(self, value: ir.Value, before: Sequence[Size], after: Sequence[Size]) -> ir.Value:
        """Returns a value of other sizes with as many numbers in all."""
        if tuple(before) == tuple(after):
            return value
        # Reshape takes 0 for the size that the axis of this number has already, and -1 for what is left.
        same = [at < len(before) and size == before[at] for at, size in enumerate(after)]
        asked = [0 if kept else size for kept, size in zip(same, after, strict=True)]
        unknown = [at for at, size in enumerate(asked) if not isinstance(size, int)]
        if len(unknown) == 1:
            asked[unknown[0]] = -1
        return self.add("Reshape", value, self.sizes(asked))

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """Returns a value with its axes in another order."""
        return value if list(order) == sorted(order) else self.add("Transpose", value, perm=list(order))

    def _evaluate(self, e: ast.expr) -> int | ir.Value:
        """The value of a size's expression, as JAX writes it."""
        if isinstance(e, ast.Name):
            return self.axes[e.id]
        if isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.USub):
            return self._computed("Sub", 0, self._evaluate(e.operand))
        if isinstance(e, ast.Constant):
            return int(e.value)  # pyright: ignore[reportArgumentType]
        if isinstance(e, ast.BinOp) and isinstance(e.op, ast.Pow):
            return self._power(self._evaluate(e.left), self._evaluate(e.right))
        if isinstance(e, ast.BinOp) and type(e.op) in ARITHMETIC:
            return self._computed(ARITHMETIC[type(e.op)], self._evaluate(e.left), self._evaluate(e.right))
        if isinstance(e, ast.Call) and isinstance(e.func, ast.Name) and e.func.id in FUNCTIONS:
            return self._computed(FUNCTIONS[e.func.id], *(self._evaluate(part) for part in e.args))
        raise UserError(f"no ONNX graph: it has an axis of size {ast.unparse(e)}, which is not computed there")

    def _computed(self, op: str, left: int | ir.Value, right: int | ir.Value) -> ir.Value:
        as_value = lambda x: self.constant(np.array([x])) if isinstance(x, int) else x  # noqa: E731
        return self.add(op, as_value(left), as_value(right))

    def _power(self, base: int | ir.Value, exponent: int | ir.Value) -> int | ir.Value:
        assert isinstance(exponent, int), "a size has ints for exponents"
        found = base
        for _ in range(exponent - 1):
            found = self._computed("Mul", found, base)
        return found


ARITHMETIC = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
FUNCTIONS = {"floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}
"""What sizes are computed by -> the operator; they are never negative, so that Div rounds down."""
