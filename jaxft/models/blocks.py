"""What several architectures compute alike: embeddings, the layers one after the other, a layer and its parts.

An architecture hands over its parameters under names of its own; which function it is made of, its file says.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxft.errors import UserError, nearest
from jaxft.models import nn
from jaxft.types import Array, Batch, Float, Int, Params

Config = TypeVar("Config")


def read_config(cls: type[Config], hf: Mapping[str, Any], **read: Any) -> Config:
    """Returns the config of an architecture with the values that a config.json has under the names of its fields.

    Args:
      read: those that have been read already.
    """
    known = {field.name for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    return cls(**{name: value for name, value in {**hf, **read}.items() if name in known})


def check_config(hf: Mapping[str, Any], act: str, width: int, heads: int, absolute: bool = True) -> None:
    """Makes sure that an encoder of such sizes can be computed.

    Args:
      absolute: whether its positions have embeddings.

    Raises:
      UserError: an activation, a number of heads, a position embedding or a mode that is not.
    """
    if act not in nn.ACTIVATIONS:
        raise UserError(f"config.json: hidden_act {act!r}; {nearest(act, nn.ACTIVATIONS)}")
    if absolute and hf.get("position_embedding_type", "absolute") != "absolute":
        raise UserError("config.json: position_embedding_type must be absolute; relative ones are not supported")
    if hf.get("is_decoder") or hf.get("add_cross_attention"):
        raise UserError("config.json: is_decoder and add_cross_attention are not supported; this is an encoder")
    if heads < 1 or width % heads:
        raise UserError(f"config.json: the hidden size, {width}, must be a multiple of the number of heads, {heads}")


def check_values(hf: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
    """Makes sure that keys of a config.json, where they are there, have the values that are computed.

    Raises:
      UserError: one has another.
    """
    for key, value in computed.items():
        if hf.get(key) not in (None, value):
            here, there = json.dumps(value), json.dumps(hf[key])
            raise UserError(f"config.json: {key} must be {here}; {there} is not supported")


def embeddings_spec(size: int, stddev: float, words: int, positions: int = 0, types: int = 0) -> nn.Spec:
    """Declares tables of words, positions and token types (0: none), and the normalization of their sum."""

    def table(rows: int, axis: str | None = None) -> nn.Spec:
        return {"embedding": nn.Leaf((rows, size), (axis, "embed"), stddev=stddev)}

    rows = {"position_embeddings": positions, "token_type_embeddings": types}
    tables = {name: table(count) for name, count in rows.items() if count}
    return {"word_embeddings": table(words, "vocab"), **tables, "LayerNorm": nn.layer_norm_spec(size)}


def embed(
    p: Params, batch: Batch, run: nn.Run, eps: float, first_position: int = 0
) -> Float[Array, "rows length size"]:
    """Computes the normalized sum of rows of the tables that there are, behind the dense layer that there may be.

    Args:
      first_position: the row of the table that an example's first token takes.
    """
    with jax.named_scope("embeddings"):
        hidden = nn.embed(p["word_embeddings"], batch["input_ids"], run.dtype)
        if "position_embeddings" in p:
            hidden += nn.embed(p["position_embeddings"], batch["positions"] + first_position, run.dtype)
        if "token_type_embeddings" in p:
            hidden += nn.embed(p["token_type_embeddings"], batch["token_type_ids"], run.dtype)
        if "embed_proj" in p:
            hidden = nn.dense(p["embed_proj"], hidden, run)
        hidden = nn.layer_norm(p["LayerNorm"], run.constrain(hidden, ("rows", None, None)), eps)
        return run.drop(hidden, "hidden")


Layer = Callable[[Params, nn.Stream, Int[Array, "rows places"] | None], Float[Array, "rows places width"]]
"""`(parameters, stream of all tokens, places or None) -> hidden states` of all tokens or of those at the places."""


def through(
    layers: Layer | Sequence[Layer],
    stack: Sequence[Params],
    stream: nn.Stream,
    at: Int[Array, "rows places"] | None,
) -> Float[Array, "rows places width"]:
    """Applies the layers one after the other, the last one only at the given places.

    What it would compute elsewhere is left out, as nothing depends on it; the result is the same.

    Args:
      layers: one for all, or one each; layers that are computed alike are the same function.
      stack: the parameters of each.
    """
    run, kinds = stream.run, list(layers) if isinstance(layers, Sequence) else [layers] * len(stack)

    def on_stream(layer: Layer, at: Array | None = None) -> Callable[[Params, Array, Array | None], Array]:
        return lambda p, x, key: layer(run.gather(p), stream.put(x, key), at)

    each = {layer: on_stream(layer) for layer in kinds}
    every = [each[layer] for layer in kinds]
    if at is None or run.tap is not None:
        x = nn.repeat(every, stack, stream.x, run)
        return x if at is None else nn.pick(x, at)
    x = nn.repeat(every[:-1], stack[:-1], stream.x, run)
    return nn.repeat([on_stream(kinds[-1], at)], stack[-1:], x, run, first=len(stack))


class PostNorm(NamedTuple):
    """The parameters of one layer that `post_norm` computes; and how, where architectures differ.

    Attributes:
      query, key, value: of attention.
      attended: the dense layer behind it.
      attended_norm: of what that adds.
      inner, outer: the feed-forward net.
      norm: of what that adds.
      heads: of attention.
      act: the activation in the feed-forward net.
      eps: of the normalizations.
      drops: names of the dropout rates of what attention and the feed-forward net add.
      scale: of the scores, beside 1 / sqrt(dim).
    """

    query: Params
    key: Params
    value: Params
    attended: Params
    attended_norm: Params
    inner: Params
    outer: Params
    norm: Params
    heads: int
    act: str
    eps: float
    drops: tuple[str, str] = ("hidden", "hidden")
    scale: float = 1.0


Bias = Callable[
    [Float[Array, "rows queries heads dim"], Float[Array, "rows length heads dim"]],
    Float[Array, "#rows heads queries length"],
]
"""`(queries, keys) -> what is added to their scores`."""


def post_norm_specs(size: int, inner: int, stddev: float) -> dict[str, nn.Spec]:
    """Declares the parameters of such a layer, under the names of `PostNorm`."""
    project, norm = nn.dense_spec(size, size, ("embed", "heads"), stddev), nn.layer_norm_spec(size)
    return {
        **dict.fromkeys(("query", "key", "value"), project),
        "attended": nn.dense_spec(size, size, ("heads", "embed"), stddev),
        "attended_norm": norm,
        "inner": nn.dense_spec(size, inner, ("embed", "mlp"), stddev),
        "outer": nn.dense_spec(inner, size, ("mlp", "embed"), stddev),
        "norm": norm,
    }


def post_norm(
    layer: PostNorm,
    stream: nn.Stream,
    at: Int[Array, "rows places"] | None,
    bias: Bias | None = None,
) -> Float[Array, "rows places width"]:
    """Computes one layer: attention and a feed-forward net, each added and normalized (Vaswani et al. 2017, 3.1).

    Args:
      stream: of all tokens.
      at: the places of the tokens to compute it for; None: all.
      bias: what is added to the scores of these tokens, by their queries and all keys.
    """
    # Constrained of its own, so that the gradients of query, key and value are summed before they cross devices.
    told = stream.put(stream.run.constrain(stream.x, ("rows", None, None)), stream.run.key)
    asking, before = (told, stream.x) if at is None else (stream.pick(at), nn.pick(stream.x, at))
    run = asking.run

    def project(p: Params, stream: nn.Stream) -> Array:
        return nn.split_heads(nn.dense(p, stream.x, stream.run), layer.heads, stream.run)

    def normed(dense: Params, norm: Params, x: Array, residual: Array, drops: str, site: int) -> Array:
        return add_norm(dense, norm, x, residual, run, layer.eps, drops, site)

    with jax.named_scope("attention"):
        query = project(layer.query, asking) * layer.scale
        key, value = project(layer.key, told), project(layer.value, told)
        states = (layer.key["states"], layer.value["states"]) if "states" in layer.key else None
        added = None if bias is None else bias(query, key)
        attended = nn.attend(query, key, value, asking, told, nn.Sight(bias=added), states)
        hidden = normed(layer.attended, layer.attended_norm, attended, before, layer.drops[0], site=1)
    with jax.named_scope("mlp"):
        inner = nn.ACTIVATIONS[layer.act](nn.dense(layer.inner, hidden, run))
        inner = run.constrain(inner, ("rows", None, "mlp"))
        return normed(layer.outer, layer.norm, inner, hidden, layer.drops[1], site=2)


def add_norm(
    dense: Params,
    norm: Params,
    x: Float[Array, "rows places inputs"],
    residual: Float[Array, "rows places width"],
    run: nn.Run,
    eps: float,
    drops: str = "hidden",
    site: int = 0,
) -> Float[Array, "rows places width"]:
    """Computes norm(residual + dropout(dense(x))).

    Args:
      run: of these places.
      drops, site: the name of the dropout rate, and which mask of the layer's.
    """
    x = run.drop(nn.dense(dense, x, run), drops, site)
    return nn.layer_norm(norm, run.constrain(x + residual, ("rows", None, None)), eps)


def fused_attention(
    fused: Params,
    heads: int,
    rope: nn.Rope | None,
    stream: nn.Stream,
    at: Int[Array, "rows places"] | None,
    sight: nn.Sight = nn.Sight(),
) -> Float[Array, "rows places width"]:
    """Computes attention of all tokens, or of those at `at`, of which one matrix makes query, key and value.

    Args:
      fused: the dense layer that gives query, key and value side by side.
      rope: how positions turn queries and keys (Su et al. 2021); None: not at all.
      stream: of all tokens.
      sight: what is seen.
    """
    told = stream.put(stream.run.constrain(stream.x, ("rows", None, None)), stream.run.key)
    query, key, value = fused_projections(fused, heads, told)
    if rope is not None:
        turn = nn.Rotation.of(told.positions, key.shape[-1], rope)
        query, key = turn(query), turn(key)
    if at is None:
        return nn.attend(query, key, value, told, told, sight)
    return nn.attend(nn.pick(query, at), key, value, told.pick(at), told, sight)


def fused_projections(
    fused: Params, heads: int, stream: nn.Stream
) -> tuple[
    Float[Array, "rows length heads dim"], Float[Array, "rows length heads dim"], Float[Array, "rows length heads dim"]
]:
    """Returns queries, keys and values, which one matrix makes side by side."""
    query, key, value = jnp.split(nn.dense(fused, stream.x, stream.run), 3, axis=-1)
    run = stream.run
    return nn.split_heads(query, heads, run), nn.split_heads(key, heads, run), nn.split_heads(value, heads, run)


def gated(
    gate: Params, value: Params, x: Float[Array, "rows places width"], act: str, run: nn.Run
) -> Float[Array, "rows places inner"]:
    """Computes act(gate(x)) * value(x), two dense layers (Shazeer 2020, section 2)."""
    inner = nn.ACTIVATIONS[act](nn.dense(gate, x, run)) * nn.dense(value, x, run)
    return run.constrain(inner, ("rows", None, "mlp"))
