"""Which parameters learn: one file a method, and this registry of them.

An adaptation splits a parameter tree in two, trainable and frozen, and joins them again. Nothing else in the project
knows which method is on. `split` and `join` work alike on parameters, on their specs and on their shardings.
"""

from typing import Any, Protocol

from jaxft.adapt import full

Tree = dict[str, Any]


class Adaptation(Protocol):
    """See `jaxft.adapt.full`, the shortest one."""

    @staticmethod
    def split(params: Tree) -> tuple[Tree, Tree]:
        """What learns, and what does not."""
        ...

    @staticmethod
    def join(trainable: Tree, frozen: Tree) -> Tree:
        """The parameters that the model computes with; differentiable in `trainable`."""
        ...


__all__ = ["Adaptation", "full"]
