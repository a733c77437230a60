"""DeBERTa v2 and v3 (He et al. 2021), as transformers/models/deberta_v2/modeling_deberta_v2.py computes them.

BERT's layers under other names, with disentangled attention: beside the product of query and key, a score has that of
the query with the embedding of the distance, and that of the key with it. Distances fall into buckets, on a logarithmic
scale; their embeddings are one table, projected in each layer as queries and keys are.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from jaxft.errors import UserError
from jaxft.models import bert, blocks, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params

PROJECTIONS = ("query_proj", "key_proj", "value_proj")
"""Names of the dense layers that attention begins with."""


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """As `jaxft.models.bert.Config`, and what distances are.

    Attributes:
      pos_att_type: which products with distances there are: c2p that of the query, p2c that of the key.
    """

    prefix: ClassVar[str] = "deberta"
    hf_name: ClassVar[str] = "DebertaV2"

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    type_vocab_size: int = 0
    layer_norm_eps: float = 1e-7
    relative_attention: bool = False
    max_relative_positions: int = -1
    position_buckets: int = -1
    norm_rel_ebd: str = "none"
    share_att_key: bool = False
    position_biased_input: bool = True
    pos_att_type: tuple[str, ...] = ()
    embedding_size: int | None = None
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    legacy: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json. Raises UserError as `jaxft.models.blocks.check_config`, or for a convolution."""
        types = hf.get("pos_att_type") or ()
        types = types.lower().split("|") if isinstance(types, str) else types
        types = tuple(name.strip() for name in types if name.strip())
        cfg = blocks.read_config(cls, hf, pos_att_type=types, classifier_dropout=hf.get("cls_dropout"))
        for act in (cfg.hidden_act, cfg.pooler_hidden_act):
            blocks.check_config(hf, act, cfg.hidden_size, cfg.num_attention_heads)
        if hf.get("conv_kernel_size"):
            raise UserError("config.json: conv_kernel_size is not supported (deberta-v2-xlarge); take a deberta-v3")
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(super().with_dropout(rate), pooler_dropout=rate)  # pyright: ignore

    @property
    def farthest(self) -> int:
        """The distance from which on all are alike."""
        return self.max_position_embeddings if self.max_relative_positions < 1 else self.max_relative_positions

    @property
    def span(self) -> int:
        """Entries of the table of distances for each direction."""
        return self.position_buckets if self.position_buckets > 0 else self.farthest

    @property
    def word_size(self) -> int:
        """The size of an embedding; where it is not that of the hidden states, a dense layer is between."""
        return self.embedding_size or self.hidden_size


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    found = bert.facts(cfg)
    return found._replace(
        embeddings=tuple(f"deberta/{part}" for part in ("embeddings", "encoder/rel_embeddings", "encoder/LayerNorm")),
        rates={**found.rates, "pooler": cfg.pooler_dropout},
        parts={**found.parts, "key": ("key_proj",), "value": ("value_proj",)},
        states=False,
        distances=cfg.relative_attention,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder."""
    size, std = cfg.hidden_size, cfg.initializer_range

    def layer() -> nn.Spec:
        own = bert.layer_spec(cfg, PROJECTIONS)
        if cfg.relative_attention and not cfg.share_att_key:
            names = {"c2p": "pos_key_proj", "p2c": "pos_query_proj"}
            project = nn.dense_spec(size, size, ("embed", "heads"), std)
            own["attention"]["self"] |= {name: project for kind, name in names.items() if kind in cfg.pos_att_type}
        return own

    positions = cfg.max_position_embeddings if cfg.position_biased_input else 0
    embeddings = blocks.embeddings_spec(cfg.word_size, std, cfg.vocab_size, positions, cfg.type_vocab_size)
    embeddings["LayerNorm"] = nn.layer_norm_spec(size)
    if cfg.word_size != size:
        embeddings["embed_proj"] = nn.dense_spec(cfg.word_size, size, ("embed", None), std, bias=False)
    encoder: nn.Spec = {"layer": {str(i): layer() for i in range(cfg.num_hidden_layers)}}
    if cfg.relative_attention:
        encoder["rel_embeddings"] = {"embedding": nn.Leaf((2 * cfg.span, size), (None, "embed"), stddev=std)}
    if "layer_norm" in cfg.norm_rel_ebd:
        encoder["LayerNorm"] = nn.layer_norm_spec(size)
    return {"deberta": {"embeddings": embeddings, "encoder": encoder}}


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose in ("text", "choice"):
        top = heads.linear("classifier", size, outputs, std)
        return heads.behind("pooler/dense", cfg.pooler_hidden_act, top, size, std, drops="pooler")
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std, drops="hidden")
    if purpose == "span":
        return heads.linear("qa_outputs", size, 2, std, drops="")
    if purpose == "word":
        within, norm = ("cls/predictions", "transform/") if cfg.legacy else ("lm_predictions/lm_head", "")
        paths = f"{within}/{norm}dense", f"{within}/{norm}LayerNorm"
        return bert.word_head(cfg, *paths, f"{within}/bias", f"{within}/decoder", cfg.hidden_act)
    return None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params["deberta"], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    hidden = blocks.embed(p["embeddings"], batch, run.fold(0), cfg.layer_norm_eps)
    stream = nn.Stream.of(hidden, batch, run, longest)

    # The tokens of an example lie side by side: the distance of two of them is that of their places, in every row.
    length = hidden.shape[1]
    entries = nn.of_distances(partial(distances, cfg=cfg), length, longest)

    def table(run: nn.Run) -> Array:
        """The embedding of each distance, `[1, distances, width]`; what drops out is the same for all tokens."""
        rows = nn.embed(p["encoder"]["rel_embeddings"], entries[None], run.dtype)
        if "LayerNorm" in p["encoder"]:
            rows = nn.layer_norm(p["encoder"]["LayerNorm"], rows, cfg.layer_norm_eps)
        return run.drop(rows, "hidden", site=3)

    def layer(p: Params, stream: nn.Stream, at: Array | None) -> Array:
        parts = bert.parts(p, cfg, PROJECTIONS)._replace(scale=scale_of(cfg))
        run, dense = stream.run.over(entries[None]), p["attention"]["self"]
        own = "" if cfg.share_att_key else "pos_"

        def added(query: Array, key: Array) -> Array:
            """What distances add to the scores (He et al. 2021, eq. 4); queries have their part of the scale."""
            rows = table(run)
            of = {
                kind: nn.split_heads(nn.dense(dense[f"{own}{name}"], rows, run), cfg.num_attention_heads, run)[0]
                for kind, name in (("c2p", "key_proj"), ("p2c", "query_proj"))
                if kind in cfg.pos_att_type
            }
            scale = key.shape[-1] ** -0.5
            return nn.disentangled(query * scale, key * parts.scale * scale, of.get("c2p"), of.get("p2c"), at)

        return blocks.post_norm(parts, stream, at, added if cfg.relative_attention and cfg.pos_att_type else None)

    stack = [p["encoder"]["layer"][str(i)] for i in range(cfg.num_hidden_layers)]
    return blocks.through(layer, stack, stream, at)


def distances(apart: np.ndarray, cfg: Config) -> np.ndarray:
    """Returns the row of the table of distances for each, place that asks - place that is asked."""
    if cfg.position_buckets > 0:
        apart = nn.log_buckets(apart, cfg.position_buckets, cfg.farthest)
    return np.clip(apart + cfg.span, 0, 2 * cfg.span - 1)


def scale_of(cfg: Config) -> float:
    """Returns the factor of every product in a score, beside 1 / sqrt(dim): there are so many of them."""
    return (1 + len(cfg.pos_att_type)) ** -0.5
