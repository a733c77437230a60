"""Array types with shapes, for signatures: `Float[Array, "rows length embed"]`.

jaxtyping gives them; the tests check them at run time. The core also runs where only jax, flax, optax and numpy are
installed: there each of them means just "an array".
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Key, Shaped, UInt32
else:
    try:
        from jaxtyping import Bool, Float, Int, Key, Shaped, UInt32
    except ImportError:

        class _Any:
            def __class_getitem__(cls, item):
                return Any

        Bool = Float = Int = Key = Shaped = UInt32 = _Any

Params = dict[str, Any]
"""Nested dicts of arrays, named as the Flax BERT checkpoints name them."""

Batch = Mapping[str, Array]
"""Arrays of one batch: `[rows, length]` per token, `[rows, slots]` per example. See `jaxft.data.batches`."""

Outputs = dict[str, Array]
"""What a task computes from a batch, per token or per example."""

__all__ = ["Array", "Batch", "Bool", "Float", "Int", "Key", "Outputs", "Params", "Shaped", "UInt32"]
