"""Layers one after the other, unrolled or as a loop."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxft.models.nn.run import Run
from jaxft.types import Array, Key, Params

Apply = Callable[[Params, Array, Key[Array, ""] | None], Array]
"""`(parameters, hidden states, key of dropout masks) -> hidden states`."""


def repeat(layers: Sequence[Apply], params: Sequence[Params], x: Array, run: Run, first: int = 1) -> Array:
    """Applies each layer in turn, as `run.scan` and `run.remat` say.

    Args:
      layers: those that are computed alike are the same function, which is traced once for all that are alike.
      first: which part of the model, for `Run.fold`, the first of these layers is.
    """
    if run.tap is not None:  # what is told must be of the trace that asks
        for i, (layer, p) in enumerate(zip(layers, params, strict=True)):
            x = run.tap("hidden", layer(p, run.tap("read", x), run.fold(first + i).key))
        return x
    jitted = {layer: jax.jit(jax.checkpoint(layer) if run.remat else layer) for layer in layers}
    each = [jitted[layer] for layer in layers]
    # An adaptation may have changed some layers alone.
    kinds = [(layer, jax.tree.structure(p)) for layer, p in zip(layers, params, strict=True)]
    start, period, count = loop(kinds) if run.scan else (len(layers), 0, 0)
    stop = start + period * count
    for i in range(start):
        x = each[i](params[i], x, run.fold(first + i).key)
    if count:
        x = _scan(each[start : start + period], params[start:stop], x, run, first + start)
    for i in range(stop, len(layers)):
        x = each[i](params[i], x, run.fold(first + i).key)
    return x


class Loop(NamedTuple):
    """Which layers are a loop: from `start`, `count` times `period` of them; before and after it they are unrolled."""

    start: int
    period: int
    count: int


def loop(kinds: Sequence[Hashable]) -> Loop:
    """Returns the loop over layers of such kinds that leaves the fewest to be compiled by themselves."""
    size = len(kinds)
    found = Loop(size, 0, 0)
    fewest = size
    for start in range(size):
        for period in range(1, (size - start) // 2 + 1):
            count, rest = divmod(size - start, period)
            alone = start + period + rest
            alike = all(kinds[i] == kinds[i - period] for i in range(start + period, size - rest))
            if alike and alone < fewest:
                found, fewest = Loop(start, period, count), alone
    return found


def _scan(layers: Sequence[Apply], params: Sequence[Params], x: Array, run: Run, first: int) -> Array:
    """The loop over all these parameters, `len(layers)` of them at a time."""
    period = len(layers)
    groups = [params[at::period] for at in range(period)]
    # One layer that is computed again and again is no other each time: nothing to stack.
    own = [len({id(p) for p in group}) > 1 for group in groups]
    stack = lambda group: jax.tree.map(lambda *leaves: jnp.stack(leaves), *group)  # noqa: E731
    stacked = [stack(group) if several else None for group, several in zip(groups, own, strict=True)]
    numbers = first + jnp.arange(len(params)).reshape(-1, period)
    keys = None if run.key is None else jax.vmap(jax.vmap(lambda i: run.fold(i).key))(numbers)

    def body(x: Array, turn: tuple) -> tuple[Array, None]:
        theirs, keys = turn
        for at, layer in enumerate(layers):
            x = layer(theirs[at] if own[at] else groups[at][0], x, None if keys is None else keys[at])
        return x, None

    return jax.lax.scan(body, x, (stacked, keys), length=len(numbers))[0]
