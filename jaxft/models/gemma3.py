"""Gemma 3 (Gemma Team 2025), as Gemma3TextModel of transformers/models/gemma3/modeling_gemma3.py computes it.

Embeddings times the root of the width; normalization by the root mean square, of which the parameter is what its scale
has above 1, before and behind attention and the gated feed-forward net; queries and keys normalized head by head and
then turned, by other angles in layers that see what is near than in those that see all; few heads of keys and values.
EmbeddingGemma is the same with `use_bidirectional_attention`: an encoder, whose windows reach to either side.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxft.models import blocks, decoder, heads, nn
from jaxft.models.gemma3_config import SLIDING, Config
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Params

__all__ = ["Config", "decode", "encode", "facts", "head", "param_spec"]


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        key_heads=cfg.num_key_value_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=0,
        words="model/embed_tokens",
        embeddings=("model/embed_tokens",),
        layers=tuple(f"model/layers/{i}" for i in range(cfg.num_hidden_layers)),
        rates={"attention": cfg.attention_dropout, "classifier": cfg.classifier_dropout},
        parts={"key": ("k_proj",), "value": ("v_proj",), "attention": ("o_proj",), "mlp": ("down_proj",)},
        head_size=cfg.head_dim,
        causal=cfg.causal,
        states=False,
        padding=cfg.pad_token_id,
        per_layer={"layer_types": cfg.layer_types},
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the body."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range
    queries, keys = cfg.num_attention_heads * cfg.head_dim, cfg.num_key_value_heads * cfg.head_dim
    norm = {"scale": nn.Leaf((size,), ("embed",), "zeros")}
    normed = {"scale": nn.Leaf((cfg.head_dim,), (None,), "zeros")}

    def dense(inputs: int, outputs: int, axes: tuple[str, str], bias: bool = False) -> nn.Spec:
        return nn.dense_spec(inputs, outputs, axes, std, bias)

    def layer() -> nn.Spec:
        return {
            "input_layernorm": norm,
            "self_attn": {
                "q_proj": dense(size, queries, ("embed", "heads"), cfg.attention_bias),
                "k_proj": dense(size, keys, ("embed", "kv_heads"), cfg.attention_bias),
                "v_proj": dense(size, keys, ("embed", "kv_heads"), cfg.attention_bias),
                "q_norm": normed,
                "k_norm": normed,
                "o_proj": dense(queries, size, ("heads", "embed"), cfg.attention_bias),
            },
            "post_attention_layernorm": norm,
            "pre_feedforward_layernorm": norm,
            "mlp": {
                "gate_proj": dense(size, inner, ("embed", "mlp")),
                "up_proj": dense(size, inner, ("embed", "mlp")),
                "down_proj": dense(inner, size, ("mlp", "embed")),
            },
            "post_feedforward_layernorm": norm,
        }

    return {
        "model": {
            "embed_tokens": {"embedding": nn.Leaf((cfg.vocab_size, size), ("vocab", "embed"), stddev=std)},
            "layers": {str(i): layer() for i in range(cfg.num_hidden_layers)},
            "norm": norm,
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        return heads.linear("score", size, outputs, std, drops="", bias=False)._replace(pooling="last")
    if purpose == "next" and cfg.causal:
        return heads.words(None, facts(cfg).words, (cfg.vocab_size, size), "", cfg.tie_word_embeddings, "lm_head")
    return None


def _body(params: Params, cfg: Config, batch: Batch, run: nn.Run) -> decoder.Body:
    p, longest = params["model"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    with jax.named_scope("embeddings"):
        # The root is rounded as embeddings are: 55.5 in bfloat16, where it is 55.43.
        hidden = nn.embed(p["embed_tokens"], batch["input_ids"], run.dtype)
        hidden = run.constrain(hidden * jnp.asarray(cfg.hidden_size**0.5, run.dtype), ("rows", None, None))
    each = {kind: partial(_layer, cfg, kind) for kind in {*cfg.layer_types}}  # so that each kind is traced once
    return decoder.Body(
        stream=nn.Stream.of(hidden, batch, run, longest),
        layers=[each[kind] for kind in cfg.layer_types],
        stack=[p["layers"][str(i)] for i in range(cfg.num_hidden_layers)],
        norm=partial(_norm, cfg, p["norm"]),
    )


encode, decode = decoder.reading(_body)


def _norm(cfg: Config, p: Params, x: Array) -> Array:
    return nn.rms_norm({"scale": 1 + p["scale"]}, x, cfg.rms_norm_eps)


def _layer(
    cfg: Config, kind: str, p: Params, stream: nn.Stream, at: Array | None, cache: nn.Cache | None
) -> tuple[Array, nn.Cache | None]:
    """One layer: attention and a gated feed-forward net, each normalized before and behind."""
    mlp, norm = p["mlp"], lambda name, x: _norm(cfg, p[name], x)

    def attended(x: Array, asking: nn.Stream) -> Array:
        y = norm("post_attention_layernorm", nn.dense(p["self_attn"]["o_proj"], x, asking.run))
        return asking.run.constrain(asking.x + y, ("rows", None, None))

    def fed(hidden: Array, run: nn.Run) -> Array:
        normed = norm("pre_feedforward_layernorm", hidden)
        inner = blocks.gated(mlp["gate_proj"], mlp["up_proj"], normed, cfg.hidden_activation, run)
        y = norm("post_feedforward_layernorm", nn.dense(mlp["down_proj"], inner, run))
        return run.constrain(hidden + y, ("rows", None, None))

    parts = decoder.Parts(
        normed=partial(norm, "input_layernorm"),
        project=partial(_project, p["self_attn"], cfg, kind),
        attended=attended,
        mlp=fed,
        sight=cfg.sight(kind),
    )
    return decoder.layer(parts, stream, at, cache)


def _project(p: Params, cfg: Config, kind: str, told: nn.Stream, at: Array | None) -> tuple[Array, Array, Array]:
    """Queries, and keys and values of fewer heads; queries are made so that scores are as config.json says."""
    asking, turn = told.pick(at), cfg.ropes[kind == SLIDING]

    def project(name: str, stream: nn.Stream, count: int, axis: str) -> Array:
        return nn.split_heads(nn.dense(p[name], stream.x, stream.run), count, stream.run, axis)

    def placed(x: Array, name: str, stream: nn.Stream) -> Array:
        return nn.Rotation.of(stream.positions, cfg.head_dim, turn)(_norm(cfg, p[name], x))

    query = placed(project("q_proj", asking, cfg.num_attention_heads, "heads"), "q_norm", asking)
    key = placed(project("k_proj", told, cfg.num_key_value_heads, "kv_heads"), "k_norm", told)
    value = project("v_proj", told, cfg.num_key_value_heads, "kv_heads")
    return query * (cfg.head_dim / cfg.query_pre_attn_scalar) ** 0.5, key, value
