"""Llama (Touvron et al. 2023) and its kin, as transformers/models/llama/modeling_llama.py computes them.

Llama 2 and 3, SmolLM2 and TinyLlama are of type `llama`; Qwen 2 and 3, Mistral and SmolLM3 are the same under the same
names but for biases, normalized queries and keys, windows, and layers that turn nothing (`jaxft.models.llama_config`).
Each token sees itself and those before it; normalization by the root mean square comes before attention and the gated
feed-forward net; positions turn queries and keys; several heads of queries may share one of keys and values.
"""

from functools import partial

import jax

from jaxft.models import blocks, decoder, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.models.llama_config import Config
from jaxft.types import Array, Batch, Params

__all__ = ["Config", "decode", "encode", "facts", "head", "param_spec"]


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        key_heads=cfg.key_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=0,
        words="model/embed_tokens",
        embeddings=("model/embed_tokens",),
        layers=tuple(f"model/layers/{i}" for i in range(cfg.num_hidden_layers)),
        rates={"attention": cfg.attention_dropout, "classifier": cfg.classifier_dropout},
        parts={"key": ("k_proj",), "value": ("v_proj",), "attention": ("o_proj",), "mlp": ("down_proj",)},
        head_size=cfg.head_size,
        causal=cfg.causal,
        states=False,
        padding=cfg.pad_token_id,
        per_layer={
            **({"layer_types": cfg.layer_types} if cfg.layer_types else {}),
            **({"no_rope_layers": tuple(map(int, cfg.turned))} if not all(cfg.turned) else {}),
        },
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the body."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range
    queries, keys = cfg.num_attention_heads * cfg.head_size, cfg.key_heads * cfg.head_size
    norm = nn.layer_norm_spec(size, bias=False)
    normed = {"scale": nn.Leaf((cfg.head_size,), (None,), "ones")}

    def layer() -> nn.Spec:
        projections = {"q_proj": (queries, "heads"), "k_proj": (keys, "kv_heads"), "v_proj": (keys, "kv_heads")}
        inward, outward = ("embed", "mlp"), ("mlp", "embed")
        return {
            "input_layernorm": norm,
            "self_attn": {
                **{
                    name: nn.dense_spec(size, outputs, ("embed", axis), std, cfg.attention_bias)
                    for name, (outputs, axis) in projections.items()
                },
                **({"q_norm": normed, "k_norm": normed} if cfg.qk_norm else {}),
                "o_proj": nn.dense_spec(queries, size, ("heads", "embed"), std, cfg.output_bias),
            },
            "post_attention_layernorm": norm,
            "mlp": {
                "gate_proj": nn.dense_spec(size, inner, inward, std, cfg.mlp_bias),
                "up_proj": nn.dense_spec(size, inner, inward, std, cfg.mlp_bias),
                "down_proj": nn.dense_spec(inner, size, outward, std, cfg.mlp_bias),
            },
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
    if purpose == "token":
        return heads.linear("score", size, outputs, std)
    if purpose == "next":
        return heads.words(None, facts(cfg).words, (cfg.vocab_size, size), "", cfg.tie_word_embeddings, "lm_head")
    return None


def _body(params: Params, cfg: Config, batch: Batch, run: nn.Run) -> decoder.Body:
    p, longest = params["model"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    with jax.named_scope("embeddings"):
        hidden = run.constrain(nn.embed(p["embed_tokens"], batch["input_ids"], run.dtype), ("rows", None, None))
    # One function for each kind of layer, so that each kind is traced once.
    kinds = list(zip(cfg.windows, cfg.turned, strict=True))
    each = {kind: partial(_layer, cfg, *kind) for kind in kinds}
    return decoder.Body(
        stream=nn.Stream.of(hidden, batch, run, longest),
        layers=[each[kind] for kind in kinds],
        stack=[p["layers"][str(i)] for i in range(cfg.num_hidden_layers)],
        norm=lambda x: nn.rms_norm(p["norm"], x, cfg.rms_norm_eps),
    )


encode, decode = decoder.reading(_body)


def _layer(
    cfg: Config, window: int, turned: bool, p: Params, stream: nn.Stream, at: Array | None, cache: nn.Cache | None
) -> tuple[Array, nn.Cache | None]:
    """One layer: attention and a gated feed-forward net, each normalized before."""
    mlp = p["mlp"]

    def attended(x: Array, asking: nn.Stream) -> Array:
        run = asking.run
        return run.constrain(asking.x + nn.dense(p["self_attn"]["o_proj"], x, run), ("rows", None, None))

    def fed(hidden: Array, run: nn.Run) -> Array:
        normed = nn.rms_norm(p["post_attention_layernorm"], hidden, cfg.rms_norm_eps)
        inner = blocks.gated(mlp["gate_proj"], mlp["up_proj"], normed, cfg.hidden_act, run)
        return run.constrain(hidden + nn.dense(mlp["down_proj"], inner, run), ("rows", None, None))

    parts = decoder.Parts(
        normed=lambda x: nn.rms_norm(p["input_layernorm"], x, cfg.rms_norm_eps),
        project=partial(_project, p["self_attn"], cfg, turned),
        attended=attended,
        mlp=fed,
        sight=nn.Sight(window, cfg.causal),
    )
    return decoder.layer(parts, stream, at, cache)


def _project(p: Params, cfg: Config, turned: bool, told: nn.Stream, at: Array | None) -> tuple[Array, Array, Array]:
    """Queries, and keys and values of fewer heads, several heads of queries sharing one (Ainslie et al. 2023)."""

    def project(name: str, stream: nn.Stream, count: int, axis: str) -> Array:
        return nn.split_heads(nn.dense(p[name], stream.x, stream.run), count, stream.run, axis)

    def placed(x: Array, norm: str, stream: nn.Stream) -> Array:
        """Queries or keys, normalized and turned where the layer does so."""
        x = nn.rms_norm(p[norm], x, cfg.rms_norm_eps) if cfg.qk_norm else x
        return nn.Rotation.of(stream.positions, cfg.head_size, cfg.rope)(x) if turned else x

    asking = told.pick(at)
    query = placed(project("q_proj", asking, cfg.num_attention_heads, "heads"), "q_norm", asking)
    key = placed(project("k_proj", told, cfg.key_heads, "kv_heads"), "k_norm", told)
    return query, key, project("v_proj", told, cfg.key_heads, "kv_heads")
