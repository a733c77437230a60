"""What a compiled program does in one step on one device: arithmetic, memory traffic, collectives."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxft.plan.hlo import HBM, Computation, Instruction, Module, Shape

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_SCATTER = "all-reduce-scatter"
"""On TPU a reduce-scatter is a fusion of this name, of an all-reduce and a slice of its result."""

_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "call", "conditional", "opt-barrier", "iota"),
}
"""What moves no bytes by itself."""


class Collective(NamedTuple):
    """Collectives of one kind, over the same axes, hidden or not.

    Attributes:
      count: how many arrays a step sends so; XLA may join those of several layers in one operation.
      bytes: of the whole arrays, on one device: what is summed, or what is there once gathered.
      wire: bytes that a device sends in a ring (Patarasuk and Yuan 2009).
      hidden: other work is scheduled while they are under way.
    """

    kind: str
    axes: tuple[str, ...]
    dtype: str
    hidden: bool
    count: int
    bytes: int
    wire: int


@dataclass(frozen=True)
class Work:
    """One step on one device.

    Attributes:
      flops: of matrix products, as they are executed: recomputation and padded rows included.
      bytes: read from and written to device memory.
      times: `[operations, 2]`, FLOPs and bytes of each operation, which no other one overlaps.
      largest: bytes, shape and source of the largest temporaries.
      wide: the share of the FLOPs whose operands are wider than 16 bits.
    """

    flops: float
    bytes: float
    times: np.ndarray
    collectives: list[Collective]
    largest: list[tuple[int, str, str]]
    wide: float


def read(module: Module, mesh: dict[str, int], most: int = 8) -> Work:
    """What one device does in a step.

    Args:
      mesh: sizes of the mesh axes; device i of the program is the i-th in their order.
      most: how many of the largest temporaries to name.
    """
    times, wide = [], 0.0
    temporaries: dict[tuple[str, str], int] = {}
    for computation, trips in module.scheduled():
        for instruction in computation.instructions:
            products = [(c, i) for c, i in _with_inside(module, computation, instruction) if _is_product(i)]
            flops = trips * (sum(product_flops(c, i) for c, i in products) + kernel_flops(instruction))
            wide += trips * sum(product_flops(c, i) for c, i in products if _wide(c, i))
            times.append((flops, trips * traffic(module, computation, instruction)))
            if instruction.opcode not in _FREE:
                for shape in instruction.shapes:
                    if shape.space == HBM:
                        key = (f"{shape.dtype}[{','.join(map(str, shape.dims))}]", _short(instruction.source))
                        temporaries[key] = max(temporaries.get(key, 0), shape.padded)
    each = np.asarray(times, np.float64).reshape(-1, 2)
    largest = sorted(((size, *key) for key, size in temporaries.items()), reverse=True)[:most]
    flops, moved = each.sum(0)
    return Work(float(flops), float(moved), each, collectives(module, mesh), largest, float(wide / max(flops, 1)))


def _with_inside(
    module: Module, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    yield computation, instruction
    yield from module.inside(instruction)


def _short(source: str) -> str:
    """The name of an operation without the transformations around it."""
    return re.sub(r"^jit\(\w+\)/", "", source)


def _is_product(instruction: Instruction) -> bool:
    return instruction.opcode in ("dot", "convolution")


def _wide(computation: Computation, instruction: Instruction) -> bool:
    return any(shape.dtype in ("f32", "f64") for shapes in computation.taken(instruction) for shape in shapes)


def product_flops(computation: Computation, instruction: Instruction) -> float:
    """Multiplications and additions of a `dot` or `convolution`, what falls on padding left out.

    As HloCostAnalysis::HandleConvolutionWithWindow counts them (xla/service/hlo_cost_analysis.cc): on TPU every matrix
    product is a convolution, batched ones are dilated so that most of the window falls on padding.
    """
    taken = computation.taken(instruction)
    if len(taken) < 2 or not taken[0] or not taken[1]:
        return 0.0
    left, right, out = taken[0][0], taken[1][0], instruction.shapes[0]
    if instruction.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        axes = [int(axis) for axis in found[1].split(",") if axis] if found else []
        return 2.0 * out.size * math.prod(left.dims[axis] for axis in axes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if not labels:
        return 0.0
    lhs, rhs, result = labels.groups()
    size = lambda label, shape, name: shape.dims[label.index(name)]  # noqa: E731
    valid = 1
    for axis in (name for name in result if name.isdigit()):
        place = int(axis)
        valid *= _valid(
            size(lhs, left, axis), size(rhs, right, axis), size(result, out, axis), _window(instruction, place)
        )
    groups = [_number(instruction, f"{name}_group_count", 1) for name in ("feature", "batch")]
    work = size(lhs, left, "f") // groups[0] * size(result, out, "f") * (size(lhs, left, "b") // groups[1])
    return 2.0 * work * valid


def kernel_flops(instruction: Instruction) -> float:
    """What a Pallas kernel says of itself (`pallas.CostEstimate`)."""
    if instruction.opcode != "custom-call":
        return 0.0
    found = re.search(r'"cost_estimate":\{"flops":"(\d+)"', instruction.attributes)
    return float(found[1]) if found else 0.0


def _number(instruction: Instruction, name: str, default: int) -> int:
    found = re.search(rf"{name}=(\d+)", instruction.attributes)
    return int(found[1]) if found else default


def _window(instruction: Instruction, axis: int) -> dict[str, int]:
    """Stride, padding in front and dilations of one spatial axis."""
    text = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    fields = dict(part.split("=") for part in text[1].split()) if text else {}
    value = lambda name, default: (  # noqa: E731
        int(re.split("_", fields[name].split("x")[axis])[0]) if name in fields else default
    )
    return {
        "stride": value("stride", 1),
        "pad": value("pad", 0),
        "lhs_dilate": value("lhs_dilate", 1),
        "rhs_dilate": value("rhs_dilate", 1),
    }


def _valid(size: int, window: int, out: int, w: dict[str, int]) -> int:
    """How many pairs of an output position and a window position fall on an input position."""
    first, end, apart = np.arange(out) * w["stride"] - w["pad"], (size - 1) * w["lhs_dilate"], w["lhs_dilate"]
    if w["rhs_dilate"] == 1:  # the multiples of `apart` that the window and the input share
        low, high = np.maximum(first, 0), np.minimum(first + window - 1, end)
        return int(np.maximum(high // apart - -(-low // apart) + 1, 0).sum())
    each = (first + k * w["rhs_dilate"] for k in range(window))
    return int(sum(((at >= 0) & (at <= end) & (at % apart == 0)).sum() for at in each))


def traffic(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that an operation reads from and writes to device memory; of slices, only what they take or change."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    taken = [[s for s in shapes if s.space == HBM] for shapes in computation.taken(instruction)]
    total = lambda shapes: sum(shape.padded for shape in shapes)  # noqa: E731
    if opcode.endswith("-start"):  # the result is (operands, made, context)
        made = instruction.shapes[0 if opcode == "copy-start" else sum(map(len, computation.taken(instruction))) :][:1]
        return total(s for s in made if s.space == HBM) + sum(min(total(s), total(made)) for s in taken)
    out = [s for s in instruction.shapes if s.space == HBM]
    if opcode in ("dynamic-slice", "gather", "slice"):
        return 2 * total(out)
    if opcode in ("dynamic-update-slice", "scatter"):
        return 2 * sum(map(total, taken[1:]))
    if opcode != "fusion":
        return sum(map(total, taken)) + total(out)
    return _fused(module, instruction, taken, out)


def _fused(module: Module, instruction: Instruction, taken: list[list[Shape]], out: list[Shape]) -> int:
    body = module.computations[instruction.called[0]]
    users: dict[str, list[Instruction]] = {}
    for inner in body.instructions:
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    moved = 0
    for inner in body.instructions:
        if inner.opcode != "parameter":
            continue
        number = int(inner.argument)
        if number < len(taken):
            moved += sum(min(shape.padded, _used(users.get(inner.name, []), inner, shape)) for shape in taken[number])
    root = body.root
    while root.opcode in ("bitcast", "convert", "copy", "reshape") and root.operands[0] in body.by_name:
        root = body.by_name[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return moved + body.by_name[root.operands[1]].shapes[0].padded
    return moved + sum(shape.padded for shape in out)


def _used(users: Sequence[Instruction], parameter: Instruction, shape: Shape) -> int:
    """Bytes of a fusion's operand that it reads: all, unless it only slices it or writes into it."""
    read = 0
    for user in users:
        if user.opcode in ("dynamic-slice", "gather", "slice") and user.operands[0] == parameter.name:
            read += user.shapes[0].padded
        elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name):
            return shape.padded
    return read


def collectives(module: Module, mesh: dict[str, int]) -> list[Collective]:
    """What crosses between devices, those of a kind together, the most bytes first."""
    found: dict[tuple, list[int]] = {}
    for computation, trips in module.scheduled():
        seen: set[tuple[str, str]] = set()
        for at, instruction in enumerate(computation.instructions):
            hidden = _hidden(computation, at)
            for owner, inner in _with_inside(module, computation, instruction):
                kind = inner.opcode.removesuffix("-start")
                if kind not in KINDS:
                    continue
                scatter = owner.name.startswith(_SCATTER)
                fused = owner is not computation and not scatter
                channel = re.search(r"channel_id=\d+", inner.attributes)
                # One may be spread over several fusions. Whole ones may share a channel: XLA combines them.
                if fused and channel and (kind, channel[0]) in seen:
                    continue
                seen |= {(kind, channel[0])} if channel else set()
                group = _group(inner, math.prod(mesh.values()))
                axes = _axes(group, mesh)
                if not axes:  # nobody else takes part
                    continue
                kind = "reduce-scatter" if scatter else kind
                for shape in (shape for shapes in owner.taken(inner) for shape in shapes):
                    whole = shape.bytes * (len(group) if kind == "all-gather" else 1)
                    sums = found.setdefault((kind, axes, shape.dtype, hidden or fused), [0, 0, 0])
                    sums[0] += trips
                    sums[1] += trips * whole
                    sums[2] += trips * round(whole * _share(kind, len(group)))
    rows = [Collective(*key, *sums) for key, sums in found.items()]
    return sorted(rows, key=lambda row: -row.bytes)


def _share(kind: str, n: int) -> float:
    """Of the whole array, what a device sends in a ring of n."""
    if kind.startswith("collective"):
        return 1.0
    return (2 if kind == "all-reduce" else 1) * (n - 1) / n


def _hidden(computation: Computation, at: int) -> bool:
    """Whether work is scheduled between the start of an asynchronous operation, at this place, and its end."""
    start = computation.instructions[at]
    if not start.opcode.endswith("-start"):
        return False
    for later in computation.instructions[at + 1 :]:
        if later.opcode.endswith("-done") and start.name in later.operands:
            return False
        if later.opcode in ("fusion", "dot", "convolution", "while", "custom-call"):
            return True
    return False


def _group(instruction: Instruction, devices: int) -> list[int]:
    """The devices of the first group that talk to each other, in any of the forms that XLA prints."""
    text = instruction.attributes
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{\{([\d,]*)\}", text):
        return [int(n) for n in found[1].split(",") if n]
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return _iota(found[2], found[3] or "").reshape([int(n) for n in found[1].split(",")])[0].tolist()
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*)\))? *\{([^}]*)\}", text):
        group = _mesh_group(found[1], found[3])
        if found[2]:
            sizes, _, turned = found[2].partition("T")
            group = _iota(sizes.strip("[]"), turned.strip("()")).ravel()[group]
        return [int(n) for n in group]
    return list(range(devices))


def _iota(sizes: str, turned: str) -> np.ndarray:
    """`2,4` and `1,0`: the devices in this shape, axes in this order."""
    shape = [int(n) for n in sizes.split(",")]
    order = np.arange(math.prod(shape)).reshape(shape)
    return order.transpose([int(n) for n in turned.split(",")]) if turned else order


def _mesh_group(axes: str, names: str) -> list[int]:
    """`'a'=4,'b'=2` and `'b'` or, for a part of an axis that follows one of size 2, `'a':(2)2`."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    strides, stride = {}, 1
    for name, size in reversed(sizes.items()):
        strides[name] = stride
        stride *= size
    group = np.zeros(1, int)
    for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", names):
        count = int(part) if part else sizes[name]
        step = strides[name] * (sizes[name] // (int(before) * count) if part else 1)
        group = (group[:, None] + np.arange(count) * step).ravel()
    return group.tolist()


def _axes(group: Sequence[int], mesh: dict[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ."""
    places = np.unravel_index(np.asarray(group), tuple(mesh.values()))
    return tuple(name for name, place in zip(mesh, places, strict=True) if len(set(place.tolist())) > 1)
