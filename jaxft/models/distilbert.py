"""DistilBERT (Sanh et al. 2019), as transformers/models/distilbert/modeling_distilbert.py computes it.

BERT's layers under other names, half as many; without token types, and without dropout of what attention adds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.models import blocks, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params

EPS = 1e-12
"""Of every normalization: config.json has no key for it."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json."""

    prefix: ClassVar[str] = "distilbert"
    hf_name: ClassVar[str] = "DistilBert"

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json. Raises UserError as `jaxft.models.blocks.check_config`."""
        cfg = blocks.read_config(cls, hf)
        blocks.check_config(hf, cfg.activation, cfg.dim, cfg.n_heads)
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        names = ("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout")
        return dataclasses.replace(self, **dict.fromkeys(names, rate))


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.dim,
        heads=cfg.n_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=0,
        words="distilbert/embeddings/word_embeddings",
        embeddings=("distilbert/embeddings",),
        layers=tuple(f"distilbert/transformer/layer/{i}" for i in range(cfg.n_layers)),
        rates={
            "hidden": cfg.dropout,
            "attention": cfg.attention_dropout,
            "classifier": cfg.seq_classif_dropout,
            "answers": cfg.qa_dropout,
        },
        parts={"key": ("k_lin",), "value": ("v_lin",), "attention": ("out_lin",), "mlp": ("ffn/lin2",)},
        inner_key="hidden_dim",
        depth_key="n_layers",
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder."""

    def layer() -> nn.Spec:
        own = blocks.post_norm_specs(cfg.dim, cfg.hidden_dim, cfg.initializer_range)
        return {
            "attention": {
                **{f"{name[0]}_lin": own[name] for name in ("query", "key", "value")},
                "out_lin": own["attended"],
            },
            "sa_layer_norm": own["attended_norm"],
            "ffn": {"lin1": own["inner"], "lin2": own["outer"]},
            "output_layer_norm": own["norm"],
        }

    tables = cfg.vocab_size, cfg.max_position_embeddings
    return {
        "distilbert": {
            "embeddings": blocks.embeddings_spec(cfg.dim, cfg.initializer_range, *tables),
            "transformer": {"layer": {str(i): layer() for i in range(cfg.n_layers)}},
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.dim, cfg.initializer_range
    if purpose in ("text", "choice"):
        return heads.behind("pre_classifier", "relu", heads.linear("classifier", size, outputs, std), size, std)
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std, drops="hidden")
    if purpose == "span":
        return heads.linear("qa_outputs", size, 2, std, drops="answers")
    if purpose == "word":
        paths = "vocab_transform", "vocab_layer_norm"
        below = heads.transformed(*paths, cfg.activation, (size, size), std, EPS, (True, True))
        scored, own = (cfg.vocab_size, size), "vocab_projector"
        return heads.words(below, facts(cfg).words, scored, "vocab_projector/bias", cfg.tie_word_embeddings, own)
    return None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params["distilbert"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    hidden = blocks.embed(p["embeddings"], batch, run.fold(0), EPS)
    stream = nn.Stream.of(hidden, batch, run, longest)

    def layer(p: Params, stream: nn.Stream, at: Array | None) -> Array:
        return blocks.post_norm(_parts(p, cfg), stream, at)

    stack = [p["transformer"]["layer"][str(i)] for i in range(cfg.n_layers)]
    return blocks.through(layer, stack, stream, at)


def _parts(p: Params, cfg: Config) -> blocks.PostNorm:
    return blocks.PostNorm(
        query=p["attention"]["q_lin"],
        key=p["attention"]["k_lin"],
        value=p["attention"]["v_lin"],
        attended=p["attention"]["out_lin"],
        attended_norm=p["sa_layer_norm"],
        inner=p["ffn"]["lin1"],
        outer=p["ffn"]["lin2"],
        norm=p["output_layer_norm"],
        heads=cfg.n_heads,
        act=cfg.activation,
        eps=EPS,
        drops=("", "hidden"),
    )
