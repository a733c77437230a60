"""EuroBERT (Boizard et al. 2025), as transformers/models/eurobert/modeling_eurobert.py computes it.

The layers of Llama (Touvron et al. 2023), where each token sees all of its example: normalization by the root mean
square comes before attention and the gated feed-forward net; positions turn queries and keys; several heads of queries
may share one of keys and values. The only dropout is that of attention.
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

POOLING = {"bos": "first", "mean": "mean", "late": "late"}
"""`classifier_pooling` of config.json -> that of a head here."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      num_key_value_heads, head_dim: None: as many as heads of queries; and the width divided among these.
      rope: see `jaxft.models.blocks.read_rope`.
    """

    prefix: ClassVar[str] = "model"
    hf_name: ClassVar[str] = "EuroBert"

    vocab_size: int = 128256
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    classifier_pooling: str = "late"
    rope: tuple[float, float] = (10_000.0, 1.0)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json, with the keys of transformers 4 or those of 5.

        Raises:
          UserError: as `jaxft.models.blocks.check_config` and `read_rope`; or heads or a pooling that are not computed.
        """
        cfg = blocks.read_config(cls, hf)
        blocks.check_config(hf, cfg.hidden_act, cfg.hidden_size, cfg.num_attention_heads, absolute=False)
        if cfg.key_heads < 1 or cfg.num_attention_heads % cfg.key_heads:
            raise UserError("config.json: num_attention_heads must be a multiple of num_key_value_heads")
        if cfg.classifier_pooling not in POOLING:
            raise UserError(f"config.json: classifier_pooling must be one of {', '.join(POOLING)}")
        return dataclasses.replace(cfg, rope=blocks.read_rope(hf, cls.rope[0], cfg.head_size))

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(self, attention_dropout=rate)

    @property
    def key_heads(self) -> int:
        """How many heads of keys and values there are."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_size(self) -> int:
        """The size of each head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=0,
        words="model/embed_tokens",
        embeddings=("model/embed_tokens",),
        layers=tuple(f"model/layers/{i}" for i in range(cfg.num_hidden_layers)),
        rates={"attention": cfg.attention_dropout},
        parts={"key": ("k_proj",), "value": ("v_proj",), "attention": ("o_proj",), "mlp": ("down_proj",)},
        states=False,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range
    queries, keys = cfg.num_attention_heads * cfg.head_size, cfg.key_heads * cfg.head_size
    norm = nn.layer_norm_spec(size, bias=False)

    def layer() -> nn.Spec:
        projections = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        inward, outward = ("embed", "mlp"), ("mlp", "embed")
        return {
            "input_layernorm": norm,
            "self_attn": {
                **{
                    name: nn.dense_spec(size, outputs, ("embed", "heads"), std, cfg.attention_bias)
                    for name, outputs in projections.items()
                },
                "o_proj": nn.dense_spec(queries, size, ("heads", "embed"), std, cfg.attention_bias),
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
        top = heads.linear("classifier", size, outputs, std, drops="")
        return heads.behind("dense", "gelu", top._replace(pooling=POOLING[cfg.classifier_pooling]), size, std)
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std, drops="")
    if purpose == "word":
        bias, sizes = "lm_head/bias" if cfg.mlp_bias else "", (cfg.vocab_size, size)
        return heads.words(None, facts(cfg).words, sizes, bias, cfg.tie_word_embeddings, "lm_head")
    return None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params["model"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    with jax.named_scope("embeddings"):
        hidden = run.constrain(nn.embed(p["embed_tokens"], batch["input_ids"], run.dtype), ("rows", None, None))
    stream = nn.Stream.of(hidden, batch, run, longest)
    stack = [p["layers"][str(i)] for i in range(cfg.num_hidden_layers)]
    return nn.rms_norm(p["norm"], blocks.through(partial(_layer, cfg), stack, stream, at), cfg.rms_norm_eps)


def _layer(cfg: Config, p: Params, stream: nn.Stream, at: Array | None) -> Array:
    """One layer, of all tokens or of those at `at`: attention and a gated feed-forward net, each normalized before."""
    before = stream.pick(at)
    run, mlp = before.run, p["mlp"]
    with jax.named_scope("attention"):
        told = nn.rms_norm(p["input_layernorm"], stream.x, cfg.rms_norm_eps)
        told = stream.put(stream.run.constrain(told, ("rows", None, None)), stream.run.key)
        added = nn.dense(p["self_attn"]["o_proj"], _attend(p["self_attn"], cfg, told.pick(at), told), run)
        hidden = run.constrain(before.x + added, ("rows", None, None))
    with jax.named_scope("mlp"):
        normed = nn.rms_norm(p["post_attention_layernorm"], hidden, cfg.rms_norm_eps)
        inner = blocks.gated(mlp["gate_proj"], mlp["up_proj"], normed, cfg.hidden_act, run)
        return run.constrain(hidden + nn.dense(mlp["down_proj"], inner, run), ("rows", None, None))


def _attend(p: Params, cfg: Config, asking: nn.Stream, told: nn.Stream) -> Array:
    """Attention in which groups of heads of queries share keys and values (Ainslie et al. 2023)."""

    def project(name: str, stream: nn.Stream, count: int) -> Array:
        return nn.split_heads(nn.dense(p[name], stream.x, stream.run), count, stream.run)

    def turned(x: Array, stream: nn.Stream) -> Array:
        return nn.Rotation.of(stream.positions, cfg.head_size, *cfg.rope)(x)

    query = turned(project("q_proj", asking, cfg.num_attention_heads), asking)
    key = turned(project("k_proj", told, cfg.key_heads), told)
    value = project("v_proj", told, cfg.key_heads)
    group = cfg.num_attention_heads // cfg.key_heads
    return nn.attend(query, jnp.repeat(key, group, axis=2), jnp.repeat(value, group, axis=2), asking, told)
