"""MPNet (Song et al. 2020), as transformers/models/mpnet/modeling_mpnet.py computes it.

BERT's layers under other names, without token types. Positions are counted from 2, as in RoBERTa; and to the scores of
every layer the same learned number is added, by head and by a bucket of the distance, as in T5 (Raffel et al. 2020).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from jaxft.errors import UserError
from jaxft.models import blocks, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params

FIRST_POSITION = 2
"""The row of the position table that an example's first token takes, whatever id is padding."""

BUCKETS, FARTHEST = 32, 128
"""Of distances: how many buckets, and the distance from which on all fall into the last."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json."""

    prefix: ClassVar[str] = "mpnet"
    hf_name: ClassVar[str] = "MPNet"

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    relative_attention_num_buckets: int = BUCKETS
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json. Raises UserError as `jaxft.models.blocks.check_config`, or for too few buckets."""
        cfg = blocks.read_config(cls, hf)
        blocks.check_config(hf, cfg.hidden_act, cfg.hidden_size, cfg.num_attention_heads)
        if cfg.relative_attention_num_buckets < BUCKETS:
            raise UserError(f"config.json: relative_attention_num_buckets must be {BUCKETS} or more")
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(self, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings - FIRST_POSITION,
        segment_types=0,
        words="mpnet/embeddings/word_embeddings",
        embeddings=("mpnet/embeddings", "mpnet/encoder/relative_attention_bias"),
        layers=tuple(f"mpnet/encoder/layer/{i}" for i in range(cfg.num_hidden_layers)),
        rates={"hidden": cfg.hidden_dropout_prob, "attention": cfg.attention_probs_dropout_prob},
        parts={"key": ("attn/k",), "value": ("attn/v",), "attention": ("attn/o",), "mlp": ("output/dense",)},
        states=False,
        distances=True,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder, without a pooler."""
    std, buckets = cfg.initializer_range, (cfg.relative_attention_num_buckets, cfg.num_attention_heads)

    def layer() -> nn.Spec:
        own = blocks.post_norm_specs(cfg.hidden_size, cfg.intermediate_size, std)
        projections = {name[0]: own[name] for name in ("query", "key", "value")}
        return {
            "attention": {"attn": {**projections, "o": own["attended"]}, "LayerNorm": own["attended_norm"]},
            "intermediate": {"dense": own["inner"]},
            "output": {"dense": own["outer"], "LayerNorm": own["norm"]},
        }

    tables = cfg.vocab_size, cfg.max_position_embeddings
    return {
        "mpnet": {
            "embeddings": blocks.embeddings_spec(cfg.hidden_size, std, *tables),
            "encoder": {
                "layer": {str(i): layer() for i in range(cfg.num_hidden_layers)},
                "relative_attention_bias": {"embedding": nn.Leaf(buckets, (None, "heads"), stddev=std)},
            },
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        top = heads.linear("classifier/out_proj", size, outputs, std, drops="hidden")
        return heads.behind("classifier/dense", "tanh", top, size, std, drops="hidden")
    if purpose == "choice":
        top = heads.linear("classifier", size, outputs, std, drops="hidden")
        return heads.behind("mpnet/pooler/dense", "tanh", top, size, std)
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std, drops="hidden")
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
    p, longest = params["mpnet"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    hidden = blocks.embed(p["embeddings"], batch, run.fold(0), cfg.layer_norm_eps, FIRST_POSITION)
    stream = nn.Stream.of(hidden, batch, run, longest)

    # The tokens of an example lie side by side: the distance of two of them is that of their places, in every row.
    length = hidden.shape[1]
    numbers = nn.of_distances(buckets, length, longest)
    added = nn.embed(p["encoder"]["relative_attention_bias"], numbers, run.dtype)
    bias = nn.toeplitz(added.T, length)

    def layer(p: Params, stream: nn.Stream, at: Array | None) -> Array:
        own = bias[None] if at is None else bias[:, at].swapaxes(0, 1)
        return blocks.post_norm(_parts(p, cfg), stream, at, lambda query, key: own)

    stack = [p["encoder"]["layer"][str(i)] for i in range(cfg.num_hidden_layers)]
    return blocks.through(layer, stack, stream, at)


def buckets(distances: np.ndarray) -> np.ndarray:
    """Returns the bucket of each distance, place that asks - place that is asked: half of them for each direction.

    Those of small distances hold one each, of others the wider the further away, on a logarithmic scale, in float32.
    """
    half, far = BUCKETS // 2, np.abs(distances)
    exact = half // 2
    log = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(FARTHEST / exact))
    wide = np.minimum(exact + (log * np.float32(half - exact)).astype(np.int32), half - 1)
    return np.where(distances < 0, half, 0) + np.where(far < exact, far, wide)


def _parts(p: Params, cfg: Config) -> blocks.PostNorm:
    attention = p["attention"]["attn"]
    return blocks.PostNorm(
        query=attention["q"],
        key=attention["k"],
        value=attention["v"],
        attended=attention["o"],
        attended_norm=p["attention"]["LayerNorm"],
        inner=p["intermediate"]["dense"],
        outer=p["output"]["dense"],
        norm=p["output"]["LayerNorm"],
        heads=cfg.num_attention_heads,
        act=cfg.hidden_act,
        eps=cfg.layer_norm_eps,
    )
