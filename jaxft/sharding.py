"""Where arrays live: a mesh of devices, and rules from logical axes to mesh axes."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxft import config
from jaxft.errors import UserError, nearest
from jaxft.models import nn
from jaxft.models.nn import Leaf
from jaxft.types import Array, Params

AXES = ("data", "fsdp", "tensor")

Names = tuple[str, ...]
"""Mesh axes that one dimension is split over; none: it stays whole."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Where what lives.

    Attributes:
      axes: logical axis -> mesh axes. What is not named here is not split.
      paths: (pattern, mesh axes of each dimension) for parameters by their path; the last pattern that matches counts.
    """

    axes: Mapping[str, Names]
    paths: tuple[tuple[str, tuple[Names, ...]], ...] = ()

    def pattern(self, path: str) -> tuple[str, tuple[Names, ...]] | None:
        """The pattern for this parameter, and what it says."""
        return next((rule for rule in reversed(self.paths) if re.fullmatch(rule[0], path)), None)


RULES = Rules({
    "rows": ("data", "fsdp"),
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "embed": ("fsdp",),
})  # fmt: skip


def read_rules(written: Iterable[str], rules: Rules = RULES) -> Rules:
    """The rules with those of `config.mesh.rules` on top: `mlp=none`, `embed=fsdp+tensor`, `.*/kernel=fsdp|tensor`.

    Raises:
      UserError: one that cannot be read, an unknown mesh axis, or one that is there twice.
    """
    axes, paths = dict(rules.axes), list(rules.paths)
    for rule in written:
        name, equals, value = (part.strip() for part in rule.rpartition("="))
        if not (name and equals):
            raise UserError(
                f"config.mesh.rules: {rule!r} is no rule; write AXIS=MESH_AXES or PATTERN=MESH_AXES|MESH_AXES, "
                "e.g. mlp=none or .*/kernel=fsdp|tensor (docs/sharding.md)"
            )
        split = tuple(_names(rule, part.strip()) for part in value.split("|"))
        busy = [axis for names in split for axis in names]
        if twice := [axis for axis in busy if busy.count(axis) > 1]:
            raise UserError(f"config.mesh.rules: {rule!r} names {twice[0]} twice; an array is split over an axis once")
        if name not in axes:
            paths.append((_pattern(rule, name), split))
        elif len(split) == 1:
            axes[name] = split[0]
        else:
            raise UserError(
                f"config.mesh.rules: {rule!r}: {name} is one dimension; for several mesh axes write {name}=fsdp+tensor"
            )
    return Rules(axes, tuple(paths))


def _names(rule: str, value: str) -> Names:
    names = () if value == "none" else tuple(name.strip() for name in value.split("+"))
    for name in names:
        if name not in AXES:
            raise UserError(f"config.mesh.rules: {rule!r}: no mesh axis {name!r}; {nearest(name, (*AXES, 'none'))}")
    return names


def _pattern(rule: str, pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"config.mesh.rules: {rule!r}: {pattern} is no regular expression: {error}") from error
    return pattern


def check_rules(spec: nn.Spec, rules: Rules) -> None:
    """Makes sure that each pattern is some parameter's.

    Raises:
      UserError: it is none's, with the nearest of what there is.
    """
    paths = list(nn.flatten(spec))
    for pattern, _ in rules.paths:
        if not any(re.fullmatch(pattern, path) for path in paths):
            raise UserError(
                f"config.mesh.rules: {pattern!r} is no logical axis ({', '.join(rules.axes)}) and the whole path of no "
                f"parameter; {hint(pattern, paths if '/' in pattern else [*rules.axes, *paths])}"
            )


def hint(pattern: str, paths: Sequence[str]) -> str:
    """The path nearest to a pattern that matches none, any number being that of a layer."""
    return nearest(pattern, {re.sub(r"(?<=/)\d+(?=/)", ".*", path) for path in paths})


QUERY = ("rows", None, "heads", None)
"""Logical axes of what attention takes and gives."""


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


def parts(mesh: Mesh, names: Sequence[str]) -> int:
    """How many parts these mesh axes make."""
    return int(np.prod([mesh.shape[name] for name in names]))


def partition_spec(
    shape: tuple[int, ...], axes: Sequence[str | None], mesh: Mesh, rules: Rules = RULES
) -> PartitionSpec:
    """The mesh axes of each dimension of an activation.

    A dimension that its mesh axes do not divide stays whole; of two that ask for the same mesh axis, the first has it.
    """
    spec, busy = [], set()
    for size, axis in zip(shape, axes, strict=True):
        names = tuple(name for name in rules.axes.get(axis or "", ()) if name not in busy)
        names = names if size % parts(mesh, names) == 0 else ()
        busy.update(names)
        spec.append(names or None)
    return PartitionSpec(*spec)


def param_spec(path: str, leaf: Leaf, mesh: Mesh, rules: Rules = RULES) -> PartitionSpec:
    """The mesh axes of each dimension of a parameter, by the pattern for its path or by its logical axes.

    Raises:
      UserError: the pattern does not fit its shape, or its logical axes ask for one mesh axis twice.
    """
    wrong = f"config.mesh.rules: {path} {list(leaf.shape)}"
    if rule := rules.pattern(path):
        pattern, split = rule
        if len(split) > len(leaf.shape):
            raise UserError(f"{wrong} has {len(leaf.shape)} dimensions, but {pattern!r} splits {len(split)}")
        for size, names in zip(leaf.shape, split, strict=False):
            if size % parts(mesh, names):
                number, over = parts(mesh, names), "+".join(names)
                raise UserError(f"{wrong}: {pattern!r} splits {size} over {over}, which is {number} and no divisor")
        return PartitionSpec(*(names or None for names in split))
    asked = [(axis, name) for axis in leaf.axes for name in rules.axes.get(axis or "", ())]
    for i, (axis, name) in enumerate(asked):
        if other := [first for first, same in asked[:i] if same == name]:
            raise UserError(
                f"{wrong}: {other[0]} and {axis} are both split over {name}; add {axis}=none or another axis"
            )
    return partition_spec(leaf.shape, leaf.axes, mesh, rules)


def param_shardings(spec: nn.Spec, mesh: Mesh, rules: Rules = RULES) -> Any:
    """A tree of shardings for a tree of `Leaf`; of one that is kept as codes and scales for each of these.

    Raises:
      UserError: as `param_spec` says.
    """

    def place(path: str, leaf: Leaf) -> Any:
        whole = tuple(param_spec(path, leaf, mesh, rules))
        return jax.tree.map(lambda part: NamedSharding(mesh, _dividing(whole, part.shape, mesh)), nn.parts(leaf))

    return nn.unflatten({path: place(path, leaf) for path, leaf in nn.flatten(spec).items()})


def _dividing(spec: Sequence[Any], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """A parameter's mesh axes for a part of it: a dimension that they do not divide there stays whole."""
    sizes = [parts(mesh, (names,) if isinstance(names, str) else names or ()) for names in spec]
    return PartitionSpec(*(names if n % k == 0 else None for names, n, k in zip(spec, shape, sizes, strict=False)))


def gather(
    spec: Any, mesh: Mesh, rules: Rules = RULES, *, below: str = "", but: Sequence[str] = ()
) -> Callable[[Params], Params]:
    """A function that makes parameters whole where they are used, inside jit, and splits their gradients again.

    Whole along the mesh axes that split rows, that is: a matrix product with rows and weights split over the same axis
    could otherwise be made by gathering the activations, which are larger. This is ZeRO-3 (Rajbhandari et al. 2020):
    an all-gather of each parameter and a reduce-scatter of its gradient.

    Args:
      below: of the parameters below this path alone, a tree of which the function takes then.
      but: not of those below these paths, which it leaves as they are.
    """
    split = nn.flatten(param_shardings(spec, mesh, rules))
    if below:
        split = {path.removeprefix(f"{below}/"): s for path, s in split.items() if path.startswith(f"{below}/")}
    if but:
        split = {path: s for path, s in split.items() if not path.startswith(tuple(f"{part}/" for part in but))}
    busy = set(rules.axes["rows"])

    def without(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = (names,) if isinstance(names, str) else names or ()
        return tuple(name for name in names if name not in busy) or None

    undivided = lambda place: NamedSharding(mesh, PartitionSpec(*map(without, place.spec)))  # noqa: E731
    whole = {path: jax.tree.map(undivided, place) for path, place in split.items()}
    same = lambda one, other: one.is_equivalent_to(other, len(one.spec))  # noqa: E731
    gathered = [path for path in split if not jax.tree.all(jax.tree.map(same, split[path], whole[path]))]

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
    return NamedSharding(mesh, PartitionSpec(rules.axes["rows"] or None))


def row_shards(mesh: Mesh, rules: Rules = RULES) -> int:
    """How many parts the rows of a batch are split into."""
    return parts(mesh, rules.axes["rows"])


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def shard_shape(
    shape: tuple[int, ...], axes: Sequence[str | None], mesh: Mesh, rules: Rules = RULES
) -> tuple[int, ...]:
    """The part of an array that a device holds."""
    return NamedSharding(mesh, partition_spec(shape, axes, mesh, rules)).shard_shape(shape)


def spread(attend: Callable[..., Array], mesh: Mesh, rules: Rules = RULES) -> Callable[..., Array]:
    """An attention of one device, as `jaxft.kernels.tpu` has it, run by each on its own rows and heads."""

    def spread_attend(query: Array, key: Array, value: Array, see: nn.See, drop: nn.PairDropout | None) -> Array:
        wide = partition_spec(query.shape, QUERY, mesh, rules)
        rows, heads, everywhere, total = PartitionSpec(wide[0]), wide[2], PartitionSpec(), query.shape[2]
        data = (drop.numbers, drop.keys, jax.random.key_data(drop.key), drop.rate) if drop else ()

        def own(query: Array, key: Array, value: Array, see: nn.See, data: tuple) -> Array:
            first, here = jax.lax.axis_index(heads) * query.shape[2] if heads else 0, drop
            if here:
                numbers, keys, words, rate = data
                here = here._replace(numbers=numbers, keys=keys, key=jax.random.wrap_key_data(words), rate=rate)
            return attend(query, key, value, see, here, among=(first, total))

        specs = (wide, wide, wide, rows, (rows, rows, everywhere, everywhere) if drop else ())
        run = jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=wide, check_vma=False)
        return run(query, key, value, see, data)

    return spread_attend


def constrain(mesh: Mesh, rules: Rules = RULES) -> Callable[[Array, tuple[str | None, ...]], Array]:
    """A function that places an activation, inside jit, by its logical axes."""

    def place(x: Array, axes: tuple[str | None, ...]) -> Array:
        spec = partition_spec(x.shape, axes, mesh, rules)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return place
