"""Where the parameters of a program live, as text: what `--mode=inspect` prints."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.program import Program
from jaxft.report.tables import grid
from jaxft.sharding import hint


class Entry(NamedTuple):
    """One parameter, as it is declared; nothing of it is computed."""

    path: str
    array: jax.ShapeDtypeStruct
    learns: bool

    @property
    def alike(self) -> tuple:
        """What entries have in common that are shown as one: all but the numbers of layers."""
        return _numberless(self.path), self.array.shape, self.array.dtype, self.array.sharding.spec, self.learns


def entries(program: Program) -> list[Entry]:
    """Every parameter, in the order of the tree."""
    parts = ((program.state.trainable, True), (program.state.frozen, False))
    return [Entry(path, array, learns) for tree, learns in parts for path, array in nn.arrays(tree).items()]


def bytes_a_device(tree: Any) -> int:
    """Of abstract arrays with shardings."""
    leaves = jax.tree.leaves(tree)
    return int(sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves))


def text(program: Program) -> str:
    """The mesh, the rules, a line a parameter (layers that are alike in one), and the sums."""
    mesh, state = program.mesh, program.state
    rules = {axis: _over(names) for axis, names in program.rules.axes.items()}
    rules |= {pattern: _spec(PartitionSpec(*split)) for pattern, split in program.rules.paths}
    rows = [("path", "count", "shape", "dtype", "spec", "bytes a device", "learns")]
    for found in _together(entries(program)):
        array = found[0].array
        size, spec = bytes_a_device([entry.array for entry in found]), _spec(array.sharding.spec, len(array.shape))
        shape, dtype = " x ".join(map(str, array.shape)), str(array.dtype)
        learns = "yes" if found[0].learns else "no"
        rows.append((_named(found), str(len(found)), shape, dtype, spec, f"{size:,}", learns))
    kinds = {"that learn": state.trainable, "that do not": state.frozen, "optimizer state": state.opt_state}
    sums = [["", "arrays", "elements", "bytes", "bytes a device"]]
    for kind, tree in kinds.items():
        leaves = jax.tree.leaves(tree)
        elements, whole = sum(x.size for x in leaves), sum(x.size * x.dtype.itemsize for x in leaves)
        name = kind if kind.startswith("optimizer") else f"parameters {kind}"
        sums.append([name, *(f"{n:,}" for n in (len(leaves), elements, whole, bytes_a_device(tree)))])
    return "\n\n".join((
        f"mesh   {' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}  "
        f"({mesh.size} of {mesh.devices.flat[0].device_kind})\n"
        f"rules  {', '.join(f'{name}={value}' for name, value in rules.items())}",
        grid(rows),
        grid(sums),
    ))  # fmt: skip


def wanted(program: Program, pattern: str) -> list[Entry]:
    """The parameters whose whole path the pattern matches.

    Raises:
      UserError: it is no regular expression, or matches none.
    """
    found = entries(program)
    try:
        matching = [entry for entry in found if re.fullmatch(pattern, entry.path)]
    except re.error as error:
        raise UserError(f"--draw: {pattern!r} is no regular expression: {error}") from error
    if not matching:
        paths = [entry.path for entry in found]
        raise UserError(f"--draw: {pattern!r} is the whole path of no parameter; {hint(pattern, paths)}")
    return matching


def draw(found: Sequence[Entry]) -> None:
    """Prints which device holds which part of each parameter; those that are alike are drawn once."""
    for alike in _together(found):
        array = alike[0].array
        spec = _spec(array.sharding.spec, len(array.shape))
        print(f"\n{_named(alike)}  {' x '.join(map(str, array.shape))}  {spec}", flush=True)
        if len(array.shape) in (1, 2):
            jax.debug.visualize_sharding(array.shape, array.sharding)
        else:
            print("(an array of one or two dimensions can be drawn)")


def _together(found: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Those that are alike, in the order of the first of each."""
    order = {entry.alike: i for i, entry in reversed(list(enumerate(found)))}
    for _, group in groupby(sorted(found, key=lambda entry: order[entry.alike]), key=lambda entry: entry.alike):
        yield list(group)


def _numberless(path: str) -> str:
    return re.sub(r"(?<=/)\d+(?=/)", "#", path)


def _named(found: Sequence[Entry]) -> str:
    """One path for all: `encoder/layer/0-5/...`."""
    if len(found) == 1:
        return found[0].path
    numbers = sorted(int(match[0]) for entry in found if (match := re.search(r"(?<=/)\d+(?=/)", entry.path)))
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    span = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return _numberless(found[0].path).replace("#", span)


def _over(names: Any) -> str:
    """The mesh axes of a dimension, as rules write them."""
    return names if isinstance(names, str) else "+".join(names or ()) or "none"


def _spec(spec: PartitionSpec, dimensions: int = 0) -> str:
    return "|".join([*map(_over, spec), *["none"] * (dimensions - len(spec))])
