"""Jina Embeddings v3 (Sturua et al. 2024), as transformers/models/jina_embeddings_v3 computes it.

XLM-RoBERTa with rotary positions in place of embeddings of them; without the LoRA adapters for tasks that come beside
the published weights. Parameters are named as on the Hub, where query, key and value are one matrix
(transformers/conversion_mapping.py).
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax

from jaxft.models import blocks, heads, nn, rope
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      rope: see `jaxft.models.rope.read`.
    """

    prefix: ClassVar[str] = "roberta"
    hf_name: ClassVar[str] = "JinaEmbeddingsV3"

    vocab_size: int = 250002
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 8194
    type_vocab_size: int = 1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    rope: nn.Rope = nn.Rope(20_000.0)
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json. Raises UserError as `jaxft.models.blocks.check_config` and `rope.read`."""
        cfg = blocks.read_config(cls, hf)
        blocks.check_config(hf, cfg.hidden_act, cfg.hidden_size, cfg.num_attention_heads, absolute=False)
        dim = cfg.hidden_size // cfg.num_attention_heads
        return dataclasses.replace(cfg, rope=rope.read(hf, cls.rope.theta, dim))

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        return dataclasses.replace(self, **dict.fromkeys(names, rate))


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=cfg.type_vocab_size,
        words="roberta/embeddings/word_embeddings",
        embeddings=("roberta/embeddings", "roberta/emb_ln"),
        layers=tuple(f"roberta/encoder/layers/{i}" for i in range(cfg.num_hidden_layers)),
        rates={
            "hidden": cfg.hidden_dropout_prob,
            "attention": cfg.attention_probs_dropout_prob,
            "classifier": cfg.hidden_dropout_prob if cfg.classifier_dropout is None else cfg.classifier_dropout,
        },
        parts={"attention": ("mixer/out_proj",), "mlp": ("mlp/fc2",)},
        states=False,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder, without a pooler; `Wqkv` holds query, key and value side by side."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range
    norm = nn.layer_norm_spec(size)

    def layer() -> nn.Spec:
        return {
            "mixer": {
                "Wqkv": nn.dense_spec(size, 3 * size, ("embed", "heads"), std),
                "out_proj": nn.dense_spec(size, size, ("heads", "embed"), std),
            },
            "norm1": norm,
            "mlp": {
                "fc1": nn.dense_spec(size, inner, ("embed", "mlp"), std),
                "fc2": nn.dense_spec(inner, size, ("mlp", "embed"), std),
            },
            "norm2": norm,
        }

    tables = blocks.embeddings_spec(size, std, cfg.vocab_size, types=cfg.type_vocab_size)
    return {
        "roberta": {
            "emb_ln": tables.pop("LayerNorm"),
            "embeddings": tables,
            "encoder": {"layers": {str(i): layer() for i in range(cfg.num_hidden_layers)}},
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        top = heads.linear("classifier/out_proj", size, outputs, std)
        return heads.behind("classifier/dense", "tanh", top, size, std, drops="classifier")
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std)
    if purpose == "span":
        return heads.linear("qa_outputs", size, 2, std, drops="")
    if purpose == "word":
        paths = "lm_head/dense", "lm_head/layer_norm"
        below = heads.transformed(*paths, "gelu", (size, size), std, cfg.layer_norm_eps, (True, True))
        scored, own = (cfg.vocab_size, size), "lm_head/decoder"
        return heads.words(below, facts(cfg).words, scored, "lm_head/bias", cfg.tie_word_embeddings, own)
    return None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params["roberta"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    hidden = blocks.embed({**p["embeddings"], "LayerNorm": p["emb_ln"]}, batch, run.fold(0), cfg.layer_norm_eps)
    stream = nn.Stream.of(hidden, batch, run, longest)
    stack = [p["encoder"]["layers"][str(i)] for i in range(cfg.num_hidden_layers)]
    return blocks.through(partial(_layer, cfg), stack, stream, at)


def _layer(cfg: Config, p: Params, stream: nn.Stream, at: Array | None) -> Array:
    """One layer, of all tokens or of those at `at`: attention and a feed-forward net, each added and normalized."""
    before, mixer, mlp, eps = stream.pick(at), p["mixer"], p["mlp"], cfg.layer_norm_eps
    run = before.run
    with jax.named_scope("attention"):
        attended = blocks.fused_attention(mixer["Wqkv"], cfg.num_attention_heads, cfg.rope, stream, at)
        hidden = blocks.add_norm(mixer["out_proj"], p["norm1"], attended, before.x, run, eps, site=1)
    with jax.named_scope("mlp"):
        inner = nn.ACTIVATIONS[cfg.hidden_act](nn.dense(mlp["fc1"], hidden, run))
        inner = run.constrain(inner, ("rows", None, "mlp"))
        return blocks.add_norm(mlp["fc2"], p["norm2"], inner, hidden, run, eps, site=2)
