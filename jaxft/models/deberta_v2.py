"""DeBERTa v2 and v3 (He et al. 2021), as transformers/models/deberta_v2/modeling_deberta_v2.py computes them.

BERT's layers under other names, with disentangled attention: beside the product of query and key, a score has that of
the query with the embedding of the distance, and that of the key with it. Distances fall into buckets, on a logarithmic
scale; their embeddings are one table, projected in each layer as queries and keys are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxft.errors import UserError
from jaxft.models import blocks, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

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
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    initializer_range: float = 0.02
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
    cls_dropout: float | None = None
    legacy: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json. Raises UserError as `jaxft.models.blocks.check_config`, or for a convolution."""
        types = hf.get("pos_att_type") or ()
        types = types.lower().split("|") if isinstance(types, str) else types
        types = tuple(name.strip() for name in types if name.strip())
        cfg = blocks.read_config(cls, hf, pos_att_type=types)
        for act in (cfg.hidden_act, cfg.pooler_hidden_act):
            blocks.check_config(hf, act, cfg.hidden_size, cfg.num_attention_heads)
        if hf.get("conv_kernel_size"):
            raise UserError("config.json: conv_kernel_size is not supported (deberta-v2-xlarge); take a deberta-v3")
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        names = ("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "cls_dropout")
        return dataclasses.replace(self, **dict.fromkeys(names, rate))

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
        """The size of a word's embedding; where it is not that of the hidden states, a dense layer is between."""
        return self.embedding_size or self.hidden_size


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    shared = ("embeddings", "encoder/rel_embeddings", "encoder/LayerNorm")
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings,
        segment_types=cfg.type_vocab_size,
        words="deberta/embeddings/word_embeddings",
        embeddings=tuple(f"deberta/{part}" for part in shared),
        layers=tuple(f"deberta/encoder/layer/{i}" for i in range(cfg.num_hidden_layers)),
        rates={
            "hidden": cfg.hidden_dropout_prob,
            "attention": cfg.attention_probs_dropout_prob,
            "pooler": cfg.pooler_dropout,
            "classifier": cfg.hidden_dropout_prob if cfg.cls_dropout is None else cfg.cls_dropout,
        },
        parts={
            "key": ("key_proj",),
            "value": ("value_proj",),
            "attention": ("attention/output/dense",),
            "mlp": ("layer/*/output/dense",),
        },
        states=False,
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder."""
    size, std = cfg.hidden_size, cfg.initializer_range
    own_distances = cfg.relative_attention and not cfg.share_att_key
    project = nn.dense_spec(size, size, ("embed", "heads"), std)

    def table(rows: int, width: int, axis: str | None = None) -> nn.Spec:
        return {"embedding": nn.Leaf((rows, width), (axis, "embed"), stddev=std)}

    def layer() -> nn.Spec:
        own = blocks.post_norm_specs(size, cfg.intermediate_size, std)
        projections = {f"{name}_proj": own[name] for name in ("query", "key", "value")}
        if own_distances:
            names = {"c2p": "pos_key_proj", "p2c": "pos_query_proj"}
            projections |= {name: project for kind, name in names.items() if kind in cfg.pos_att_type}
        return {
            "attention": {
                "self": projections,
                "output": {"dense": own["attended"], "LayerNorm": own["attended_norm"]},
            },
            "intermediate": {"dense": own["inner"]},
            "output": {"dense": own["outer"], "LayerNorm": own["norm"]},
        }

    embeddings = {
        "word_embeddings": table(cfg.vocab_size, cfg.word_size, "vocab"),
        "LayerNorm": nn.layer_norm_spec(size),
    }
    if cfg.position_biased_input:
        embeddings["position_embeddings"] = table(cfg.max_position_embeddings, cfg.word_size)
    if cfg.type_vocab_size:
        embeddings["token_type_embeddings"] = table(cfg.type_vocab_size, cfg.word_size)
    if cfg.word_size != size:
        embeddings["embed_proj"] = nn.dense_spec(cfg.word_size, size, ("embed", None), std, bias=False)
    encoder = {"layer": {str(i): layer() for i in range(cfg.num_hidden_layers)}}
    if cfg.relative_attention:
        encoder["rel_embeddings"] = table(2 * cfg.span, size)
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
        paths, sizes = [f"{within}/{norm}{part}" for part in ("dense", "LayerNorm")], (size, cfg.word_size)
        below = heads.transformed(paths[0], paths[1], cfg.hidden_act, sizes, std, cfg.layer_norm_eps, (True, True))
        return heads.words(below, facts(cfg).words, cfg.vocab_size, f"{within}/bias")
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
    entries = distances(np.arange(1 - length, length), cfg)

    def table(run: nn.Run) -> Array:
        """The embedding of each distance, `[1, distances, width]`; what drops out is the same for all tokens."""
        rows = nn.embed(p["encoder"]["rel_embeddings"], entries[None], run.dtype)
        if "LayerNorm" in p["encoder"]:
            rows = nn.layer_norm(p["encoder"]["LayerNorm"], rows, cfg.layer_norm_eps)
        return run.drop(rows, "hidden", site=3)

    def layer(p: Params, stream: nn.Stream, at: Array | None) -> Array:
        own, run = p["attention"]["self"], stream.run.over(entries[None])
        added = lambda query, key: _of_distances(own, cfg, table(run), run, query, key, at)  # noqa: E731
        return blocks.post_norm(_parts(p, cfg), stream, at, added if cfg.relative_attention else None)

    stack = [p["encoder"]["layer"][str(i)] for i in range(cfg.num_hidden_layers)]
    return blocks.through(layer, stack, stream, at)


def _of_distances(
    p: Params,
    cfg: Config,
    table: Float[Array, "1 distances width"],
    run: nn.Run,
    query: Float[Array, "rows queries heads dim"],
    key: Float[Array, "rows length heads dim"],
    at: Int[Array, "rows queries"] | None,
) -> Float[Array, "rows heads queries length"]:
    """What distances add to the scores of all tokens, or of those at `at` (He et al. 2021, eq. 4).

    A product with the embedding of each distance, of which each pair of tokens then takes its own: by a shift where all
    tokens ask, so that no gather of the size of the scores is needed.
    """
    length, scale = key.shape[1], scale_of(cfg) * key.shape[-1] ** -0.5
    shared = cfg.share_att_key

    def project(name: str) -> Array:
        return nn.split_heads(nn.dense(p[name], table, run), cfg.num_attention_heads, run)[0]

    total: Any = 0.0
    if "c2p" in cfg.pos_att_type:
        # The query was scaled by its part before.
        found = jnp.einsum(
            "rqhd,phd->rhqp", query * key.shape[-1] ** -0.5, project("key_proj" if shared else "pos_key_proj")
        )
        if at is None:
            total += nn.skewed(found)
        else:
            apart = at[:, :, None] - jnp.arange(length) + length - 1
            total += jnp.take_along_axis(found, apart[:, None], axis=-1)
    if "p2c" in cfg.pos_att_type:
        positions = project("query_proj" if shared else "pos_query_proj")
        found = jnp.einsum("rkhd,phd->rhkp", key * scale, positions)
        if at is None:
            total += nn.skewed(found[..., ::-1]).swapaxes(-1, -2)
        else:
            apart = at[:, None, :] - jnp.arange(length)[:, None] + length - 1
            total += jnp.take_along_axis(found, apart[:, None], axis=-1).swapaxes(-1, -2)
    return total


def distances(apart: np.ndarray, cfg: Config) -> Array:
    """Returns the row of the table of distances for each, place that asks - place that is asked.

    Those up to half of `position_buckets` have one each; further ones share them on a logarithmic scale, computed in
    float32 as the reference does, of which the rounding decides at the edges.
    """
    if cfg.position_buckets > 0:
        middle, far = cfg.position_buckets // 2, np.abs(apart)
        log = np.log(np.maximum(far, middle).astype(np.float32) / np.float32(middle))
        log /= np.log(np.float32((cfg.farthest - 1) / middle))
        wide = np.ceil(log * np.float32(middle - 1)) + middle
        apart = np.where(far <= middle, apart, np.sign(apart) * wide.astype(np.int64))
    return jnp.asarray(np.clip(apart + cfg.span, 0, 2 * cfg.span - 1), jnp.int32)


def scale_of(cfg: Config) -> float:
    """Returns the factor of every product in a score, beside 1 / sqrt(dim): there are so many of them."""
    return (1 + len(cfg.pos_att_type)) ** -0.5


def _parts(p: Params, cfg: Config) -> blocks.PostNorm:
    own = p["attention"]["self"]
    return blocks.PostNorm(
        query=own["query_proj"],
        key=own["key_proj"],
        value=own["value_proj"],
        attended=p["attention"]["output"]["dense"],
        attended_norm=p["attention"]["output"]["LayerNorm"],
        inner=p["intermediate"]["dense"],
        outer=p["output"]["dense"],
        norm=p["output"]["LayerNorm"],
        heads=cfg.num_attention_heads,
        act=cfg.hidden_act,
        eps=cfg.layer_norm_eps,
        scale=scale_of(cfg),
    )
