"""EuroBERT (Boizard et al. 2025), as transformers/models/eurobert/modeling_eurobert.py computes it.

The layers of Llama, where each token sees all of its example. The only dropout is that of attention.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.errors import UserError
from jaxft.models import blocks, heads, llama_config
from jaxft.models.interface import Head
from jaxft.models.llama import encode, facts, param_spec

__all__ = ["Config", "encode", "facts", "head", "param_spec"]

POOLING = {"bos": "first", "mean": "mean", "late": "late"}
"""`classifier_pooling` of config.json -> that of a head here."""


@dataclasses.dataclass(frozen=True)
class Config(llama_config.Config):
    """As `jaxft.models.llama_config.Config`, and how a text's classes are found."""

    hf_name: ClassVar[str] = "EuroBert"  # pyright: ignore[reportIncompatibleMethodOverride]
    qk_norm: ClassVar[bool] = False  # pyright: ignore[reportIncompatibleMethodOverride]
    causal: ClassVar[bool] = False

    model_type: str = "eurobert"
    vocab_size: int = 128256
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    classifier_dropout: float = 0.0
    classifier_pooling: str = "late"

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json, with the keys of transformers 4 or those of 5.

        Raises:
          UserError: as `jaxft.models.llama_config.Config.checked`; or a pooling that is not computed.
        """
        own = {"classifier_dropout": cls.classifier_dropout, "layer_types": ()}
        cfg = blocks.read_config(cls, hf, output_bias=hf.get("attention_bias", cls.attention_bias), **own)
        if cfg.classifier_pooling not in POOLING:
            raise UserError(f"config.json: classifier_pooling must be one of {', '.join(POOLING)}")
        count = cfg.num_hidden_layers
        return cfg.checked(hf, windows=(0,) * count, turned=(True,) * count)

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(self, attention_dropout=rate)


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        top = heads.linear("classifier", size, outputs, std, drops="")
        return heads.behind("dense", "gelu", top._replace(pooling=POOLING[cfg.classifier_pooling]), size, std)
    if purpose == "token":
        return heads.linear("classifier", size, outputs, std, drops="")
    if purpose == "word":
        bias, sizes = "lm_head/bias" if cfg.mlp_bias else "", (cfg.vocab_size, size)
        return heads.words(None, facts(cfg).words, sizes, bias, cfg.tie_word_embeddings, "lm_head")
    return None
