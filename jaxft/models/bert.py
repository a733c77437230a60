"""BERT (Devlin et al. 2019), as transformers/models/bert/modeling_bert.py computes it.

Parameters are named as in the Flax BERT checkpoints: `bert/encoder/layer/0/attention/self/query/kernel`.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from jaxft.errors import UserError, nearest
from jaxft.models import nn
from jaxft.types import Array, Batch, Float, Int, Params

PREFIX = "bert"
"""The body's name in the parameter tree."""

HF_NAME = "Bert"
"""What the names of its Hugging Face classes begin with."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json.

        Raises:
          UserError: an activation, a position embedding or a mode that this file does not compute.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        config = cls(**{k: v for k, v in hf.items() if k in known})
        if config.hidden_act not in nn.ACTIVATIONS:
            raise UserError(
                f"config.json: hidden_act {config.hidden_act!r}; {nearest(config.hidden_act, nn.ACTIVATIONS)}"
            )
        if hf.get("position_embedding_type", "absolute") != "absolute":
            raise UserError("config.json: position_embedding_type must be absolute; relative ones are not supported")
        if hf.get("is_decoder") or hf.get("add_cross_attention"):
            raise UserError("config.json: is_decoder and add_cross_attention are not supported; this is an encoder")
        if config.hidden_size % config.num_attention_heads:
            raise UserError("config.json: hidden_size must be a multiple of num_attention_heads")
        return config


def param_spec(cfg: Config, pooler: bool = True) -> nn.Spec:
    """Every parameter of the encoder, and of the pooler on top of it if asked for."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range

    def table(rows: int, axis: str | None) -> nn.Spec:
        return {"embedding": nn.Leaf((rows, size), (axis, "embed"), stddev=std)}

    def layer() -> nn.Spec:
        project = nn.dense_spec(size, size, ("embed", "heads"), std)
        return {
            "attention": {
                "self": {"query": project, "key": project, "value": project},
                "output": {
                    "dense": nn.dense_spec(size, size, ("heads", "embed"), std),
                    "LayerNorm": nn.layer_norm_spec(size),
                },
            },
            "intermediate": {"dense": nn.dense_spec(size, inner, ("embed", "mlp"), std)},
            "output": {
                "dense": nn.dense_spec(inner, size, ("mlp", "embed"), std),
                "LayerNorm": nn.layer_norm_spec(size),
            },
        }

    spec = {
        "embeddings": {
            "word_embeddings": table(cfg.vocab_size, "vocab"),
            "position_embeddings": table(cfg.max_position_embeddings, None),
            "token_type_embeddings": table(cfg.type_vocab_size, None),
            "LayerNorm": nn.layer_norm_spec(size),
        },
        "encoder": {"layer": {str(i): layer() for i in range(cfg.num_hidden_layers)}},
    }
    if pooler:
        spec["pooler"] = {"dense": nn.dense_spec(size, size, ("embed", None), std)}
    return {PREFIX: spec}


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Hidden states of the last layer: at every position, or only at those of each row that `at` names.

    What the last layer would compute elsewhere is then left out, as nothing depends on it; the result is the same.
    """
    bert = params[PREFIX]
    run = run.over(nn.token_numbers(batch, cfg.max_position_embeddings))
    hidden = _embed(bert["embeddings"], cfg, batch, run.fold(0))

    def layer(p: Params, hidden: Array, key: Array | None, at: Array | None = None) -> Array:
        return _layer(run.gather(p), cfg, hidden, at, batch, dataclasses.replace(run, key=key))

    layers = [bert["encoder"]["layer"][str(i)] for i in range(cfg.num_hidden_layers)]
    if at is None:
        return nn.repeat(layer, layers, hidden, run)
    hidden = nn.repeat(layer, layers[:-1], hidden, run)
    return nn.repeat(partial(layer, at=at), layers[-1:], hidden, run, first=len(layers))


def pool(params: Params, cfg: Config, first: Float[Array, "rows slots embed"]) -> Float[Array, "rows slots embed"]:
    """tanh(dense(.)) of the hidden state at each example's first position, [CLS]."""
    return jnp.tanh(nn.dense(params[PREFIX]["pooler"]["dense"], first))


def _embed(p: Params, cfg: Config, batch: Batch, run: nn.Run) -> Array:
    hidden = (
        nn.embed(p["word_embeddings"], batch["input_ids"], run.dtype)
        + nn.embed(p["position_embeddings"], batch["positions"], run.dtype)
        + nn.embed(p["token_type_embeddings"], batch["token_type_ids"], run.dtype)
    )
    hidden = nn.layer_norm(p["LayerNorm"], run.constrain(hidden, ("rows", None, None)), cfg.layer_norm_eps)
    return run.drop(hidden, cfg.hidden_dropout_prob)


def _layer(p: Params, cfg: Config, hidden: Array, at: Array | None, batch: Batch, run: nn.Run) -> Array:
    asking, whole = hidden, run
    if at is not None:
        asking, run = nn.pick(hidden, at), run.pick(at)
    # Of its own, so that the gradients of query, key and value are summed before they cross devices, not each after.
    read = run.constrain(hidden, ("rows", None, None))
    attended = _attend(p["attention"]["self"], cfg, read if at is None else asking, read, at, batch, run, whole)
    hidden = _add_norm(p["attention"]["output"], cfg, attended, asking, run, site=1)
    inner = nn.ACTIVATIONS[cfg.hidden_act](nn.dense(p["intermediate"]["dense"], hidden, run))
    return _add_norm(p["output"], cfg, run.constrain(inner, ("rows", None, "mlp")), hidden, run, site=2)


def _attend(
    p: Params, cfg: Config, asking: Array, hidden: Array, at: Array | None, batch: Batch, run: nn.Run, whole: nn.Run
) -> Array:
    """`run` is that of `asking`, `whole` that of `hidden`."""

    def project(name: str, x: Array, run: nn.Run) -> Array:
        heads = nn.dense(p[name], x, run).reshape(*x.shape[:2], cfg.num_attention_heads, -1)
        return run.constrain(heads, ("rows", None, "heads", None))

    query, key, value = project("query", asking, run), project("key", hidden, whole), project("value", hidden, whole)
    segments = batch["segment_ids"]
    asking_segments = segments if at is None else nn.pick(segments, at)
    key, value, segments, positions, span = nn.with_prefix(p, key, value, batch, cfg.max_position_embeddings)
    drop = run.pairs(cfg.attention_probs_dropout_prob, positions, span)
    return run.attention(query, key, value, asking_segments, segments, drop).reshape(asking.shape)


def _add_norm(p: Params, cfg: Config, x: Array, residual: Array, run: nn.Run, site: int) -> Array:
    x = run.drop(nn.dense(p["dense"], x, run), cfg.hidden_dropout_prob, site)
    return nn.layer_norm(p["LayerNorm"], run.constrain(x + residual, ("rows", None, None)), cfg.layer_norm_eps)
