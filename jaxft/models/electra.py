"""ELECTRA (Clark et al. 2020), as transformers/models/electra/modeling_electra.py computes it: BERT under other names.

What differs: small models have embeddings of another size than hidden states, and a dense layer between; no head has a
pooler. The head of words is the generator's, whose checkpoints are models of their own (google/electra-*-generator).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.errors import UserError
from jaxft.models import bert, heads
from jaxft.models.bert import encode, param_spec
from jaxft.models.interface import Facts, Head

__all__ = ["Config", "encode", "facts", "head", "param_spec"]


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """As `jaxft.models.bert.Config`, the size of embeddings, and the head of choices."""

    prefix: ClassVar[str] = "electra"
    hf_name: ClassVar[str] = "Electra"

    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    embedding_size: int = 128
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"
    summary_last_dropout: float = 0.1

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> bert.Config:
        """Reads a config.json. Raises UserError as `jaxft.models.bert.Config.from_hf`."""
        return super().from_hf(hf)

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(super().with_dropout(rate), summary_last_dropout=rate)  # pyright: ignore

    @property
    def word_size(self) -> int:
        """The size of an embedding; where it is not that of the hidden states, a dense layer is between."""
        return self.embedding_size


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    found = bert.facts(cfg)
    return found._replace(rates={**found.rates, "summary": cfg.summary_last_dropout})


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class.

    Raises:
      UserError: a summary of choices that config.json describes and this file does not compute.
    """
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        top = heads.linear("classifier/out_proj", size, outputs, std)
        return heads.behind("classifier/dense", "gelu", top, size, std, drops="classifier")
    if purpose == "choice":
        if (cfg.summary_type, cfg.summary_use_proj, cfg.summary_activation) != ("first", True, "gelu"):
            raise UserError("config.json: summary_type, summary_use_proj, summary_activation must be first, true, gelu")
        top = heads.linear("classifier", size, outputs, std, drops="summary")
        return heads.behind("sequence_summary/summary", "gelu", top, size, std)
    if purpose == "word":
        paths = "generator_predictions/dense", "generator_predictions/LayerNorm"
        return bert.word_head(cfg, *paths, "generator_lm_head/bias", "generator_lm_head", "gelu")
    return None if purpose == "pair" else bert.head(cfg, purpose, outputs)
