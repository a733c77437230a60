"""GTE (Zhang et al. 2024, mGTE), as transformers/models/gte/modeling_gte.py computes it.

BERT with rotary positions and a gated feed-forward net. Parameters are named as on the Hub, where query, key and value
are one matrix and so are the two of the gated net (transformers/conversion_mapping.py). Type `new` is the same, as the
code on the Hub (Alibaba-NLP/new-impl) has it: names and classes begin with new, and ntk is one more scaling.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.models import blocks, heads, nn, rope
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params

COMPUTED = {
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "pack_qkv": True,
    "logn_attention_scale": False,
}
"""Keys of the code on the Hub -> the value that is computed here."""

THETA = {"gte": 160_000.0, "new": 10_000.0}
"""`model_type` -> theta of the rotation where config.json has none."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      rope: see `jaxft.models.rope.read`.
    """

    model_type: str = "gte"
    vocab_size: int = 250048
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float | None = None
    max_position_embeddings: int = 8192
    type_vocab_size: int = 1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    rope: nn.Rope = nn.Rope(160_000.0)
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json, with the keys of transformers 5 or those of the code on the Hub.

        Raises:
          UserError: as `jaxft.models.blocks.check_config`, `check_values` and `rope.read`.
        """
        blocks.check_values(hf, COMPUTED)
        cfg = blocks.read_config(cls, hf)
        blocks.check_config(hf, cfg.hidden_act, cfg.hidden_size, cfg.num_attention_heads, absolute=False)
        dim = cfg.hidden_size // cfg.num_attention_heads
        theta = THETA[cfg.model_type]
        return dataclasses.replace(cfg, rope=rope.read(_plain(hf, theta, dim), theta, dim))

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        return dataclasses.replace(self, **dict.fromkeys(names, rate))

    @property
    def prefix(self) -> str:
        """The body's name in the parameter tree."""
        return self.model_type

    @property
    def hf_name(self) -> str:
        """What the names of its Hugging Face classes begin with."""
        return self.model_type.capitalize()


def _plain(hf: Mapping[str, Any], theta: float, dim: int) -> Mapping[str, Any]:
    """The config with ntk scaling by f, of texts of any length, as what it is: f theta, and angles / f^(2 / dim)."""
    scaling = hf.get("rope_scaling") or {}
    if scaling.get("type", scaling.get("rope_type")) != "ntk":
        return hf
    blocks.check_values(scaling, {"mixed_b": None})
    factor = float(scaling["factor"])
    linear = {"rope_type": "linear", "factor": factor ** (2 / dim)}
    return {**hf, "rope_theta": factor * hf.get("rope_theta", theta), "rope_scaling": linear}


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=cfg.type_vocab_size,
        words=f"{cfg.prefix}/embeddings/word_embeddings",
        embeddings=(f"{cfg.prefix}/embeddings",),
        layers=tuple(f"{cfg.prefix}/encoder/layer/{i}" for i in range(cfg.num_hidden_layers)),
        rates={
            "hidden": cfg.hidden_dropout_prob,
            "attention": cfg.attention_probs_dropout_prob,
            "classifier": cfg.hidden_dropout_prob if cfg.classifier_dropout is None else cfg.classifier_dropout,
        },
        parts={"attention": ("attention/o_proj",), "mlp": ("mlp/down_proj",)},
        states=False,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder, without a pooler; `qkv_proj` and `up_gate_proj` are side by side."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range
    norm = nn.layer_norm_spec(size)

    def layer() -> nn.Spec:
        return {
            "attention": {
                "qkv_proj": nn.dense_spec(size, 3 * size, ("embed", "heads"), std),
                "o_proj": nn.dense_spec(size, size, ("heads", "embed"), std),
            },
            "attn_ln": norm,
            "mlp": {
                "up_gate_proj": nn.dense_spec(size, 2 * inner, ("embed", "mlp"), std, bias=False),
                "down_proj": nn.dense_spec(inner, size, ("mlp", "embed"), std),
            },
            "mlp_ln": norm,
        }

    return {
        cfg.prefix: {
            "embeddings": blocks.embeddings_spec(size, std, cfg.vocab_size, types=cfg.type_vocab_size),
            "encoder": {"layer": {str(i): layer() for i in range(cfg.num_hidden_layers)}},
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        top = heads.linear("classifier", size, outputs, std)
        return heads.behind(f"{cfg.prefix}/pooler/dense", "tanh", top, size, std)
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std)
    if purpose == "word":
        paths = "lm_head/dense", "lm_head/norm"
        below = heads.transformed(*paths, "gelu", (size, size), std, cfg.layer_norm_eps, (True, True))
        scored, own = (cfg.vocab_size, size), "lm_head/decoder"
        return heads.words(below, facts(cfg).words, scored, "lm_head/decoder/bias", cfg.tie_word_embeddings, own)
    return None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params[cfg.prefix], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    hidden = blocks.embed(p["embeddings"], batch, run.fold(0), cfg.layer_norm_eps)
    stream = nn.Stream.of(hidden, batch, run, longest)
    stack = [p["encoder"]["layer"][str(i)] for i in range(cfg.num_hidden_layers)]
    return blocks.through(partial(_layer, cfg), stack, stream, at)


def _layer(cfg: Config, p: Params, stream: nn.Stream, at: Array | None) -> Array:
    """One layer, of all tokens or of those at `at`: attention and a gated net, each added and normalized."""
    before, attention, mlp, eps = stream.pick(at), p["attention"], p["mlp"], cfg.layer_norm_eps
    run = before.run
    with jax.named_scope("attention"):
        attended = blocks.fused_attention(attention["qkv_proj"], cfg.num_attention_heads, cfg.rope, stream, at)
        hidden = blocks.add_norm(attention["o_proj"], p["attn_ln"], attended, before.x, run, eps, site=1)
    with jax.named_scope("mlp"):
        value, gate = jnp.split(nn.dense(mlp["up_gate_proj"], hidden, run), 2, axis=-1)
        inner = run.drop(nn.ACTIVATIONS[cfg.hidden_act](gate) * value, "hidden", site=3)
        inner = run.constrain(inner, ("rows", None, "mlp"))
        return blocks.add_norm(mlp["down_proj"], p["mlp_ln"], inner, hidden, run, eps, site=2)
