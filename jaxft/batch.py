"""What a batch holds: names, shapes and dtypes.

A row is `[row, position]`; an example is a segment of a row. `segment_ids` is 0 at padding and 1, 2, ... for the row's
examples; `positions` restart in each. Arrays per example are `[rows, slots]`, slot s for segment s + 1, so that every
array is split by rows alike. The padded batch is the case of one example a row.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxft.types import Array, Batch, Int

TOKEN_INPUTS = ("input_ids", "token_type_ids", "positions", "segment_ids")
"""`[rows, length]` int32, for the model."""

EXAMPLE_INPUTS = {"starts": np.int32, "weights": np.float32, "order": np.int32}
"""`[rows, slots]`: where an example begins in its row; how much it counts in the loss, 1 where nothing says otherwise,
and 0 for an empty slot; which one of the batch it is."""

UNLABELLED, COPY = "unlabelled", "unlabelled/copy"
"""`[rows, slots]` of training with texts without labels: 1 at each, whose weight is 0; 1 at a copy of the text in the
slot before."""

IGNORED = -100
"""The label of a token that has none to learn, as in PyTorch."""


class Target(NamedTuple):
    """An array for the loss: per example `[rows, slots, *size]` or per token `[rows, length, *size]`; else `fill`."""

    per: str  # "example" or "token"
    dtype: Any
    fill: float = 0
    size: tuple[int, ...] = ()


class BatchShape(NamedTuple):
    """The static shape of a batch: rows, positions a row, and at most so many examples a row."""

    rows: int
    length: int
    slots: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.length} (up to {self.slots} examples a row)"


def arrays(shape: BatchShape, targets: Mapping[str, Target]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Name -> dimensions and dtype of each array of a batch."""
    token, example = (shape.rows, shape.length), (shape.rows, shape.slots)
    return (
        {name: (token, np.int32) for name in TOKEN_INPUTS}
        | {name: (example, dtype) for name, dtype in EXAMPLE_INPUTS.items()}
        | {name: ((*(token if t.per == "token" else example), *t.size), t.dtype) for name, t in targets.items()}
    )


def abstract(
    shape: BatchShape, targets: Mapping[str, Target], place: NamedSharding | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """The same, as jax takes it for ahead-of-time compilation."""
    return {
        name: jax.ShapeDtypeStruct(dims, dtype, sharding=place)
        for name, (dims, dtype) in arrays(shape, targets).items()
    }


def padded(
    input_ids: Int[Array, "rows length"],
    attention_mask: Int[Array, "rows length"],
    token_type_ids: Int[Array, "rows length"] | None = None,
) -> Batch:
    """Returns the batch, without targets, of one example a row that is padded at its end.

    Args:
      attention_mask: 1 at tokens, 0 at padding.
      token_type_ids: None: all 0.
    """
    rows, length = input_ids.shape
    return {
        "input_ids": input_ids,
        "token_type_ids": jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        "positions": jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length)),
        "segment_ids": attention_mask,
        "starts": jnp.zeros((rows, 1), jnp.int32),
        "weights": jnp.ones((rows, 1)),
        "order": jnp.arange(rows, dtype=jnp.int32)[:, None],
    }


def put_before(batch: Batch, targets: Mapping[str, Target], size: int) -> tuple[Batch, Array]:
    """Returns the batch with so many virtual tokens before those of each example, and where its own tokens are now.

    They take an example's first positions, and it starts with them; rows grow by `size` times `slots`. Their ids are
    -size, ..., -1; see `jaxft.adapt.prompt`. They have no targets. The tokens of an example lie side by side as before.

    Args:
      targets: those that the batch has.
      size: of them.
    """
    (rows, _), slots = batch["segment_ids"].shape, batch["starts"].shape[1]
    front = {
        "input_ids": jnp.tile(jnp.arange(-size, 0), slots),
        "positions": jnp.tile(jnp.arange(size), slots),
        "segment_ids": jnp.repeat(jnp.arange(1, slots + 1), size),
        "token_type_ids": jnp.zeros(size * slots),
    }
    front |= {name: jnp.full(size * slots, t.fill) for name, t in targets.items() if t.per == "token"}
    own = {**batch, "positions": batch["positions"] + size}

    def longer(name: str) -> Array:
        row = jnp.broadcast_to(front[name].astype(own[name].dtype), (rows, size * slots))
        return jnp.concatenate([row, own[name]], axis=1)

    # All of an example, the virtual tokens first, then those of the next; padding comes last.
    together = {name: longer(name) for name in front}
    segments = together["segment_ids"]
    order = jnp.argsort(jnp.where(segments == 0, slots + 1, segments), axis=1, stable=True)
    places = jnp.argsort(order, axis=1)
    sorted_ = {name: jnp.take_along_axis(x, order, axis=1) for name, x in together.items()}
    starts = places[:, : size * slots : size].astype(batch["starts"].dtype)
    return own | sorted_ | {"starts": starts}, places[:, size * slots :]
