"""RoBERTa (Liu et al. 2019), as transformers/models/roberta/modeling_roberta.py computes it: BERT under other names.

What differs: positions are counted from `pad_token_id` + 1, in each segment of a packed row; the heads of texts (which
has no pooler) and words have names and layers of their own; there is none for pairs. XLM-RoBERTa (Conneau et al. 2020)
and CamemBERT (Martin et al. 2020) are the same with other vocabularies.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.errors import UserError
from jaxft.models import bert, heads
from jaxft.models.bert import encode, facts, param_spec
from jaxft.models.interface import Head

__all__ = ["Config", "encode", "facts", "head", "param_spec"]

NAMES = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}
"""`model_type` -> what the names of its Hugging Face classes begin with."""


@dataclasses.dataclass(frozen=True)
class Config(bert.Config):
    """As `jaxft.models.bert.Config`, and which id is padding."""

    prefix: ClassVar[str] = "roberta"  # of all three

    pad_token_id: int = 1
    model_type: str = "roberta"

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> bert.Config:
        """Reads a config.json. Raises UserError as `jaxft.models.bert.Config.from_hf`, or where no id is padding."""
        if not isinstance(hf.get("pad_token_id", 1), int):
            raise UserError("config.json: pad_token_id is null; RoBERTa counts positions from it: set it (usually 1)")
        return super().from_hf(hf)

    @property
    def hf_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the names of its Hugging Face classes begin with."""
        return NAMES[self.model_type]

    @property
    def first_position(self) -> int:
        """The row of the position table that an example's first token takes."""
        return self.pad_token_id + 1


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        top = heads.linear("classifier/out_proj", size, outputs, std)
        return heads.behind("classifier/dense", "tanh", top, size, std, drops="classifier")
    if purpose == "word":
        return bert.word_head(cfg, "lm_head/dense", "lm_head/layer_norm", "lm_head/bias", "lm_head/decoder", "gelu")
    return None if purpose == "pair" else bert.head(cfg, purpose, outputs)
