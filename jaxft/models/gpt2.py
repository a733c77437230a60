"""GPT-2 (Radford et al. 2019), as transformers/models/gpt2/modeling_gpt2.py computes it; DistilGPT2 too.

Each token sees itself and those before it; positions have embeddings; normalization comes before attention and the
feed-forward net. Query, key and value are one matrix; checkpoints store the matrices of layers as `[inputs, outputs]`.
Token types, which its tokenizer does not give, are not read.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax

from jaxft.models import blocks, decoder, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Params

COMPUTED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
"""Keys of config.json -> the value that is computed here."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json."""

    prefix: ClassVar[str] = "transformer"
    hf_name: ClassVar[str] = "GPT2"
    hf_heads: ClassVar[Mapping[str, str]] = {"ForCausalLM": "LMHeadModel"}

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    classifier_dropout: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json. Raises UserError as `jaxft.models.blocks.check_config` and `check_values`."""
        blocks.check_values(hf, COMPUTED)
        cfg = blocks.read_config(cls, hf, classifier_dropout=heads.rate_of(hf, cls.classifier_dropout))
        blocks.check_config(hf, cfg.activation_function, cfg.n_embd, cfg.n_head)
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        names = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout")
        return dataclasses.replace(self, **dict.fromkeys(names, rate))


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.n_embd,
        heads=cfg.n_head,
        vocabulary=cfg.vocab_size,
        longest=cfg.n_positions,
        segment_types=0,
        words="transformer/wte",
        embeddings=("transformer/wte", "transformer/wpe"),
        layers=tuple(f"transformer/h/{i}" for i in range(cfg.n_layer)),
        rates={
            "embedding": cfg.embd_pdrop,
            "attention": cfg.attn_pdrop,
            "residual": cfg.resid_pdrop,
            "classifier": cfg.classifier_dropout,
        },
        parts={"attention": ("attn/c_proj",), "mlp": ("mlp/c_proj",)},
        causal=True,
        states=False,
        inner_key="n_inner",
        depth_key="n_layer",
        padding=cfg.pad_token_id,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the body; the kernel of `c_attn` holds query, key and value side by side."""
    size, std = cfg.n_embd, cfg.initializer_range
    inner, out = cfg.n_inner or 4 * size, std / (2 * cfg.n_layer) ** 0.5
    norm = nn.layer_norm_spec(size)

    def layer() -> nn.Spec:
        return {
            "ln_1": norm,
            "attn": {
                "c_attn": nn.dense_spec(size, 3 * size, ("embed", "heads"), std),
                "c_proj": nn.dense_spec(size, size, ("heads", "embed"), out),
            },
            "ln_2": norm,
            "mlp": {
                "c_fc": nn.dense_spec(size, inner, ("embed", "mlp"), std),
                "c_proj": nn.dense_spec(inner, size, ("mlp", "embed"), out),
            },
        }

    return {
        "transformer": {
            "wte": {"embedding": nn.Leaf((cfg.vocab_size, size), ("vocab", "embed"), stddev=std)},
            "wpe": {"embedding": nn.Leaf((cfg.n_positions, size), (None, "embed"), stddev=std)},
            "h": {str(i): layer() for i in range(cfg.n_layer)},
            "ln_f": norm,
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.n_embd, cfg.initializer_range
    if purpose == "text":
        return heads.linear("score", size, outputs, std, drops="", bias=False)._replace(pooling="last")
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std)
    if purpose == "span":
        return heads.linear("qa_outputs", size, 2, std, drops="")
    if purpose == "next":
        return heads.words(None, facts(cfg).words, (cfg.vocab_size, size), "", cfg.tie_word_embeddings, "lm_head")
    return None


def _body(params: Params, cfg: Config, batch: Batch, run: nn.Run) -> decoder.Body:
    p, longest = params["transformer"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    with jax.named_scope("embeddings"):
        hidden = nn.embed(p["wte"], batch["input_ids"], run.dtype) + nn.embed(p["wpe"], batch["positions"], run.dtype)
        hidden = run.fold(0).drop(run.constrain(hidden, ("rows", None, None)), "embedding")
    return decoder.Body(
        stream=nn.Stream.of(hidden, batch, run, longest),
        layers=[partial(_layer, cfg)] * cfg.n_layer,
        stack=[p["h"][str(i)] for i in range(cfg.n_layer)],
        norm=lambda x: nn.layer_norm(p["ln_f"], x, cfg.layer_norm_epsilon),
    )


encode, decode = decoder.reading(_body)


def _layer(
    cfg: Config, p: Params, stream: nn.Stream, at: Array | None, cache: nn.Cache | None
) -> tuple[Array, nn.Cache | None]:
    """One layer: attention and a feed-forward net, each normalized before."""
    eps = cfg.layer_norm_epsilon

    def added(dense: Params, x: Array, residual: Array, run: nn.Run, site: int) -> Array:
        return run.constrain(residual + run.drop(nn.dense(dense, x, run), "residual", site), ("rows", None, None))

    def project(told: nn.Stream, at: Array | None) -> tuple[Array, Array, Array]:
        query, key, value = blocks.fused_projections(p["attn"]["c_attn"], cfg.n_head, told)
        return query if at is None else nn.pick(query, at), key, value

    def fed(hidden: Array, run: nn.Run) -> Array:
        inner = nn.dense(p["mlp"]["c_fc"], nn.layer_norm(p["ln_2"], hidden, eps), run)
        inner = run.constrain(nn.ACTIVATIONS[cfg.activation_function](inner), ("rows", None, "mlp"))
        return added(p["mlp"]["c_proj"], inner, hidden, run, site=2)

    parts = decoder.Parts(
        normed=lambda x: nn.layer_norm(p["ln_1"], x, eps),
        project=project,
        attended=lambda x, asking: added(p["attn"]["c_proj"], x, asking.x, asking.run, site=1),
        mlp=fed,
        sight=nn.Sight(causal=True),
    )
    return decoder.layer(parts, stream, at, cache)
