"""The interface of a method, and how paths are chosen by patterns."""

import dataclasses
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import optax

from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.train.objective import ObjectiveTransform
from jaxft.types import Array, Key, Params


def unchanged(x: Any) -> Any:
    return x


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """Which parameters learn, and how the model computes with them.

    Attributes:
      learns: path -> whether this parameter learns.
      spec: a `Leaf` for each parameter that the method adds, below a name of its own beside the body's.
      prepare: all parameters -> the same, with everything in the new ones that depends on the pretrained ones.
      apply: all parameters -> those that the model computes with; differentiable in what learns. A module may hold an
        `nn.Change` there, which then computes it.
      drop: all parameters and the run -> those that a step of training computes with, before `apply`.
      merge: all parameters -> the model's own alone, which compute the same; None: there are no such.
      optimizer: the optimizer -> the optimizer that is used. Its update takes the step's `numbers`.
      objective: changes what training makes small, of all parameters.
      rates: dropout rates above zero of what it adds, by name; see `nn.Run.rates`.
      tokens: virtual ones that the model sees before those of each example; see `jaxft.batch.put_before`.
      positions: of the model's, the first ones, that are not for an example's own tokens.
    """

    learns: Callable[[str], bool]
    spec: nn.Spec = dataclasses.field(default_factory=dict)
    prepare: Callable[[Params], Params] = unchanged
    apply: Callable[[Params], Params] = unchanged
    merge: Callable[[Params], Params] | None = unchanged
    drop: Callable[[Params, nn.Run], Params] = lambda params, run: params
    optimizer: Callable[[optax.GradientTransformation], optax.GradientTransformation] = unchanged
    objective: ObjectiveTransform = unchanged
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tokens: int = 0
    positions: int = 0

    def extend(self, params: Params, key: Key[Array, ""]) -> Params:
        """The model's parameters with the method's own at their initial values, which change nothing."""
        new = {path: leaf.initial(nn.path_key(key, path)) for path, leaf in nn.flatten(self.spec).items()}
        return self.prepare(nn.unflatten(nn.flatten(params) | new))

    def split(self, params: Params) -> tuple[Params, Params]:
        """What learns, and what does not."""
        flat = nn.flatten(params)
        trainable = {path: x for path, x in flat.items() if self.learns(path)}
        return nn.unflatten(trainable), nn.unflatten({path: x for path, x in flat.items() if path not in trainable})


def together(trainable: Params, frozen: Params) -> Params:
    """The inverse of `Adaptation.split`."""
    return nn.unflatten(nn.flatten(trainable) | nn.flatten(frozen))


def layer_of(path: str) -> int | None:
    """The number of the layer that a parameter lies in: the first number in its path."""
    return next((int(part) for part in path.split("/") if part.isdigit()), None)


def dropout_site(path: str) -> int:
    """The part number for dropout of a dense layer: the same in all layers of a model, whose keys differ."""
    return zlib.crc32(re.sub(r"/\d+/", "/", path).encode())


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names a run of whole components of a path: `query`, `layer/1*/output`, `LayerNorm`."""
    parts = [re.escape(part).replace(r"\*", "[^/]*") for part in pattern.strip("/").split("/")]
    return re.search(f"/{'/'.join(parts)}/", f"/{path}/") is not None


def check_patterns(key: str, patterns: Iterable[str], known: Iterable[str]) -> None:
    """Makes sure that each pattern matches one of the known paths.

    Raises:
      UserError: naming the first that does not, and the paths there are.
    """
    known = list(known)
    for pattern in patterns:
        if not any(matches(pattern, path) for path in known):
            there = dict.fromkeys(re.sub(r"/\d+(?=/)", "/*", path) for path in known)
            raise UserError(
                f"config.{key} has {pattern!r}, which is no part of a path here; there are: {', '.join(there)}"
            )


def dense_layers(flat: Mapping[str, nn.Leaf], model: Model, key: str, patterns: Sequence[str]) -> list[str]:
    """The paths of the body's dense layers, the pooler left out: all of them, or those that a pattern matches.

    Args:
      flat: the model's parameters by path.
      key: that of the patterns in the experiment.

    Raises:
      UserError: a pattern that matches none, naming those there are.
    """
    kernels = [path.removesuffix("/kernel") for path in flat if path.endswith("/kernel") and not model.is_head(path)]
    check_patterns(key, patterns, kernels)
    return [path for path in kernels if not patterns or any(matches(pattern, path) for pattern in patterns)]


def count(tree: Any) -> int:
    """Of single numbers in a tree of arrays or of their shapes."""
    return sum(x.size for x in jax.tree.leaves(tree))
