"""ModernBERT (Warner et al. 2024), as transformers/models/modernbert/modeling_modernbert.py computes it.

Also mmBERT and the encoders of Ettin. No embeddings of positions, which turn queries and keys instead; normalization
comes before attention and the feed-forward net, which is gated; most layers see `local_attention / 2` tokens to either
side, every third one all of them, and the two kinds have angles of their own. Query, key and value are one matrix.
"""

from functools import partial

import jax
import jax.numpy as jnp

from jaxft.models import blocks, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.models.modernbert_config import DROPOUTS, FULL, SLIDING, Config
from jaxft.types import Array, Batch, Float, Int, Params

__all__ = ["Config", "encode", "facts", "head", "param_spec"]


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=0,
        words="model/embeddings/tok_embeddings",
        embeddings=("model/embeddings",),
        layers=tuple(f"model/layers/{i}" for i in range(cfg.num_hidden_layers)),
        rates={name: getattr(cfg, f"{name}_dropout") for name in DROPOUTS},
        parts={"attention": ("attn/Wo",), "mlp": ("mlp/Wo",)},
        states=False,
        per_layer={"layer_types": cfg.layer_types},
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder; the kernel of `Wqkv` holds query, key and value side by side."""
    size = cfg.hidden_size
    fused = nn.dense_spec(size, 3 * size, ("embed", "heads"), cfg.initializer_range, cfg.attention_bias)
    return body_spec(cfg, {"Wqkv": fused})


def body_spec(cfg: Config, projections: nn.Spec) -> nn.Spec:
    """Declares every parameter of a body whose layers make queries, keys and values by these dense layers."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range
    out = std / (2 * cfg.num_hidden_layers) ** 0.5
    norm = nn.layer_norm_spec(size, cfg.norm_bias)

    def layer(first: bool) -> nn.Spec:
        return {
            **({} if first else {"attn_norm": norm}),
            "attn": {**projections, "Wo": nn.dense_spec(size, size, ("heads", "embed"), out, cfg.attention_bias)},
            "mlp_norm": norm,
            "mlp": {
                "Wi": nn.dense_spec(size, 2 * inner, ("embed", "mlp"), std, cfg.mlp_bias),
                "Wo": nn.dense_spec(inner, size, ("mlp", "embed"), out, cfg.mlp_bias),
            },
        }

    table = nn.Leaf((cfg.vocab_size, size), ("vocab", "embed"), stddev=std)
    return {
        "model": {
            "embeddings": {"tok_embeddings": {"embedding": table}, "norm": norm},
            "layers": {str(i): layer(i == 0) for i in range(cfg.num_hidden_layers)},
            "final_norm": norm,
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std, below = cfg.hidden_size, cfg.initializer_range, transformed(cfg, "head")
    if purpose in ("text", "choice"):
        pooling = "mean" if cfg.classifier_pooling == "mean" else "first"
        return heads.over(below, heads.linear("classifier", size, outputs, std)._replace(pooling=pooling))
    if purpose in ("token", "span"):
        return heads.over(below, heads.linear("classifier", size, outputs if purpose == "token" else 2, std))
    return words(cfg, below) if purpose == "word" else None


def transformed(cfg: Config, path: str) -> Head:
    """Returns what all heads have below: a dense layer and its normalization, at a path."""
    sizes, biases = (cfg.hidden_size, cfg.hidden_size), (cfg.classifier_bias, cfg.norm_bias)
    act, std = cfg.classifier_activation, cfg.initializer_range
    return heads.transformed(f"{path}/dense", f"{path}/norm", act, sizes, std, cfg.norm_eps, biases)


def words(cfg: Config, below: Head) -> Head:
    """Returns the scores of words."""
    bias, sizes = "decoder/bias" if cfg.decoder_bias else "", (cfg.vocab_size, cfg.hidden_size)
    return heads.words(below, facts(cfg).words, sizes, bias, cfg.tie_word_embeddings, "decoder")


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, stream = params["model"], embedded(params["model"]["embeddings"], cfg, batch, run)
    # One function for each kind of layer, so that each kind is traced once.
    kinds = {
        FULL: partial(_layer, cfg, 0, cfg.thetas[0]),
        SLIDING: partial(_layer, cfg, cfg.local_attention // 2, cfg.thetas[1]),
    }
    stack = [p["layers"][str(i)] for i in range(cfg.num_hidden_layers)]
    x = blocks.through([kinds[kind] for kind in cfg.layer_types], stack, stream, at)
    return nn.layer_norm(p["final_norm"], x, cfg.norm_eps)


def embedded(p: Params, cfg: Config, batch: Batch, run: nn.Run) -> nn.Stream:
    """Returns the tokens of a batch with their embeddings, normalized."""
    longest = facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    with jax.named_scope("embeddings"):
        hidden = nn.embed(p["tok_embeddings"], batch["input_ids"], run.dtype)
        hidden = nn.layer_norm(p["norm"], run.constrain(hidden, ("rows", None, None)), cfg.norm_eps)
        return nn.Stream.of(run.fold(0).drop(hidden, "embedding"), batch, run, longest)


def _layer(cfg: Config, window: int, theta: float, p: Params, stream: nn.Stream, at: Array | None) -> Array:
    """One layer, of all tokens or of those at `at`: attention and a gated feed-forward net, each normalized before."""
    asking = stream.pick(at)
    with jax.named_scope("attention"):
        told, rope = stream.put(normed(cfg, p, stream.x), stream.run.key), nn.Rope(theta)
        x = blocks.fused_attention(p["attn"]["Wqkv"], cfg.num_attention_heads, rope, told, at, nn.Sight(window))
        hidden = attended(p["attn"]["Wo"], x, asking)
    with jax.named_scope("mlp"):
        return fed(cfg, p, hidden, asking.run)


def normed(cfg: Config, p: Params, x: Float[Array, "rows length width"]) -> Float[Array, "rows length width"]:
    """Computes what attention reads; the first layer has no normalization: embeddings have just been normalized."""
    return nn.layer_norm(p["attn_norm"], x, cfg.norm_eps) if "attn_norm" in p else x


def attended(p: Params, x: Float[Array, "rows places width"], asking: nn.Stream) -> Float[Array, "rows places width"]:
    """Computes what is behind attention: a dense layer, and the hidden states from before added."""
    run = asking.run
    return run.constrain(asking.x + run.drop(nn.dense(p, x, run), "attention", site=1), ("rows", None, None))


def fed(
    cfg: Config, p: Params, hidden: Float[Array, "rows places width"], run: nn.Run
) -> Float[Array, "rows places width"]:
    """Computes a gated feed-forward net, normalized before, and adds it."""
    inner = nn.dense(p["mlp"]["Wi"], nn.layer_norm(p["mlp_norm"], hidden, cfg.norm_eps), run)
    value, gate = jnp.split(inner, 2, axis=-1)
    gated = run.drop(nn.ACTIVATIONS[cfg.hidden_activation](value) * gate, "mlp", site=2)
    added = nn.dense(p["mlp"]["Wo"], run.constrain(gated, ("rows", None, "mlp")), run)
    return run.constrain(hidden + added, ("rows", None, None))
