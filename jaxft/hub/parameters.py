"""The parameters of a model, from the weights of its directory; and what became of each of them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxft.errors import UserError
from jaxft.hub.heads import AS_IT_STANDS, Fit
from jaxft.hub.weights import Weights, open_weights
from jaxft.models import nn
from jaxft.types import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Accounting:
    """What became of every parameter and of every tensor of the checkpoint.

    Attributes:
      loaded: paths read from the checkpoint.
      missing: path -> shape of those that the checkpoint lacks; they are initialized.
      mismatched: head path -> (shape here, shape in the checkpoint); they are initialized too.
      head, renewed: how the head is taken, and its paths that are initialized, for the reason that `head.new` says.
      anew: paths of the body that are initialized although the checkpoint has them.
      wrapper: what a wrapper of the model has put before every name in the checkpoint.
      unused: names in the checkpoint that no parameter asked for.
    """

    loaded: list[str]
    missing: dict[str, tuple[int, ...]]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unused: list[str]
    head: Fit = AS_IT_STANDS
    renewed: tuple[str, ...] = ()
    anew: tuple[str, ...] = ()
    wrapper: str = ""

    @property
    def new(self) -> list[str]:
        """The paths that are initialized."""
        return [*self.missing, *self.mismatched, *self.renewed, *self.anew]

    def lines(self) -> list[str]:
        """For the log: a line a kind, the empty ones left out."""
        new = [f"{path} {list(shape)}" for path, shape in self.missing.items()]
        renewed = {f"new head (initialized), {self.head.new}": self.renewed}
        other = [f"{path} {list(here)}, there {list(there)}" for path, (here, there) in self.mismatched.items()]
        groups = groupby(self.unused, key=lambda name: "/".join(name.split("/")[:2]))
        parts = [(group, list(names)) for group, names in groups]
        unused = [f"{group}/... ({len(names)} tensors)" if len(names) > 1 else names[0] for group, names in parts]
        kinds = {
            "loaded from the checkpoint": [f"{len(self.loaded)} tensors"],
            "new (initialized)": new,
            **renewed,
            "begun anew (initialized), as config.model.reinit says": [f"{len(self.anew)} tensors"] * bool(self.anew),
            "of another shape in the checkpoint (initialized)": other,
            "unused in the checkpoint": unused,
        }
        wrapped = [f"names in the checkpoint begin with {self.wrapper}, which is left out"] * bool(self.wrapper)
        lines = wrapped + [f"{kind}: {', '.join(entries)}" for kind, entries in kinds.items() if entries]
        return lines + [self.head.note] * bool(self.head.note and self.head.paths & {*self.loaded})


def load_parameters(
    directory: Path,
    spec: nn.Spec,
    *,
    key: Key[Array, ""],
    base_prefix: str,
    shardings: Any = None,
    head: Fit = AS_IT_STANDS,
    anew: Callable[[str], bool] = lambda path: False,
) -> tuple[Params, Accounting]:
    """Returns parameters in float32, each made where it will live: a host reads and holds its devices' shares alone.

    (Of a Flax msgpack file a host holds the whole file meanwhile: that format cannot be read in parts.)

    Args:
      directory: of the model.
      spec: a tree of `nn.Leaf`: what to load.
      key: for parameters that the checkpoint lacks.
      base_prefix: the path under which the pretrained body lies; parameters beside it are heads, which may be missing
        or have another shape. In the body only the pooler may be missing.
      shardings: a tree of shardings like `spec`; None: everything on the default device.
      head: how the outputs of the checkpoint's head are taken.
      anew: tells of a path of the body whether it is initialized although the checkpoint has it.

    Raises:
      UserError: weights that cannot be read, are of another kind of model, lack a part of the body, or have other
        shapes than the spec; or a head that must be there is not.
    """
    weights = open_weights(directory, base_prefix)
    leaves = nn.flatten(spec)
    accounting = _with_head(directory, account(directory, weights, leaves, base_prefix), head)
    begun = [path for path in accounting.loaded if path.startswith(base_prefix + "/") and anew(path)]
    own = [path for path in accounting.loaded if path not in begun]
    accounting = dataclasses.replace(accounting, loaded=own, anew=tuple(begun))
    here = SingleDeviceSharding(jax.local_devices()[0])
    where = dict.fromkeys(leaves, here) if shardings is None else nn.flatten(shardings)
    with jax.transfer_guard_host_to_device("allow"):  # callbacks count as implicit transfers
        params = {
            path: jax.make_array_from_callback(leaves[path].shape, where[path], _reader(weights, path, head))
            for path in accounting.loaded
        }
    if new := accounting.new:
        initial = jax.jit(
            lambda key: {path: leaves[path].initial(nn.path_key(key, path)) for path in new},
            out_shardings={path: where[path] for path in new},
        )
        params |= initial(key)
    return nn.unflatten({path: params[path] for path in leaves}), accounting


def _reader(weights: Weights, path: str, head: Fit) -> Callable[[Any], np.ndarray]:
    """What reads a part of a parameter; of a head's outputs in the order of the labels here."""
    if not head.order or path not in head.paths:
        return partial(weights.read, path)

    def ordered(index: Any) -> np.ndarray:
        whole = weights.read(path, (slice(None),) * len(weights.shape(path)))
        return whole[..., list(head.order)][index]

    return ordered


def _with_head(directory: Path, found: Accounting, head: Fit) -> Accounting:
    """What becomes of the parameters, the head's as it is to be taken.

    Raises:
      UserError: it must be there, but is not.
    """
    if lacking := sorted({*found.missing, *found.mismatched} & head.paths if head.must else ()):
        raise UserError(
            f"{directory}: config.model.head is load, but the weights have no {', '.join(lacking)} of the shape that "
            "the task asks for; leave config.model.head=auto"
        )
    renewed = tuple(path for path in found.loaded if head.new and path in head.paths)
    loaded = [path for path in found.loaded if path not in renewed]
    return dataclasses.replace(found, loaded=loaded, renewed=renewed, head=head)


def account(directory: Path, weights: Weights, leaves: Mapping[str, nn.Leaf], base_prefix: str) -> Accounting:
    """Which parameters the weights hold, and what else they hold.

    Raises:
      UserError: as `load_parameters` says.
    """
    body = [path for path in leaves if path.startswith(base_prefix + "/")]
    loaded = [path for path in leaves if path in weights]
    absent = {path: leaf.shape for path, leaf in leaves.items() if path not in weights}
    if not set(body) & set(loaded):
        names = _some(weights.names())
        raise UserError(f"{directory}: the weights are of another kind of model: no {base_prefix}/... among {names}")
    lost = [path for path in body if path in absent]
    # A head's checkpoint often has no pooler; anything less than all of it, or anything else, is damage.
    if lost and lost != [path for path in body if path.startswith(f"{base_prefix}/pooler/")]:
        raise UserError(
            f"{directory}: {len(lost)} of the model's {len(body)} tensors are missing from the weights: {_some(lost)}; "
            "they are incomplete, or config.json is of another model"
        )
    mismatched = {}
    for path in loaded:
        here, there = tuple(leaves[path].shape), weights.shape(path)
        if here != there and path in body:
            raise UserError(f"{directory}: {path} must be {list(here)} by config.json, but is {list(there)} there")
        if here != there:
            mismatched[path] = (here, there)
    unused = weights.names() - {weights.stored_name(path) for path in loaded}
    own = [path for path in loaded if path not in mismatched]
    return Accounting(own, absent, mismatched, sorted(unused), wrapper=weights.wrapper)


def _some(names: Iterable[str], count: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
