"""A compiled program as XLA prints it: computations of instructions, with the shapes of what they take and make.

The text is that of `jax.stages.Compiled.as_text()`, after all optimization; the grammar is that of XLA's HLO printer
(xla/hlo/ir/hlo_instruction.cc, xla/layout.cc).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
"""Bits of an element where the name of the type does not end with them."""

HBM = 0
"""The memory space of device memory; on TPU others are on the chip (1: VMEM)."""

_SHAPE = re.compile(r"(\w+)\[([^\]]*)\](?:\{([^}]*)\})?")
_LINE = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Shape(NamedTuple):
    """An array: `tile` is what the layout pads its minor dimensions to, minor-most last; `order` is minor to major."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    space: int = HBM

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Of the elements alone."""
        return math.ceil(self.size * _bits(self.dtype) / 8)

    @property
    def padded(self) -> int:
        """Bytes in memory, padding of tiles included."""
        dims = list(self.dims)
        for axis, tile in zip(self.order, reversed(self.tile), strict=False):
            dims[axis] = -(-dims[axis] // tile) * tile
        return math.ceil(math.prod(dims) * _bits(self.dtype) / 8)


def _bits(dtype: str) -> int:
    if dtype in BITS:
        return BITS[dtype]
    number = re.match(r"[a-z]+(\d+)", dtype)  # f32, u8, s4, f8e4m3fn
    return int(number[1]) if number else 8


@dataclass(frozen=True)
class Instruction:
    """One line: `%name = shapes opcode(operands), attributes`; the shapes of a tuple are flat.

    `argument` is what stands for the operands where they are no names: the number of a parameter, a constant's value.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    argument: str = ""
    root: bool = False

    @property
    def called(self) -> list[str]:
        """The computations that it runs, or that say how it combines two elements."""
        branches = _BRANCHES.search(self.attributes)
        names = re.split(r",\s*", branches[1].replace("%", "")) if branches else []
        return _CALLED.findall(self.attributes) + names

    @property
    def source(self) -> str:
        """The operation in the traced program that it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


@dataclass(frozen=True)
class Computation:
    """Instructions in their order, which is the schedule where the program has one."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {i.name: i for i in self.instructions}

    @property
    def root(self) -> Instruction:
        return next((i for i in self.instructions if i.root), self.instructions[-1])

    def taken(self, instruction: Instruction) -> list[tuple[Shape, ...]]:
        """The shapes of each operand."""
        return [self.by_name[name].shapes if name in self.by_name else () for name in instruction.operands]


@dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: str

    def scheduled(self) -> Iterator[tuple[Computation, int]]:
        """The entry and every computation that control flow reaches from it, and how often a step runs it."""
        yield from self._reached(self.entry, 1)

    def _reached(self, name: str, times: int) -> Iterator[tuple[Computation, int]]:
        computation = self.computations[name]
        yield computation, times
        for instruction in computation.instructions:
            if instruction.opcode in ("while", "call", "conditional"):
                inner = times * self._trips(instruction)
                for called in instruction.called:
                    yield from self._reached(called, inner)

    def _trips(self, instruction: Instruction) -> int:
        """How often a loop runs, 1 where it is not known: XLA says it, or the condition is `counter < constant`."""
        if known := _TRIPS.search(instruction.attributes):
            return int(known[1])
        condition = re.search(r"condition=%?([\w.\-]+)", instruction.attributes)
        if not condition:
            return 1
        computation = self.computations[condition[1]]
        constants = [i for i in computation.instructions if i.opcode == "constant" and i.argument.isdigit()]
        compared = "direction=LT" in computation.root.attributes and len(constants) == 1
        return int(constants[0].argument) if compared else 1

    def inside(self, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
        """What a fusion or an asynchronous operation is made of, at any depth."""
        if instruction.opcode in ("while", "call", "conditional"):
            return
        for name in instruction.called:
            computation = self.computations.get(name, Computation(name))
            for inner in computation.instructions:
                yield computation, inner
                yield from self.inside(inner)


def parse(text: str) -> Module:
    """Reads a module.

    Raises:
      ValueError: the text has no ENTRY computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line and not line[0].isspace():
            header = _HEADER.match(line)
            if header:
                current = computations[header[2]] = Computation(header[2])
                entry = header[2] if header[1] else entry
        elif current is not None and (found := _LINE.match(line)):
            current.instructions.append(_instruction(line, found))
    if not entry:
        raise ValueError("no ENTRY computation in this text")
    return Module(computations, entry)


def _instruction(line: str, found: re.Match[str]) -> Instruction:
    rest = re.sub(r"/\*.*?\*/", "", line[found.end() :])
    end = _closing(rest, 0) if rest.startswith("(") else _after_shape(rest)
    opcode, _, after = rest[end:].lstrip().partition("(")
    close = _closing("(" + after, 0) - 1
    shapes = tuple(_shape(*match) for match in _SHAPE.findall(rest[:end]))
    operands = tuple(re.findall(r"%([\w.\-]+)", after[: close - 1]))
    argument = "" if operands else after[: close - 1]
    return Instruction(found[1], opcode, shapes, operands, after[close:], argument, line.lstrip().startswith("ROOT"))


def _after_shape(text: str) -> int:
    match = _SHAPE.match(text)
    return match.end() if match else text.index(" ")


def _closing(text: str, start: int) -> int:
    """The position behind the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    return len(text)


def _shape(dtype: str, dims: str, layout: str) -> Shape:
    sizes = tuple(int(re.sub(r"\D", "", d)) for d in dims.split(",") if d)
    order, _, tiling = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", tiling)
    space = re.search(r"S\((\d+)\)", tiling)
    return Shape(
        dtype,
        sizes,
        tuple(int(n) for n in order.split(",") if n.isdigit()),
        tuple(int(n) for n in tile[1].split(",")) if tile else (),
        int(space[1]) if space else HBM,
    )
