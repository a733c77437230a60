"""What decoders share: layers that normalize first, and how a text is read at once or continued token by token."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.models import blocks, nn
from jaxft.types import Array, Batch, Float, Int, Params


class Parts(NamedTuple):
    """One layer in parts, and how, where architectures differ.

    Attributes:
      normed: what attention reads: hidden states, normalized.
      project: `(tokens, places or None) -> queries` of those at the places, or of all, `keys, values`, the last two
        perhaps of fewer heads than queries.
      attended: `(what attention gives, the tokens that ask) -> hidden states`, with what was there before added.
      mlp: `(hidden states, run of these tokens) -> hidden states`, the feed-forward net's added.
      sight: what a token sees.
    """

    normed: Callable[[Array], Array]
    project: Callable[[nn.Stream, Array | None], tuple[Array, Array, Array]]
    attended: Callable[[Array, nn.Stream], Array]
    mlp: Callable[[Array, nn.Run], Array]
    sight: nn.Sight


def layer(
    parts: Parts, stream: nn.Stream, at: Int[Array, "rows places"] | None, cache: nn.Cache | None = None
) -> tuple[Float[Array, "rows places width"], nn.Cache | None]:
    """Computes one layer, of all tokens or of those at `at`: attention and a feed-forward net, each added.

    Args:
      cache: of this layer alone, with the tokens before these.

    Returns:
      Hidden states, and the cache with these tokens in it.
    """
    before = stream.pick(at)
    with jax.named_scope("attention"):
        normed = stream.run.constrain(parts.normed(stream.x), ("rows", None, None))
        told = stream.put(normed, stream.run.key)
        query, key, value = parts.project(told, at)
        asking, cache = told.pick(at), None if cache is None else cache.put(key, value)
        if cache is None or cache.empty:
            key, value = (_shared(x, query.shape[2], told.run) for x in (key, value))
            attended = nn.attend(query, key, value, asking, told, parts.sight)
        else:
            attended = cache.attend(query, asking, parts.sight)
        hidden = parts.attended(attended, before)
    with jax.named_scope("mlp"):
        return parts.mlp(hidden, before.run), cache


def _shared(x: Float[Array, "rows length heads dim"], heads: int, run: nn.Run) -> Array:
    """Keys or values, once for each head of queries (Ainslie et al. 2023)."""
    return run.constrain(jnp.repeat(x, heads // x.shape[2], axis=2), ("rows", None, "heads", None))


Layer = Callable[
    [Params, nn.Stream, Array | None, nn.Cache | None], tuple[Float[Array, "rows places width"], nn.Cache | None]
]
"""`(parameters, tokens, places or None, cache of this layer or None) -> what `layer` returns`."""


class Body(NamedTuple):
    """A decoder and the tokens that it is to read.

    Attributes:
      stream: the tokens, embedded.
      layers: the first one first; layers that are computed alike are the same function.
      stack: the parameters of each.
      norm: of what the last one gives.
    """

    stream: nn.Stream
    layers: Sequence[Layer]
    stack: Sequence[Params]
    norm: Callable[[Array], Array]


def reading(
    body_of: Callable[[Params, Any, Batch, nn.Run], Body],
) -> tuple[Callable[..., Float[Array, "rows places width"]], Callable[..., tuple[Array, nn.Cache]]]:
    """Returns an architecture's `encode` and `decode`, see `jaxft.models.interface`, from what makes its body."""

    def encode(
        params: Params, cfg: Any, batch: Batch, run: nn.Run, at: Int[Array, "rows places"] | None = None
    ) -> Float[Array, "rows positions width"]:
        """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
        return _encoded(body_of(params, cfg, batch, run), at)

    def decode(
        params: Params,
        cfg: Any,
        batch: Batch,
        run: nn.Run,
        cache: nn.Cache,
        at: Int[Array, "rows places"] | None = None,
    ) -> tuple[Float[Array, "rows positions width"], nn.Cache]:
        """Computes the same of tokens that follow those in the cache, and puts these into it."""
        return _decoded(body_of(params, cfg, batch, run), cache, at)

    return encode, decode


def _encoded(body: Body, at: Int[Array, "rows places"] | None) -> Float[Array, "rows places width"]:
    def forgetful(layer: Layer) -> blocks.Layer:
        return lambda p, stream, at: layer(p, stream, at, None)[0]

    each = {layer: forgetful(layer) for layer in body.layers}
    return body.norm(blocks.through([each[layer] for layer in body.layers], body.stack, body.stream, at))


def _decoded(
    body: Body, cache: nn.Cache, at: Int[Array, "rows places"] | None
) -> tuple[Float[Array, "rows places width"], nn.Cache]:
    stream, found = body.stream, []
    cache = cache.told(stream)
    x, last = stream.x, len(body.layers) - 1
    for number, (layer, p) in enumerate(zip(body.layers, body.stack, strict=True)):
        own = cache.layer(number)
        x, own = layer(stream.run.gather(p), stream.put(x, None), at if number == last else None, own)
        assert own is not None, "it was given one"
        found += own.layers
    return body.norm(x), cache.taken(tuple(found), stream.x.shape[1])
