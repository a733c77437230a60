"""BERT (Devlin et al. 2019), as transformers/models/bert/modeling_bert.py computes it.

Parameters are named as in the Flax BERT checkpoints: `bert/encoder/layer/0/attention/self/query/kernel`. Architectures
that name them alike but for the first part (RoBERTa, ELECTRA) are this file with another `Config` and heads of their
own; DeBERTa has its layers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.models import blocks, heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params

PROJECTIONS = ("query", "key", "value")
"""Names of the dense layers that attention begins with."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      prefix: the body's name in the parameter tree.
      hf_name: what the names of its Hugging Face classes begin with.
    """

    prefix: ClassVar[str] = "bert"
    hf_name: ClassVar[str] = "Bert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = True

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json. Raises UserError as `jaxft.models.blocks.check_config`."""
        cfg = blocks.read_config(cls, hf)
        blocks.check_config(hf, cfg.hidden_act, cfg.hidden_size, cfg.num_attention_heads)
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        rates = {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate, "classifier_dropout": rate}
        return dataclasses.replace(self, **rates)

    @property
    def first_position(self) -> int:
        """The row of the position table that an example's first token takes."""
        return 0

    @property
    def word_size(self) -> int:
        """The size of an embedding; where it is not that of the hidden states, a dense layer is between."""
        return self.hidden_size


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    classifier = cfg.hidden_dropout_prob if cfg.classifier_dropout is None else cfg.classifier_dropout
    return Facts(
        width=cfg.hidden_size,
        heads=cfg.num_attention_heads,
        vocabulary=cfg.vocab_size,
        longest=cfg.max_position_embeddings - cfg.first_position,
        segment_types=cfg.type_vocab_size,
        words=f"{cfg.prefix}/embeddings/word_embeddings",
        embeddings=(f"{cfg.prefix}/embeddings", f"{cfg.prefix}/embeddings_project"),
        layers=tuple(f"{cfg.prefix}/encoder/layer/{i}" for i in range(cfg.num_hidden_layers)),
        rates={
            "hidden": cfg.hidden_dropout_prob,
            "attention": cfg.attention_probs_dropout_prob,
            "classifier": classifier,
        },
        parts={
            "key": ("key",),
            "value": ("value",),
            "attention": ("attention/output/dense",),
            "mlp": ("layer/*/output/dense",),
        },
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder, without a pooler."""
    size, std = cfg.word_size, cfg.initializer_range
    between = size != cfg.hidden_size
    project = {"embeddings_project": nn.dense_spec(size, cfg.hidden_size, ("embed", None), std)} if between else {}

    tables = cfg.vocab_size, cfg.max_position_embeddings, cfg.type_vocab_size
    return {
        cfg.prefix: {
            "embeddings": blocks.embeddings_spec(size, std, *tables),
            **project,
            "encoder": {"layer": {str(i): layer_spec(cfg) for i in range(cfg.num_hidden_layers)}},
        }
    }


def layer_spec(cfg: Any, names: tuple[str, str, str] = PROJECTIONS) -> nn.Spec:
    """Declares the parameters of one layer; of `cfg` the sizes are read.

    Args:
      names: of the dense layers that give query, key and value.
    """
    own = blocks.post_norm_specs(cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range)
    return {
        "attention": {
            "self": {name: own[part] for name, part in zip(names, PROJECTIONS, strict=True)},
            "output": {"dense": own["attended"], "LayerNorm": own["attended_norm"]},
        },
        "intermediate": {"dense": own["inner"]},
        "output": {"dense": own["outer"], "LayerNorm": own["norm"]},
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range

    def pooled(top: Head) -> Head:
        return heads.behind(f"{cfg.prefix}/pooler/dense", "tanh", top, size, std)

    if purpose in ("text", "choice"):
        return pooled(heads.linear("classifier", size, outputs, std))
    if purpose == "pair":
        return pooled(heads.linear("cls/seq_relationship", size, 2, std, drops=""))
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std)
    if purpose == "span":
        return heads.linear("qa_outputs", size, 2, std, drops="")
    if purpose == "word":
        paths = "cls/predictions/transform/dense", "cls/predictions/transform/LayerNorm"
        return word_head(cfg, *paths, "cls/predictions/bias", "cls/predictions/decoder", cfg.hidden_act)
    return None


def word_head(cfg: Config, dense: str, norm: str, bias: str, own: str, act: str) -> Head:
    """Returns the scores of words by their embeddings, behind a dense layer, an activation and a normalization."""
    sizes = cfg.hidden_size, cfg.word_size
    below = heads.transformed(dense, norm, act, sizes, cfg.initializer_range, cfg.layer_norm_eps, (True, True))
    scored = cfg.vocab_size, cfg.word_size
    return heads.words(below, facts(cfg).words, scored, bias, cfg.tie_word_embeddings, own)


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names."""
    p, longest = params[cfg.prefix], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    hidden = blocks.embed(p["embeddings"], batch, run.fold(0), cfg.layer_norm_eps, cfg.first_position)
    if "embeddings_project" in p:
        hidden = nn.dense(p["embeddings_project"], hidden, run.fold(0))

    # Who asks and who is asked is the same in every layer; only hidden states and dropout keys change.
    stream = nn.Stream.of(hidden, batch, run, longest)

    def layer(p: Params, stream: nn.Stream, at: Array | None) -> Array:
        return blocks.post_norm(parts(p, cfg), stream, at)

    stack = [p["encoder"]["layer"][str(i)] for i in range(cfg.num_hidden_layers)]
    return blocks.through(layer, stack, stream, at)


def parts(p: Params, cfg: Any, names: tuple[str, str, str] = PROJECTIONS) -> blocks.PostNorm:
    """Returns the parameters of one layer, of names as in `layer_spec`, and how `cfg` has it computed."""
    return blocks.PostNorm(
        *(p["attention"]["self"][name] for name in names),
        attended=p["attention"]["output"]["dense"],
        attended_norm=p["attention"]["output"]["LayerNorm"],
        inner=p["intermediate"]["dense"],
        outer=p["output"]["dense"],
        norm=p["output"]["LayerNorm"],
        heads=cfg.num_attention_heads,
        act=cfg.hidden_act,
        eps=cfg.layer_norm_eps,
    )
