"""The cache of keys and values: what the layers of a decoder keep of the tokens so far, for those to come."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxft.models.nn.attend import Stream
from jaxft.models.nn.leaf import Leaf, Spec
from jaxft.models.nn.run import Run
from jaxft.models.nn.scores import See, Sight, weighed
from jaxft.types import Array, Float, Int

AXES = ("rows", "kv_heads", None, None)
"""Logical axes of keys and values in a cache. Heads come before tokens: so a token asks them without a copy."""


class LayerCache(struct.PyTreeNode):
    """Keys and values of one layer."""

    key: Float[Array, "rows heads places dim"]
    value: Float[Array, "rows heads places dim"]


class Cache(struct.PyTreeNode):
    """Keys and values of every layer, or of one, and of which tokens they are.

    Attributes:
      layers: of each layer its own, the first one first.
      segments: which example of its row the token at each place is of; 0: there is none, or it is padding.
      positions: of these tokens in their examples.
      size: places that are taken; tokens are put behind them, at the same place in all rows.
      empty: whether no token is in it yet: then the first ones attend to each other alone.
    """

    layers: tuple[LayerCache, ...]
    segments: Int[Array, "rows places"]
    positions: Int[Array, "rows places"]
    size: Int[Array, ""]
    empty: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def of(cls, spec: Spec, run: Run) -> "Cache":
        """Returns an empty cache as `cache_spec` declares it, in the run's dtype and where its axes say."""

        def zeros(leaf: Leaf) -> Array:
            return run.constrain(jnp.zeros(leaf.shape, run.dtype), leaf.axes)

        layers = tuple(LayerCache(zeros(layer["key"]), zeros(layer["value"])) for layer in spec.values())
        rows, _, places, _ = layers[0].key.shape
        none = jnp.zeros((rows, places), jnp.int32)
        return cls(layers, none, none, jnp.int32(0), empty=True)

    def layer(self, number: int) -> "Cache":
        """Returns the cache of one layer by itself."""
        return self.replace(layers=self.layers[number : number + 1])

    def told(self, stream: Stream) -> "Cache":
        """Returns the same where it is known of which tokens the next places are; they are not taken yet."""
        begin = (0, self.size)
        segments = jax.lax.dynamic_update_slice(self.segments, stream.segments, begin)
        return self.replace(
            segments=segments, positions=jax.lax.dynamic_update_slice(self.positions, stream.positions, begin)
        )

    def put(self, key: Float[Array, "rows length heads dim"], value: Float[Array, "rows length heads dim"]) -> "Cache":
        """Returns the cache of one layer with keys and values of tokens in the next places."""

        def written(kept: Array, new: Array) -> Array:
            return jax.lax.dynamic_update_slice(kept, new.swapaxes(1, 2).astype(kept.dtype), (0, 0, self.size, 0))

        (own,) = self.layers
        return self.replace(layers=(LayerCache(written(own.key, key), written(own.value, value)),))

    def taken(self, layers: tuple[LayerCache, ...], count: int) -> "Cache":
        """Returns the cache with what its layers keep now, and so many places more taken."""
        return self.replace(layers=layers, size=self.size + count, empty=False)

    def first(self, count: Int[Array, ""], places: int) -> "Cache":
        """Returns a cache of so many places a row, the first `count` taken by the tokens at positions before `count`.

        Args:
          count: no more than each row has, and `places` has.
        """
        there = (self.segments > 0) & (self.positions < count)
        order = jnp.argsort(jnp.where(there, self.positions, count), axis=1, stable=True)[:, :places]
        more = ((0, 0), (0, 0), (0, places - order.shape[1]), (0, 0))
        moved = lambda x: jnp.pad(jnp.take_along_axis(x, order[:, None, :, None], axis=2), more)  # noqa: E731
        place = jnp.broadcast_to(jnp.arange(places, dtype=jnp.int32), (len(order), places))
        segments, positions = jnp.where(place < count, 1, 0), jnp.where(place < count, place, 0)
        layers = jax.tree.map(moved, self.layers)
        return self.replace(layers=layers, segments=segments, positions=positions, size=jnp.asarray(count, jnp.int32))

    def rows(self, at: Int[Array, " rows"]) -> "Cache":
        """Returns the cache of these rows, each as often as it is named."""
        layers, segments, positions = jax.tree.map(lambda x: x[at], (self.layers, self.segments, self.positions))
        return self.replace(layers=layers, segments=segments, positions=positions)

    def attend(
        self, query: Float[Array, "rows queries heads dim"], asking: Stream, sight: Sight
    ) -> Float[Array, "rows queries width"]:
        """Computes the attention of tokens to all that one layer keeps, as `attend` does that of streams.

        Where heads of queries share one of keys and values, they ask it as further tokens: nothing is repeated.
        """
        (own,) = self.layers
        rows, count, heads, dim = query.shape
        shared = heads // own.key.shape[1]
        query = query.reshape(rows, count, -1, shared, dim).transpose(0, 2, 1, 3, 4)
        see = See(asking.segments, self.segments, (asking.positions, self.positions), *sight)
        mask = jnp.repeat(see.mask(), shared, axis=2)
        out = weighed(query.reshape(rows, -1, count * shared, dim), own.key, own.value, mask)
        return out.reshape(rows, -1, count, shared, dim).transpose(0, 2, 1, 3, 4).reshape(rows, count, heads * dim)


def cache_spec(layers: int, rows: int, heads: int, places: int, dim: int) -> dict[str, Any]:
    """Declares a cache: of each layer keys and values of so many heads of `dim` numbers, for `places` tokens a row."""
    leaf = Leaf((rows, heads, places, dim), AXES, "zeros")
    return {str(number): {"key": leaf, "value": leaf} for number in range(layers)}
