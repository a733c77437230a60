"""Attention of rows in parts: what lies too far from a token, or ahead of it, is not computed."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxft.models.nn.scores import PairDropout, See
from jaxft.types import Array, Float


def in_blocks(
    compute: Callable[..., Array],
    query: Float[Array, "rows length heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    see: See,
    drop: PairDropout | None,
    size: int,
) -> Float[Array, "rows length heads dim"]:
    """Computes attention between tokens that are near, `compute(query, key, value, see, drop)`, in linear time.

    A row is cut into blocks, which ask their own block and the two beside it, or where it is causal the one before it;
    these are the rows that attention is then computed of. It asks that the tokens of an example lie side by side, in
    their order.

    Args:
      size: of a block: what a token sees is at most so many tokens away.
    """
    rows, length = see.asking.shape
    count, beside = -(-length // size), neighbours(see)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, count * size - length), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(rows, count, size, *x.shape[2:])

    def asking(x: Array) -> Array:
        return cut(x).reshape(rows * count, size, *x.shape[2:])

    def told(x: Array) -> Array:
        x = jnp.pad(cut(x), ((0, 0), (1, beside - 2), *((0, 0),) * (x.ndim - 1)))
        x = jnp.concatenate([x[:, at : at + count] for at in range(beside)], axis=2)
        return x.reshape(rows * count, beside * size, *x.shape[3:])

    near = See(
        asking(see.asking),
        told(see.told),  # beyond the first and the last block is padding
        see.positions and (asking(see.positions[0]), told(see.positions[1])),
        see.window,
        see.causal,
    )
    if drop is not None:
        drop = drop._replace(numbers=asking(drop.numbers), keys=told(drop.keys))
    out = compute(asking(query), told(key), told(value), near, drop)
    return out.reshape(rows, count * size, *query.shape[2:])[:, :length]


def in_prefixes(
    compute: Callable[..., Array],
    query: Float[Array, "rows length heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    see: See,
    drop: PairDropout | None,
    size: int,
) -> Float[Array, "rows length heads dim"]:
    """Computes causal attention, `compute(query, key, value, see, drop)`, without most of what lies ahead of a token.

    So many tokens at a time ask the row up to the last of them: of n such parts, (n + 1) / 2n of all pairs are
    computed. It asks that the tokens of an example lie side by side, in their order.

    Args:
      size: of a part, in tokens.
    """
    assert see.positions is not None and see.bias is None, "before is what positions say"
    parts, length = [], query.shape[1]
    for start in range(0, length, size):
        asking, told = slice(start, min(start + size, length)), slice(min(start + size, length))
        placed = see.positions[0][:, asking], see.positions[1][:, told]
        seen = See(see.asking[:, asking], see.told[:, told], placed, see.window, see.causal)
        less = drop and drop._replace(numbers=drop.numbers[:, asking], keys=drop.keys[:, told])
        parts.append(compute(query[:, asking], key[:, told], value[:, told], seen, less))
    return jnp.concatenate(parts, axis=1)


def neighbours(see: See) -> int:
    """Returns how many blocks a block asks: the one before it, itself and, unless it is causal, the one after it."""
    return 2 if see.causal else 3
