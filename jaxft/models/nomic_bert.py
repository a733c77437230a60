"""Nomic BERT (Nussbaum et al. 2024), as transformers/models/nomic_bert/modeling_nomic_bert.py computes it.

BERT with rotary positions and a gated feed-forward net, without biases. Parameters are named as on the Hub, where
query, key and value are one matrix (transformers/conversion_mapping.py).
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax

from jaxft.errors import UserError, nearest
from jaxft.models import blocks, heads, nn, rope
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params

OLD = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "intermediate_size": ("n_inner",),
    "max_position_embeddings": ("max_trained_positions", "n_positions"),
    "layer_norm_eps": ("layer_norm_epsilon",),
    "hidden_dropout_prob": ("resid_pdrop",),
    "attention_probs_dropout_prob": ("attn_pdrop",),
    "classifier_dropout": ("embd_pdrop",),
    "rope_theta": ("rotary_emb_base",),
}
"""Key of transformers 5 -> those of the code on the Hub, which counts where the first is missing."""

GATED = {"swiglu": "silu", "geglu": "gelu"}
"""Its `activation_function` -> that of the gate."""

COMPUTED = {
    **dict.fromkeys(("prenorm", "parallel_block", "causal", "use_rms_norm", "rotary_emb_interleaved"), False),
    **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False),
    "rotary_emb_fraction": 1,
    "rotary_emb_scale_base": None,
    "num_experts": 0,
}
"""Its further keys -> the value that is computed here."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      rope: see `jaxft.models.rope.read`.
    """

    prefix: ClassVar[str] = "nomic_bert"
    hf_name: ClassVar[str] = "NomicBert"

    vocab_size: int = 30528
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "silu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout: float | None = None
    max_position_embeddings: int = 2048
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    rope: nn.Rope = nn.Rope(1_000.0)
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json, with the keys of transformers 5 or those of the code on the Hub.

        Raises:
          UserError: as `jaxft.models.blocks.check_config`, `check_values`, `rope.read`; or no gated feed-forward
            net, or heads of another size than the width divided among them.
        """
        blocks.check_values(hf, COMPUTED)
        act = hf.get("activation_function", "swiglu")
        if act not in GATED:
            raise UserError(f"config.json: activation_function {act!r}; {nearest(act, GATED)}")
        keys = {new: next((key for key in (new, *old) if hf.get(key) is not None), new) for new, old in OLD.items()}
        hf = {"hidden_act": GATED[act], **hf, **{new: hf[key] for new, key in keys.items() if key in hf}}
        cfg = blocks.read_config(cls, hf)
        blocks.check_config(hf, cfg.hidden_act, cfg.hidden_size, cfg.num_attention_heads, absolute=False)
        dim = cfg.hidden_size // cfg.num_attention_heads
        if (hf.get("head_dim") or dim) != dim:
            raise UserError(f"config.json: head_dim must be hidden_size / num_attention_heads, {dim}")
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
        words="nomic_bert/embeddings/word_embeddings",
        embeddings=("nomic_bert/embeddings", "nomic_bert/emb_ln"),
        layers=tuple(f"nomic_bert/encoder/layers/{i}" for i in range(cfg.num_hidden_layers)),
        rates={
            "hidden": cfg.hidden_dropout_prob,
            "attention": cfg.attention_probs_dropout_prob,
            "classifier": cfg.hidden_dropout_prob if cfg.classifier_dropout is None else cfg.classifier_dropout,
        },
        parts={"attention": ("attn/out_proj",), "mlp": ("mlp/fc2",)},
        states=False,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder, without a pooler; `Wqkv` holds query, key and value side by side."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range
    norm = nn.layer_norm_spec(size)

    def layer() -> nn.Spec:
        return {
            "attn": {
                "Wqkv": nn.dense_spec(size, 3 * size, ("embed", "heads"), std, bias=False),
                "out_proj": nn.dense_spec(size, size, ("heads", "embed"), std, bias=False),
            },
            "norm1": norm,
            "mlp": {
                "fc11": nn.dense_spec(size, inner, ("embed", "mlp"), std, bias=False),
                "fc12": nn.dense_spec(size, inner, ("embed", "mlp"), std, bias=False),
                "fc2": nn.dense_spec(inner, size, ("mlp", "embed"), std, bias=False),
            },
            "norm2": norm,
        }

    tables = blocks.embeddings_spec(size, std, cfg.vocab_size, types=cfg.type_vocab_size)
    return {
        "nomic_bert": {
            "emb_ln": tables.pop("LayerNorm"),
            "embeddings": tables,
            "encoder": {"layers": {str(i): layer() for i in range(cfg.num_hidden_layers)}},
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        top = heads.linear("classifier", size, outputs, std)
        return heads.behind("nomic_bert/pooler/dense", "tanh", top, size, std)
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std)
    if purpose == "word":
        paths = "cls/predictions/transform/dense", "cls/predictions/transform/layer_norm"
        below = heads.transformed(*paths, cfg.hidden_act, (size, size), std, cfg.layer_norm_eps, (True, True))
        scored, own = (cfg.vocab_size, size), "cls/predictions/decoder"
        return heads.words(below, facts(cfg).words, scored, "cls/predictions/bias", cfg.tie_word_embeddings, own)
    return None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params["nomic_bert"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    hidden = blocks.embed({**p["embeddings"], "LayerNorm": p["emb_ln"]}, batch, run.fold(0), cfg.layer_norm_eps)
    stream = nn.Stream.of(hidden, batch, run, longest)
    stack = [p["encoder"]["layers"][str(i)] for i in range(cfg.num_hidden_layers)]
    return blocks.through(partial(_layer, cfg), stack, stream, at)


def _layer(cfg: Config, p: Params, stream: nn.Stream, at: Array | None) -> Array:
    """One layer, of all tokens or of those at `at`: attention and a gated net, each added and normalized."""
    before, attn, mlp, eps = stream.pick(at), p["attn"], p["mlp"], cfg.layer_norm_eps
    run = before.run
    with jax.named_scope("attention"):
        attended = blocks.fused_attention(attn["Wqkv"], cfg.num_attention_heads, cfg.rope, stream, at)
        hidden = blocks.add_norm(attn["out_proj"], p["norm1"], attended, before.x, run, eps, site=1)
    with jax.named_scope("mlp"):
        inner = blocks.gated(mlp["fc12"], mlp["fc11"], hidden, cfg.hidden_act, run)
        return blocks.add_norm(mlp["fc2"], p["norm2"], inner, hidden, run, eps, site=2)
