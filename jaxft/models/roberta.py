"""RoBERTa (Liu et al. 2019), as transformers/models/roberta/modeling_roberta.py computes it: BERT under other names.

What differs: positions are counted from `pad_token_id` + 1, in each segment of a packed row; the heads of texts (which
has no pooler) and words have names and layers of their own; there is none for pairs.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxft.errors import UserError
from jaxft.models import bert, heads, nn
from jaxft.models.bert import encode, facts, param_spec
from jaxft.models.interface import Head
from jaxft.types import Array, Params

__all__ = ["Config", "encode", "facts", "head", "param_spec"]


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """As `jaxft.models.bert.Config`, and which id is padding."""

    prefix: ClassVar[str] = "roberta"
    hf_name: ClassVar[str] = "Roberta"

    pad_token_id: int = 1

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> bert.Config:
        """Reads a config.json. Raises UserError as `jaxft.models.bert.Config.from_hf`, or where no id is padding."""
        if not isinstance(hf.get("pad_token_id", 1), int):
            raise UserError("config.json: pad_token_id is null; RoBERTa counts positions from it: set it (usually 1)")
        return super().from_hf(hf)

    @property
    def first_position(self) -> int:
        """The row of the position table that an example's first token takes."""
        return self.pad_token_id + 1


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    dense = nn.dense_spec(size, size, ("embed", None), std)
    if purpose == "text":
        top = heads.linear("classifier/out_proj", size, outputs, std)

        def classify(params: Params, x: Array, run: nn.Run) -> Array:
            x = jnp.tanh(nn.dense(params["classifier"]["dense"], run.drop(x, "classifier", site=1)))
            return top.apply(params, x, run)

        return Head({"classifier": {**top.spec["classifier"], "dense": dense}}, classify)
    if purpose == "word":

        def guess(params: Params, x: Array, run: nn.Run) -> Array:
            p = params["lm_head"]
            x = nn.layer_norm(p["layer_norm"], nn.gelu(nn.dense(p["dense"], x)), cfg.layer_norm_eps)
            table = params[cfg.prefix]["embeddings"]["word_embeddings"]["embedding"]
            return heads.word_scores(x, table, p["bias"])

        bias = nn.Leaf((cfg.vocab_size,), ("vocab",), "zeros")
        return Head({"lm_head": {"dense": dense, "layer_norm": nn.layer_norm_spec(size), "bias": bias}}, guess)
    return None if purpose == "pair" else bert.head(cfg, purpose, outputs)
