"""Where arrays live: a mesh of devices, and rules from logical axes to mesh axes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft import config
from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.models.nn import Leaf
from jaxft.types import Array, Params

AXES = ("data", "fsdp", "tensor")

Rules = Mapping[str, str | tuple[str, ...]]

RULES: Rules = {
    "rows": ("data", "fsdp"),
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
}
"""Logical axis -> mesh axes. What is not named here is not split."""


def make_mesh(sizes: config.Mesh, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of all devices (or the given ones) with axes `data`, `fsdp`, `tensor`.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [getattr(sizes, axis) for axis in AXES]
    asked = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, shape, strict=True))
    if 0 in shape or shape.count(-1) > 1:
        raise UserError(f"config.mesh is {asked}; sizes are 1 or more, and at most one is -1 (the devices that remain)")
    known = int(np.prod([size for size in shape if size > 0]))
    if -1 in shape:
        shape[shape.index(-1)] = len(devices) // known
    if int(np.prod(shape)) != len(devices):
        raise UserError(f"config.mesh is {asked}, which does not make {len(devices)}, the number of devices here")
    return Mesh(np.asarray(devices).reshape(shape), AXES)


def mesh_axes(axis: str | None, rules: Rules = RULES) -> tuple[str, ...]:
    """The mesh axes that a logical axis is split over."""
    names = rules.get(axis, ()) if axis else ()
    return (names,) if isinstance(names, str) else tuple(names)


def parts(mesh: Mesh, names: Sequence[str]) -> int:
    """How many parts these mesh axes make."""
    return int(np.prod([mesh.shape[name] for name in names]))


def partition_spec(
    shape: tuple[int, ...], axes: Sequence[str | None], mesh: Mesh, rules: Rules = RULES
) -> PartitionSpec:
    """The mesh axes of each dimension. A dimension that its mesh axes do not divide stays whole."""
    spec = []
    for size, axis in zip(shape, axes, strict=True):
        names = mesh_axes(axis, rules)
        spec.append(names if names and size % parts(mesh, names) == 0 else None)
    return PartitionSpec(*spec)


def param_shardings(spec: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """A tree of shardings for a tree of `Leaf`."""
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, partition_spec(leaf.shape, leaf.axes, mesh, rules)),
        spec,
        is_leaf=lambda x: isinstance(x, Leaf),
    )


def gather(
    spec: Any, mesh: Mesh, rules: Rules = RULES, *, below: str = "", but: str = ""
) -> Callable[[Params], Params]:
    """A function that makes parameters whole where they are used, inside jit, and splits their gradients again.

    Whole along the mesh axes that split rows, that is: a matrix product with rows and weights split over the same axis
    could otherwise be made by gathering the activations, which are larger. This is ZeRO-3 (Rajbhandari et al. 2020):
    an all-gather of each parameter and a reduce-scatter of its gradient.

    Args:
      below: of the parameters below this path alone, a tree of which the function takes then.
      but: not of those below this path, which it leaves as they are.
    """
    split = nn.flatten(param_shardings(spec, mesh, rules))
    if below:
        split = {path.removeprefix(f"{below}/"): s for path, s in split.items() if path.startswith(f"{below}/")}
    if but:
        split = {path: s for path, s in split.items() if not path.startswith(f"{but}/")}
    busy = set(mesh_axes("rows", rules))

    def without(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = (names,) if isinstance(names, str) else names or ()
        return tuple(name for name in names if name not in busy) or None

    whole = {path: NamedSharding(mesh, PartitionSpec(*map(without, s.spec))) for path, s in split.items()}
    gathered = [path for path in split if not split[path].is_equivalent_to(whole[path], len(split[path].spec))]

    def make_whole(path: str) -> Callable[[Array], Array]:
        put = jax.lax.with_sharding_constraint
        function = jax.custom_vjp(lambda x: put(x, whole[path]))
        # Whole first: else XLA splits the embedding's scatter along `embed` and gathers activations' gradients for it.
        function.defvjp(lambda x: (put(x, whole[path]), None), lambda _, g: (put(put(g, whole[path]), split[path]),))
        return function

    # One function a parameter: those that do not learn must not look as if they had a gradient.
    functions = {path: make_whole(path) for path in gathered}
    return lambda params: nn.unflatten({
        path: functions[path](x) if path in functions else x for path, x in nn.flatten(params).items()
    })  # fmt: skip


def batch_sharding(mesh: Mesh, rules: Rules = RULES) -> NamedSharding:
    """Of every array of a batch: split by rows."""
    return NamedSharding(mesh, PartitionSpec(mesh_axes("rows", rules)))


def row_shards(mesh: Mesh, rules: Rules = RULES) -> int:
    """How many parts the rows of a batch are split into."""
    return parts(mesh, mesh_axes("rows", rules))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def constrain(mesh: Mesh, rules: Rules = RULES) -> Callable[[Array, tuple[str | None, ...]], Array]:
    """A function that places an activation, inside jit, by its logical axes."""

    def place(x: Array, axes: tuple[str | None, ...]) -> Array:
        spec = partition_spec(x.shape, axes, mesh, rules)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return place
