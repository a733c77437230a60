"""ALBERT (Lan et al. 2020), as transformers/models/albert/modeling_albert.py computes it.

BERT's layers under other names, with one set of parameters that is computed again and again (or a few such groups), and
small embeddings with a dense layer behind them. What is said of a layer, as to freeze it or of its learning rate, is
said of all the times that it is computed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.errors import UserError
from jaxft.models import blocks, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json."""

    prefix: ClassVar[str] = "albert"
    hf_name: ClassVar[str] = "Albert"

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json. Raises UserError as `jaxft.models.blocks.check_config`, or for groups of other sizes."""
        cfg = blocks.read_config(cls, hf)
        blocks.check_config(hf, cfg.hidden_act, cfg.hidden_size, cfg.num_attention_heads)
        if cfg.num_hidden_layers % cfg.num_hidden_groups:
            raise UserError("config.json: num_hidden_layers must be a multiple of num_hidden_groups")
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")
        return dataclasses.replace(self, **dict.fromkeys(names, rate))


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    groups = [f"albert/encoder/albert_layer_groups/{i}/albert_layers" for i in range(cfg.num_hidden_groups)]
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=cfg.type_vocab_size,
        words="albert/embeddings/word_embeddings",
        embeddings=("albert/embeddings", "albert/encoder/embedding_hidden_mapping_in"),
        layers=tuple(f"{group}/{i}" for group in groups for i in range(cfg.inner_group_num)),
        rates={
            "hidden": cfg.hidden_dropout_prob,
            "attention": cfg.attention_probs_dropout_prob,
            "classifier": cfg.classifier_dropout_prob,
        },
        parts={
            "key": ("attention/key",),
            "value": ("attention/value",),
            "attention": ("attention/dense",),
            "mlp": ("ffn_output",),
        },
        repeats=cfg.num_hidden_layers // cfg.num_hidden_groups,
        groups=cfg.num_hidden_groups,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder, without a pooler."""
    std, mapping = cfg.initializer_range, (cfg.embedding_size, cfg.hidden_size)

    def layer() -> nn.Spec:
        own = blocks.post_norm_specs(cfg.hidden_size, cfg.intermediate_size, std)
        projections = {name: own[name] for name in ("query", "key", "value")}
        return {
            "attention": {**projections, "dense": own["attended"], "LayerNorm": own["attended_norm"]},
            "ffn": own["inner"],
            "ffn_output": own["outer"],
            "full_layer_layer_norm": own["norm"],
        }

    def group() -> nn.Spec:
        return {"albert_layers": {str(i): layer() for i in range(cfg.inner_group_num)}}

    tables = cfg.vocab_size, cfg.max_position_embeddings, cfg.type_vocab_size
    return {
        "albert": {
            "embeddings": blocks.embeddings_spec(cfg.embedding_size, std, *tables),
            "encoder": {
                "embedding_hidden_mapping_in": nn.dense_spec(*mapping, ("embed", None), std),
                "albert_layer_groups": {str(i): group() for i in range(cfg.num_hidden_groups)},
            },
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose in ("text", "choice"):
        return heads.behind("albert/pooler", "tanh", heads.linear("classifier", size, outputs, std), size, std)
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std)
    if purpose == "span":
        return heads.linear("qa_outputs", size, 2, std, drops="")
    if purpose == "word":
        paths, sizes = ("predictions/dense", "predictions/LayerNorm"), (size, cfg.embedding_size)
        below = heads.transformed(*paths, cfg.hidden_act, sizes, std, cfg.layer_norm_eps, (True, True))
        scored, own = (cfg.vocab_size, cfg.embedding_size), "predictions/decoder"
        return heads.words(below, facts(cfg).words, scored, "predictions/bias", cfg.tie_word_embeddings, own)
    return None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params["albert"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    hidden = blocks.embed(p["embeddings"], batch, run.fold(0), cfg.layer_norm_eps)
    hidden = nn.dense(p["encoder"]["embedding_hidden_mapping_in"], hidden, run.fold(0))
    stream = nn.Stream.of(hidden, batch, run, longest)

    def layer(p: Params, stream: nn.Stream, at: Array | None) -> Array:
        return blocks.post_norm(_parts(p, cfg), stream, at)

    # The same parameters again and again, each time with dropout masks of their own.
    groups = [p["encoder"]["albert_layer_groups"][str(i)]["albert_layers"] for i in range(cfg.num_hidden_groups)]
    stack = [group[str(i)] for group in groups for _ in range(facts(cfg).repeats) for i in range(cfg.inner_group_num)]
    return blocks.through(layer, stack, stream, at)


def _parts(p: Params, cfg: Config) -> blocks.PostNorm:
    attention = p["attention"]
    return blocks.PostNorm(
        query=attention["query"],
        key=attention["key"],
        value=attention["value"],
        attended=attention["dense"],
        attended_norm=attention["LayerNorm"],
        inner=p["ffn"],
        outer=p["ffn_output"],
        norm=p["full_layer_layer_norm"],
        heads=cfg.num_attention_heads,
        act=cfg.hidden_act,
        eps=cfg.layer_norm_eps,
        drops=("hidden", ""),
    )
