"""ModernBERT (Warner et al. 2024), as transformers/models/modernbert/modeling_modernbert.py computes it.

Also mmBERT and the encoders of Ettin. No embeddings of positions, which turn queries and keys instead; normalization
comes before attention and the feed-forward net, which is gated; most layers see `local_attention / 2` tokens to either
side, every third one all of them, and the two kinds have angles of their own. Query, key and value are one matrix.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxft.errors import UserError
from jaxft.models import blocks, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params

FULL, SLIDING = "full_attention", "sliding_attention"
"""What layers see: the whole example, or what is near; as `layer_types` of config.json says it."""

DROPOUTS = ("attention", "embedding", "mlp", "classifier")
"""Where there is dropout: NAME_dropout of config.json is its rate."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      layer_types: `FULL` or `SLIDING` for each layer.
      thetas: of the rotation in layers of the one kind and the other.
    """

    prefix: ClassVar[str] = "model"
    hf_name: ClassVar[str] = "ModernBert"

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    local_attention: int = 128
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    tie_word_embeddings: bool = True
    layer_types: tuple[str, ...] = ()
    thetas: tuple[float, float] = (160_000.0, 10_000.0)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json, with the keys of transformers 4 or those of 5.

        Raises:
          UserError: as `jaxft.models.blocks.check_config`; or kinds of layers, rotations or a pooling that are not
            computed here.
        """
        layers, every = hf.get("num_hidden_layers", cls.num_hidden_layers), hf.get("global_attn_every_n_layers", 3)
        kinds = tuple(hf.get("layer_types") or (SLIDING if i % every else FULL for i in range(layers)))
        if len(kinds) != layers or not {*kinds} <= {FULL, SLIDING}:
            raise UserError(f"config.json: layer_types must be {FULL} or {SLIDING} for each of num_hidden_layers")
        thetas = _theta(hf, FULL, "global", cls.thetas[0]), _theta(hf, SLIDING, "local", cls.thetas[1])
        cfg = blocks.read_config(cls, hf, layer_types=kinds, thetas=thetas)
        for act in (cfg.hidden_activation, cfg.classifier_activation):
            blocks.check_config(hf, act, cfg.hidden_size, cfg.num_attention_heads, absolute=False)
        if cfg.classifier_pooling not in ("cls", "mean"):
            raise UserError("config.json: classifier_pooling must be cls or mean")
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(self, **{f"{name}_dropout": rate for name in DROPOUTS})


def _theta(hf: Mapping[str, Any], kind: str, old: str, default: float) -> float:
    """What the rotation of a kind of layers is to the power of; `old` begins its key in transformers 4."""
    own = (hf.get("rope_parameters") or {}).get(kind) or {}
    if hf.get("rope_scaling") or own.get("rope_type", "default") != "default":
        raise UserError("config.json: rope_scaling and a rope_type beside default are not supported")
    return float(own.get("rope_theta", hf.get(f"{old}_rope_theta", default)))


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
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range
    out = std / (2 * cfg.num_hidden_layers) ** 0.5
    norm = nn.layer_norm_spec(size, cfg.norm_bias)

    def layer(first: bool) -> nn.Spec:
        return {
            **({} if first else {"attn_norm": norm}),
            "attn": {
                "Wqkv": nn.dense_spec(size, 3 * size, ("embed", "heads"), std, cfg.attention_bias),
                "Wo": nn.dense_spec(size, size, ("heads", "embed"), out, cfg.attention_bias),
            },
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
    size, std = cfg.hidden_size, cfg.initializer_range
    act, biases = cfg.classifier_activation, (cfg.classifier_bias, cfg.norm_bias)
    below = heads.transformed("head/dense", "head/norm", act, (size, size), std, cfg.norm_eps, biases)
    if purpose in ("text", "choice"):
        pooling = "mean" if cfg.classifier_pooling == "mean" else "first"
        return heads.over(below, heads.linear("classifier", size, outputs, std)._replace(pooling=pooling))
    if purpose in ("token", "span"):
        return heads.over(below, heads.linear("classifier", size, outputs if purpose == "token" else 2, std))
    if purpose == "word":
        bias = "decoder/bias" if cfg.decoder_bias else ""
        return heads.words(below, facts(cfg).words, (cfg.vocab_size, size), bias, cfg.tie_word_embeddings, "decoder")
    return None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params["model"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    with jax.named_scope("embeddings"):
        hidden = nn.embed(p["embeddings"]["tok_embeddings"], batch["input_ids"], run.dtype)
        hidden = nn.layer_norm(p["embeddings"]["norm"], run.constrain(hidden, ("rows", None, None)), cfg.norm_eps)
        stream = nn.Stream.of(run.fold(0).drop(hidden, "embedding"), batch, run, longest)

    # One function for each kind of layer, so that each kind is traced once.
    kinds = {
        FULL: partial(_layer, cfg, 0, cfg.thetas[0]),
        SLIDING: partial(_layer, cfg, cfg.local_attention // 2, cfg.thetas[1]),
    }
    stack = [p["layers"][str(i)] for i in range(cfg.num_hidden_layers)]
    x = blocks.through([kinds[kind] for kind in cfg.layer_types], stack, stream, at)
    return nn.layer_norm(p["final_norm"], x, cfg.norm_eps)


def _layer(cfg: Config, window: int, theta: float, p: Params, stream: nn.Stream, at: Array | None) -> Array:
    """One layer, of all tokens or of those at `at`: attention and a gated feed-forward net, each normalized before."""
    asking = stream.pick(at)
    run = asking.run
    with jax.named_scope("attention"):
        # The first layer has no normalization of its own: embeddings have just been normalized.
        told = nn.layer_norm(p["attn_norm"], stream.x, cfg.norm_eps) if "attn_norm" in p else stream.x
        told, rope = stream.put(told, stream.run.key), nn.Rope(theta)
        attended = blocks.fused_attention(p["attn"]["Wqkv"], cfg.num_attention_heads, rope, told, at, nn.Sight(window))
        added = run.drop(nn.dense(p["attn"]["Wo"], attended, run), "attention", site=1)
        hidden = run.constrain(asking.x + added, ("rows", None, None))
    with jax.named_scope("mlp"):
        inner = nn.dense(p["mlp"]["Wi"], nn.layer_norm(p["mlp_norm"], hidden, cfg.norm_eps), run)
        value, gate = jnp.split(inner, 2, axis=-1)
        gated = run.drop(nn.ACTIVATIONS[cfg.hidden_activation](value) * gate, "mlp", site=2)
        added = nn.dense(p["mlp"]["Wo"], run.constrain(gated, ("rows", None, "mlp")), run)
        return run.constrain(hidden + added, ("rows", None, None))
