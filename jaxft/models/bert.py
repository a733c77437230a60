"""BERT (Devlin et al. 2019), as transformers/models/bert/modeling_bert.py computes it.

Parameters are named as in the Flax BERT checkpoints: `bert/encoder/layer/0/attention/self/query/kernel`. Architectures
that name them alike but for the first part (RoBERTa) are this file with another `Config` and heads of their own.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax

from jaxft.errors import UserError, nearest
from jaxft.models import heads, nn
from jaxft.models.interface import Facts, Head
from jaxft.types import Array, Batch, Float, Int, Params


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

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json.

        Raises:
          UserError: an activation, a position embedding or a mode that this file does not compute.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        config = cls(**{k: v for k, v in hf.items() if k in known})
        if config.hidden_act not in nn.ACTIVATIONS:
            raise UserError(
                f"config.json: hidden_act {config.hidden_act!r}; {nearest(config.hidden_act, nn.ACTIVATIONS)}"
            )
        if hf.get("position_embedding_type", "absolute") != "absolute":
            raise UserError("config.json: position_embedding_type must be absolute; relative ones are not supported")
        if hf.get("is_decoder") or hf.get("add_cross_attention"):
            raise UserError("config.json: is_decoder and add_cross_attention are not supported; this is an encoder")
        if config.hidden_size % config.num_attention_heads:
            raise UserError("config.json: hidden_size must be a multiple of num_attention_heads")
        return config

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        rates = {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate, "classifier_dropout": rate}
        return dataclasses.replace(self, **rates)

    @property
    def first_position(self) -> int:
        """The row of the position table that an example's first token takes."""
        return 0


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
        embeddings=f"{cfg.prefix}/embeddings",
        layers=tuple(f"{cfg.prefix}/encoder/layer/{i}" for i in range(cfg.num_hidden_layers)),
        rates={
            "hidden": cfg.hidden_dropout_prob,
            "attention": cfg.attention_probs_dropout_prob,
            "classifier": classifier,
        },
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the encoder, without a pooler."""
    size, inner, std = cfg.hidden_size, cfg.intermediate_size, cfg.initializer_range

    def table(rows: int, axis: str | None) -> nn.Spec:
        return {"embedding": nn.Leaf((rows, size), (axis, "embed"), stddev=std)}

    def layer() -> nn.Spec:
        project = nn.dense_spec(size, size, ("embed", "heads"), std)
        return {
            "attention": {
                "self": {"query": project, "key": project, "value": project},
                "output": {
                    "dense": nn.dense_spec(size, size, ("heads", "embed"), std),
                    "LayerNorm": nn.layer_norm_spec(size),
                },
            },
            "intermediate": {"dense": nn.dense_spec(size, inner, ("embed", "mlp"), std)},
            "output": {
                "dense": nn.dense_spec(inner, size, ("mlp", "embed"), std),
                "LayerNorm": nn.layer_norm_spec(size),
            },
        }

    return {
        cfg.prefix: {
            "embeddings": {
                "word_embeddings": table(cfg.vocab_size, "vocab"),
                "position_embeddings": table(cfg.max_position_embeddings, None),
                "token_type_embeddings": table(cfg.type_vocab_size, None),
                "LayerNorm": nn.layer_norm_spec(size),
            },
            "encoder": {"layer": {str(i): layer() for i in range(cfg.num_hidden_layers)}},
        }
    }


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    pooler = partial(heads.pooled, cfg.prefix, size, std)
    if purpose in ("text", "choice"):
        return pooler(heads.linear("classifier", size, outputs, std))
    if purpose == "pair":
        return pooler(heads.linear("cls/seq_relationship", size, 2, std, drops=False))
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std)
    if purpose == "span":
        return heads.linear("qa_outputs", size, 2, std, drops=False)
    return _word_head(cfg) if purpose == "word" else None


def encode(
    params: Params, cfg: Config, batch: Batch, run: nn.Run, at: Int[Array, "rows slots"] | None = None
) -> Float[Array, "rows positions embed"]:
    """Computes hidden states of the last layer: at every position, or only at those of each row that `at` names.

    What the last layer would compute elsewhere is then left out, as nothing depends on it; the result is the same.
    """
    p, longest = params[cfg.prefix], facts(cfg).longest
    run = run.over(nn.token_numbers(batch, longest))
    # Who asks and who is asked is the same in every layer; only hidden states and dropout keys change.
    stream = nn.Stream.of(_embed(p["embeddings"], cfg, batch, run.fold(0)), batch, run, longest)

    def layer(p: Params, x: Array, key: Array | None, at: Array | None = None) -> Array:
        return _layer(run.gather(p), cfg, stream.put(x, key), at)

    stack = [p["encoder"]["layer"][str(i)] for i in range(cfg.num_hidden_layers)]
    if at is None:
        return nn.repeat(layer, stack, stream.x, run)
    x = nn.repeat(layer, stack[:-1], stream.x, run)
    return nn.repeat(partial(layer, at=at), stack[-1:], x, run, first=len(stack))


def _embed(p: Params, cfg: Config, batch: Batch, run: nn.Run) -> Array:
    """The sum of three tables' rows, normalized."""
    with jax.named_scope("embeddings"):
        hidden = (
            nn.embed(p["word_embeddings"], batch["input_ids"], run.dtype)
            + nn.embed(p["position_embeddings"], batch["positions"] + cfg.first_position, run.dtype)
            + nn.embed(p["token_type_embeddings"], batch["token_type_ids"], run.dtype)
        )
        hidden = nn.layer_norm(p["LayerNorm"], run.constrain(hidden, ("rows", None, None)), cfg.layer_norm_eps)
        return run.drop(hidden, "hidden")


def _layer(p: Params, cfg: Config, stream: nn.Stream, at: Array | None) -> Array:
    """One layer, of all tokens or of those at `at`: attention and a feed-forward net, each added and normalized."""
    # Constrained of its own, so that the gradients of query, key and value are summed before they cross devices.
    told = stream.put(stream.run.constrain(stream.x, ("rows", None, None)), stream.run.key)
    asking, before = (told, stream.x) if at is None else (stream.pick(at), nn.pick(stream.x, at))
    run = asking.run
    with jax.named_scope("attention"):
        attended = _attend(p["attention"]["self"], cfg, asking, told)
        hidden = _add_norm(p["attention"]["output"], cfg, attended, before, run, site=1)
    with jax.named_scope("mlp"):
        inner = nn.ACTIVATIONS[cfg.hidden_act](nn.dense(p["intermediate"]["dense"], hidden, run))
        return _add_norm(p["output"], cfg, run.constrain(inner, ("rows", None, "mlp")), hidden, run, site=2)


def _attend(p: Params, cfg: Config, asking: nn.Stream, told: nn.Stream) -> Array:
    """Multi-head attention of `asking` to `told`."""

    def project(name: str, stream: nn.Stream) -> Array:
        split = nn.dense(p[name], stream.x, stream.run).reshape(*stream.x.shape[:2], cfg.num_attention_heads, -1)
        return stream.run.constrain(split, ("rows", None, "heads", None))

    return nn.attend(p, project("query", asking), project("key", told), project("value", told), asking, told)


def _add_norm(p: Params, cfg: Config, x: Array, residual: Array, run: nn.Run, site: int) -> Array:
    """LayerNorm(residual + dropout(dense(x)))."""
    x = run.drop(nn.dense(p["dense"], x, run), "hidden", site)
    return nn.layer_norm(p["LayerNorm"], run.constrain(x + residual, ("rows", None, None)), cfg.layer_norm_eps)


def _word_head(cfg: Config) -> Head:
    """BertLMPredictionHead, its decoder the word embedding."""
    size = cfg.hidden_size
    transform = {
        "dense": nn.dense_spec(size, size, ("embed", None), cfg.initializer_range),
        "LayerNorm": nn.layer_norm_spec(size),
    }

    def apply(params: Params, x: Array, run: nn.Run) -> Array:
        p, table = params["cls"]["predictions"], params[cfg.prefix]["embeddings"]["word_embeddings"]["embedding"]
        x = nn.ACTIVATIONS[cfg.hidden_act](nn.dense(p["transform"]["dense"], x))
        x = nn.layer_norm(p["transform"]["LayerNorm"], x, cfg.layer_norm_eps)
        return heads.word_scores(x, table, p["bias"])

    bias = nn.Leaf((cfg.vocab_size,), ("vocab",), "zeros")
    return Head({"cls": {"predictions": {"transform": transform, "bias": bias}}}, apply)
