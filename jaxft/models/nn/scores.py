"""Attention by its definition: which scores count, their softmax, and what dropout leaves of it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxft.models.nn.run import Rate, count, kept
from jaxft.types import Array, Bool, Float, Int, Key


class See(struct.PyTreeNode):
    """Says which tokens each token sees: those of its own segment, and of these perhaps only the near ones.

    So examples that share a row do not see each other. Padding is segment 0 and sees padding alone: its rows of the
    softmax stay finite and reach nothing.

    Attributes:
      asking: segments of the tokens that ask.
      told: segments of those that are asked.
      positions: of both, in their examples; for a window, and where it is causal.
      window: how far a token sees to either side, at most; 0: any distance.
      causal: whether a token sees itself and those before it alone.
      bias: is added to the scores; the same for all rows, or for each its own.
    """

    asking: Int[Array, "rows queries"]
    told: Int[Array, "rows length"]
    positions: tuple[Int[Array, "rows queries"], Int[Array, "rows length"]] | None = None
    window: int = struct.field(pytree_node=False, default=0)
    causal: bool = struct.field(pytree_node=False, default=False)
    bias: Float[Array, "#rows heads queries length"] | None = None

    def mask(self) -> Bool[Array, "rows 1 queries length"]:
        """Returns True where a token sees another, for all heads alike."""
        same, placed = self.asking[:, None, :, None] == self.told[:, None, None, :], self.placed()
        return same if placed is None else same & placed

    def placed(self) -> Bool[Array, "rows 1 queries length"] | None:
        """Returns True where one token may see another by their positions; None: all may."""
        if not (self.window or self.causal):
            return None
        assert self.positions is not None, "before and near is what positions say"
        asking, told = self.positions
        back = asking[:, None, :, None] - told[:, None, None, :]
        if not self.window:
            return back >= 0
        near = jnp.abs(back) <= self.window
        return near & (back >= 0) if self.causal else near


class Sight(NamedTuple):
    """What a token may see of its example; by default all of it.

    Attributes:
      window, causal, bias: as in `See`.
    """

    window: int = 0
    causal: bool = False
    bias: Float[Array, "#rows heads queries length"] | None = None


class PairDropout(NamedTuple):
    """Zeroes attention probabilities; the mask is a function of the query's token, the head and the key's position.

    What is left waits for `rate.scale`, which whoever calls this multiplies the far smaller sum of values by.

    Attributes:
      rate, key, bits: as in `dropout` and `Run`.
      numbers: of the tokens that ask; see `token_numbers`.
      keys: positions in their examples of the tokens that are asked, below `span`.
    """

    rate: Rate
    key: Key[Array, ""]
    bits: Callable[[Array, Array], Array]
    numbers: Int[Array, "rows queries"]
    keys: Int[Array, "rows length"]
    span: int

    def __call__(self, probs: Float[Array, "rows heads queries length"]) -> Float[Array, "rows heads queries length"]:
        rows, heads, queries, _ = probs.shape
        asking = count(self.numbers, (rows, queries, heads)).swapaxes(1, 2)[..., None]
        pair = asking * jnp.uint32(self.span) + self.keys[:, None, None].astype(jnp.uint32)
        return jnp.where(kept(self.bits(self.key, pair), self.rate), probs, 0)


def attention(
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    value: Float[Array, "rows length heads dim"],
    see: See,
    drop: PairDropout | None,
) -> Float[Array, "rows queries heads dim"]:
    """Computes softmax(Q K^T / sqrt(dim) + bias) V over what is seen (Vaswani et al. 2017, eq. 1), in float32.

    The softmax's division comes after the product with V, as in FlashAttention (Dao et al. 2022, section 3.1), and so
    does dropout's: they take one number a query and head, and keep nothing of `[queries, length]` for their gradients.
    Heads come before tokens, so that both products are plain ones of matrices, which XLA computes best on CPUs
    (docs/speed.md).
    """
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    return weighed(query, key, value, see.mask(), see.bias, drop).swapaxes(1, 2)


def weighed(
    query: Float[Array, "rows heads queries dim"],
    key: Float[Array, "rows heads length dim"],
    value: Float[Array, "rows heads length dim"],
    mask: Bool[Array, "rows 1 queries length"],
    bias: Float[Array, "#rows heads queries length"] | None = None,
    drop: PairDropout | None = None,
) -> Float[Array, "rows heads queries dim"]:
    """Computes `attention` of arrays in which heads come before tokens.

    Args:
      mask: True where a token sees another.
      bias: is added to the scores.
    """
    scores = ((query * query.shape[-1] ** -0.5) @ key.swapaxes(2, 3)).astype(jnp.float32)
    scores = scores if bias is None else scores + bias.astype(jnp.float32)
    scores = jnp.where(mask, scores, -jnp.inf)
    powers = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    scale = 1 / powers.sum(-1, keepdims=True)
    powers = powers.astype(value.dtype)
    if drop is not None:
        powers, scale = drop(powers), scale * drop.rate.scale
    return ((powers @ value) * scale).astype(value.dtype)
