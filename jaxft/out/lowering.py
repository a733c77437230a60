"""What JAX computes, operation by operation, as nodes of an ONNX graph.

A traced program (a jaxpr) is what every model, head and task comes to; so what can be exported is not a matter of which
architecture it is, but of which operations there are here.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.out.graph import Graph, Tensor, dtype_of

Lower = Callable[..., Tensor]
"""`(graph, equation, inputs...) -> output`."""


def lower(graph: Graph, jaxpr: Jaxpr, constants: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Adds what a jaxpr computes to a graph and returns its outputs.

    Raises:
      UserError: an operation that has no lowering here.
    """
    held: dict[Any, Tensor] = {}

    def read(x: Any) -> Tensor:
        return tensor(graph, x.val) if isinstance(x, Literal) else held[x]

    held.update(zip(jaxpr.constvars, constants, strict=True))
    held.update(zip(jaxpr.invars, inputs, strict=True))
    for equation in jaxpr.eqns:
        given = [read(x) for x in equation.invars]
        held.update(zip(equation.outvars, _apply(graph, equation, given), strict=True))
    return [read(x) for x in jaxpr.outvars]


def tensor(graph: Graph, array: Any, name: str = "") -> Tensor:
    """Returns a constant, as a tensor."""
    return Tensor(graph.constant(array, name), np.shape(array))


def _apply(graph: Graph, equation: JaxprEqn, given: list[Tensor]) -> list[Tensor]:
    """What one equation gives: by its own operator, or by the equations that it is made of."""
    primitive, parameters = equation.primitive.name, equation.params
    operator = OPERATORS.get(parameters.get("name", ""))
    if operator is not None and (whole := operator(graph, equation, *given)) is not None:
        return [whole]
    if primitive in LOWER:
        found = LOWER[primitive](graph, equation, *given)
        return found if isinstance(found, list) else [found]
    for part in parameters.values():
        inner = getattr(part, "jaxpr", part)
        if isinstance(inner, Jaxpr) and len(inner.invars) == len(given):
            return lower(graph, inner, [tensor(graph, x) for x in getattr(part, "consts", ())], given)
    raise UserError(f"no ONNX graph: the model computes {primitive!r}, for which jaxft has no ONNX operator")


def _shape(equation: JaxprEqn, number: int = 0) -> tuple:
    return equation.invars[number].aval.shape  # pyright: ignore[reportAttributeAccessIssue]


def _shapes_out(equation: JaxprEqn) -> list[tuple]:
    return [out.aval.shape for out in equation.outvars]  # pyright: ignore[reportAttributeAccessIssue]


def _out(equation: JaxprEqn, value: ir.Value) -> Tensor:
    return Tensor(value, _shapes_out(equation)[0])


# One number at a time, of tensors that are broadcast as far as they need to be.


def _elementwise(op: str) -> Lower:
    return lambda graph, equation, *given: Tensor(graph.add(op, *(x.value for x in given)), _together(given))


def _together(given: Sequence[Tensor]) -> tuple:
    """The sizes of what is computed of several tensors, number by number."""
    rank = max(len(x.sizes) for x in given)
    padded = [(1,) * (rank - len(x.sizes)) + x.sizes for x in given]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def _same(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    return x


def _square(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    return Tensor(graph.add("Mul", x.value, x.value), x.sizes)


def _rsqrt(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    return Tensor(graph.add("Reciprocal", graph.add("Sqrt", x.value)), x.sizes)


def _integer_pow(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    return Tensor(graph.add("Pow", x.value, graph.constant(np.float32(equation.params["y"]))), x.sizes)


def _not_equal(graph: Graph, equation: JaxprEqn, x: Tensor, y: Tensor) -> Tensor:
    return Tensor(graph.add("Not", graph.add("Equal", x.value, y.value)), _together([x, y]))


def _convert(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    new, old = dtype_of(equation.params["new_dtype"]), dtype_of(equation.invars[0].aval.dtype)  # pyright: ignore
    return x if new == old else Tensor(graph.add("Cast", x.value, to=ir.DataType.from_numpy(new).value), x.sizes)


def _select(graph: Graph, equation: JaxprEqn, which: Tensor, *cases: Tensor) -> Tensor:
    if len(cases) != 2:
        raise UserError("no ONNX graph: the model selects from more than two cases")
    off, on = cases
    return Tensor(graph.add("Where", which.value, on.value, off.value), _together([which, on, off]))


# The same numbers elsewhere.


def _broadcast(graph: Graph, equation: JaxprEqn, x: Tensor, *sizes: Tensor) -> Tensor:
    """Axes of size 1 where numbers are to be repeated: the next operator will do that, or `Graph.whole`."""
    places = equation.params["broadcast_dimensions"][len(_shape(equation)) - len(x.sizes) :]
    if not places:
        return x
    first, rank = places[0], len(equation.params["shape"])
    new = [place - first for place in range(first, rank) if place not in places]
    value = graph.add("Unsqueeze", x.value, graph.constant(np.array(new))) if new else x.value
    held = dict(zip(places, x.sizes, strict=True))
    return Tensor(value, tuple(held.get(place, 1) for place in range(first, rank)))


def _reshape(graph: Graph, equation: JaxprEqn, x: Tensor, *sizes: Tensor) -> Tensor:
    before, after = _shape(equation), _shapes_out(equation)[0]
    return _out(equation, graph.reshape(graph.whole(x, before), before, after))


def _transpose(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    return _out(equation, graph.transpose(graph.whole(x, _shape(equation)), equation.params["permutation"]))


def _concatenate(graph: Graph, equation: JaxprEqn, *given: Tensor) -> Tensor:
    parts = [graph.whole(x, _shape(equation, at)) for at, x in enumerate(given)]
    return _out(equation, graph.add("Concat", *parts, axis=equation.params["dimension"]))


def _split(graph: Graph, equation: JaxprEqn, x: Tensor) -> list[Tensor]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    parts = graph.add("Split", graph.whole(x, _shape(equation)), graph.sizes(sizes), outputs=len(sizes), axis=axis)
    return [Tensor(part, shape) for part, shape in zip(parts, _shapes_out(equation), strict=True)]


def _slice(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    p, rank = equation.params, len(_shape(equation))
    steps = graph.constant(np.array(p["strides"] or (1,) * rank))
    bounds = graph.sizes(p["start_indices"]), graph.sizes(p["limit_indices"])
    whole = graph.whole(x, _shape(equation))
    return _out(equation, graph.add("Slice", whole, *bounds, graph.constant(np.arange(rank)), steps))


def _reverse(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    axes = np.array(equation.params["dimensions"])
    back, end = np.full(len(axes), -1), np.full(len(axes), np.iinfo(np.int64).min)
    whole = graph.whole(x, _shape(equation))
    return _out(equation, graph.add("Slice", whole, *map(graph.constant, (back, end, axes, back))))


def _pad(graph: Graph, equation: JaxprEqn, x: Tensor, fill: Tensor) -> Tensor:
    low, high, within = zip(*equation.params["padding_config"], strict=True)
    if any(within):
        raise UserError("no ONNX graph: the model pads between numbers")
    return _out(equation, graph.add("Pad", graph.whole(x, _shape(equation)), graph.sizes([*low, *high]), fill.value))


def _iota(graph: Graph, equation: JaxprEqn, *sizes: Tensor) -> Tensor:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    scalar = lambda x: graph.constant(np.int64(x)) if isinstance(x, int) else graph.add("Squeeze", x)  # noqa: E731
    count = graph.add("Range", scalar(0), scalar(graph.size(shape[axis])), scalar(1))
    if after := range(1, len(shape) - axis):
        count = graph.add("Unsqueeze", count, graph.constant(np.array(after)))
    dtype = dtype_of(equation.params["dtype"])
    count = count if dtype == np.int64 else graph.add("Cast", count, to=ir.DataType.from_numpy(dtype).value)
    return Tensor(count, (shape[axis], *(1,) * len(after)))


def _size(graph: Graph, equation: JaxprEqn, *sizes: Tensor) -> Tensor:
    found = graph.size(equation.params["dim"])
    return tensor(graph, found) if isinstance(found, int) else Tensor(graph.add("Squeeze", found), ())


# Sums and products.


def _reduce(op: str) -> Lower:
    def lowered(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
        axes, whole = list(equation.params["axes"]), graph.whole(x, _shape(equation))
        if op == "ReduceSum":  # the one whose axes are an input, in opset 17
            return _out(equation, graph.add(op, whole, graph.constant(np.array(axes)), keepdims=0))
        return _out(equation, graph.add(op, whole, axes=axes, keepdims=0))

    return lowered


def _dot(graph: Graph, equation: JaxprEqn, x: Tensor, y: Tensor) -> Tensor:
    """A product of matrices, one for each place of the batch axes: [batch, lead, n, k] by [batch, 1, k, m]."""
    (of_x, of_y), (batch_x, batch_y) = equation.params["dimension_numbers"]
    shapes = _shape(equation, 0), _shape(equation, 1)
    free_x = [at for at in range(len(shapes[0])) if at not in (*of_x, *batch_x)]
    free_y = [at for at in range(len(shapes[1])) if at not in (*of_y, *batch_y)]
    left, right = graph.whole(x, shapes[0]), graph.whole(y, shapes[1])
    if len(of_x) != 1 or min(len(free_x), len(free_y)) != 1:
        raise UserError("no ONNX graph: the model sums products over several axes at once, or over none")
    if len(free_y) == 1:
        return _out(equation, _matmul(graph, left, right, (batch_x, free_x, of_x), (batch_y, of_y, free_y)))
    found = _matmul(graph, right, left, (batch_y, free_y, of_y), (batch_x, of_x, free_x))
    lead, rank = range(len(batch_x)), len(batch_x) + len(free_y)
    return _out(equation, graph.transpose(found, [*lead, rank, *range(len(batch_x), rank)]))


def _matmul(graph: Graph, x: ir.Value, y: ir.Value, axes_x: Sequence, axes_y: Sequence) -> ir.Value:
    """x, with its axes in the order of batch, free and summed ones, by y, of batch, summed and the one free one."""
    batch, lead = len(axes_x[0]), len(axes_x[1]) - 1
    left, right = (graph.transpose(one, sum(map(tuple, axes), ())) for one, axes in ((x, axes_x), (y, axes_y)))
    if batch and lead:
        right = graph.add("Unsqueeze", right, graph.constant(batch + np.arange(lead)))
    return graph.add("MatMul", left, right)


def _gather(graph: Graph, equation: JaxprEqn, x: Tensor, at: Tensor) -> Tensor:
    """Entries along one axis, which the indices name (they are taken to be valid), or a slice that begins there."""
    p, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    batch = p.operand_batching_dims
    if len(p.start_index_map) != 1 or p.start_indices_batching_dims != tuple(range(len(batch))):
        raise UserError("no ONNX graph: the model gathers along several axes at once")
    (axis,), shape, places = p.start_index_map, _shape(equation, 0), _shape(equation, 1)
    whole, index = graph.whole(x, shape), graph.whole(at, places)
    if axis not in p.collapsed_slice_dims:
        length = graph.size(sizes[axis])
        end = graph.add("Add", index, graph.constant(np.array([length])) if isinstance(length, int) else length)
        return _out(equation, graph.add("Slice", whole, index, end, graph.constant(np.array([axis]))))
    rest = [other for other in range(len(shape)) if other != axis and other not in batch]
    indexed = [("index", n) for n in range(len(places) - 1)]
    if batch:
        moved = graph.transpose(whole, (*batch, axis, *rest))
        found = graph.add("GatherND", moved, index, batch_dims=len(batch))
        order = [*indexed, *(("rest", n) for n in range(len(rest)))]
    else:
        found = graph.add("Gather", whole, graph.add("Squeeze", index, graph.constant(np.array([-1]))), axis=axis)
        before = sum(other < axis for other in rest)
        order = [("rest", n) for n in range(len(rest))]
        order[before:before] = indexed
    asked: list[Any] = [None] * len(order)
    for n, place in enumerate(p.offset_dims):
        asked[place] = ("rest", n)
    left = iter(indexed)
    asked = [next(left) if one is None else one for one in asked]
    return _out(equation, graph.transpose(found, [order.index(one) for one in asked]))


LOWER: dict[str, Callable[..., Any]] = {
    **{
        name: _elementwise(op)
        for name, op in {
            "abs": "Abs",
            "add": "Add",
            "add_any": "Add",
            "and": "And",
            "cos": "Cos",
            "div": "Div",
            "eq": "Equal",
            "erf": "Erf",
            "exp": "Exp",
            "floor": "Floor",
            "ge": "GreaterOrEqual",
            "gt": "Greater",
            "le": "LessOrEqual",
            "log": "Log",
            "logistic": "Sigmoid",
            "lt": "Less",
            "max": "Max",
            "min": "Min",
            "mul": "Mul",
            "neg": "Neg",
            "not": "Not",
            "or": "Or",
            "pow": "Pow",
            "sign": "Sign",
            "sin": "Sin",
            "sqrt": "Sqrt",
            "sub": "Sub",
            "tanh": "Tanh",
        }.items()
    },
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "copy": _same,
    "dim_as_value": _size,
    "dot_general": _dot,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "iota": _iota,
    "ne": _not_equal,
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "rev": _reverse,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "squeeze": _reshape,
    "stop_gradient": _same,
    "transpose": _transpose,
}
"""Name of a JAX primitive -> what it becomes."""


# Functions of jaxft that are one operator: see `nn.operator`. What gives None is lowered part by part.


def _product(graph: Graph, equation: JaxprEqn, x: Tensor, kernel: Tensor) -> Tensor:
    return _out(equation, graph.add("MatMul", graph.whole(x, _shape(equation)), kernel.value))


def _layer_norm(graph: Graph, equation: JaxprEqn, *given: Tensor) -> Tensor | None:
    epsilon = equation.invars[-1]
    if len(given) not in (3, 4) or not isinstance(epsilon, Literal):
        return None
    *bias, scale, x, _ = given  # parameters come by name
    parts = [scale.value, *(one.value for one in bias)]
    whole = graph.whole(x, _shape(equation, len(given) - 2))
    return _out(equation, graph.add("LayerNormalization", whole, *parts, axis=-1, epsilon=float(epsilon.val)))


def _softmax(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    return _out(equation, graph.add("Softmax", graph.whole(x, _shape(equation)), axis=-1))


def _gelu(graph: Graph, equation: JaxprEqn, x: Tensor) -> Tensor:
    """In the five operators of which runtimes make one (Gelu is an operator from opset 20 on)."""
    number = lambda n: graph.constant(np.float32(n))  # noqa: E731
    inner = graph.add("Add", graph.add("Erf", graph.add("Div", x.value, number(2**0.5))), number(1))
    return Tensor(graph.add("Mul", graph.add("Mul", x.value, inner), number(0.5)), x.sizes)


OPERATORS: dict[str, Callable[..., Tensor | None]] = {
    f"{nn.OPERATOR}gelu": _gelu,
    f"{nn.OPERATOR}product": _product,
    f"{nn.OPERATOR}layer_norm": _layer_norm,
    f"{nn.OPERATOR}softmax": _softmax,
}
"""Name of a function -> what its whole becomes."""
