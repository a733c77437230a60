"""The config.json of Gemma 3: what `jaxft.models.gemma3` computes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.errors import UserError
from jaxft.models import blocks, heads, nn, rope

FULL, SLIDING = "full_attention", "sliding_attention"
"""What layers see: the whole example, or what is near; as `layer_types` of config.json says it."""

COMPUTED = {"final_logit_softcapping": None, "attn_logit_softcapping": None}
"""Keys of config.json -> the value that is computed here."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      layer_types: `FULL` or `SLIDING` for each layer.
      ropes: how fast heads turn in layers of the one kind and of the other.
    """

    prefix: ClassVar[str] = "model"
    hf_name: ClassVar[str] = "Gemma3"
    hf_heads: ClassVar[Mapping[str, str]] = {
        "": "TextModel",
        "ForSequenceClassification": "TextForSequenceClassification",
    }

    vocab_size: int = 262208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 131072
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    query_pre_attn_scalar: float = 256
    sliding_window: int = 4096
    use_bidirectional_attention: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    classifier_dropout: float = 0.1
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    layer_types: tuple[str, ...] = ()
    ropes: tuple[nn.Rope, nn.Rope] = (nn.Rope(1_000_000.0), nn.Rope(10_000.0))

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json, with the keys of transformers 4 or those of 5.

        Raises:
          UserError: as `blocks.check_config`, `blocks.check_values` and `rope.read`; or heads or kinds of layers that
            are not computed.
        """
        blocks.check_values(hf, COMPUTED)
        layers, every = hf.get("num_hidden_layers", cls.num_hidden_layers), hf.get("sliding_window_pattern") or 6
        kinds = tuple(hf.get("layer_types") or (SLIDING if (i + 1) % every else FULL for i in range(layers)))
        if len(kinds) != layers or not {*kinds} <= {FULL, SLIDING}:
            raise UserError(f"config.json: layer_types must be {FULL} or {SLIDING} for each of num_hidden_layers")
        rate = heads.rate_of(hf, cls.classifier_dropout)
        cfg = blocks.read_config(cls, hf, layer_types=kinds, classifier_dropout=rate)
        blocks.check_config(hf, cfg.hidden_activation, cfg.hidden_size, cfg.num_attention_heads, absolute=False)
        if cfg.num_key_value_heads < 1 or cfg.num_attention_heads % cfg.num_key_value_heads:
            raise UserError("config.json: num_attention_heads must be a multiple of num_key_value_heads")
        if SLIDING in kinds and (cfg.sliding_window or 0) < 2:
            raise UserError(f"config.json: sliding_window must be 2 tokens or more; it is {cfg.sliding_window}")
        return dataclasses.replace(cfg, ropes=_ropes(hf, cls.ropes, cfg.head_dim))

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(self, attention_dropout=rate, classifier_dropout=rate)

    @property
    def causal(self) -> bool:
        return not self.use_bidirectional_attention

    def sight(self, kind: str) -> nn.Sight:
        """What a token sees in a layer of a kind: within a window of n the n - 1 before it, or n / 2 to either side."""
        reach = self.sliding_window - 1 if self.causal else self.sliding_window // 2
        near = kind == SLIDING and reach < self.max_position_embeddings - 1
        return nn.Sight(reach if near else 0, self.causal)


def _ropes(hf: Mapping[str, Any], default: tuple[nn.Rope, nn.Rope], size: int) -> tuple[nn.Rope, nn.Rope]:
    """How fast heads turn; only layers that see all may be stretched where the keys are those of transformers 4."""
    new, longest = hf.get("rope_parameters") or {}, {"max_position_embeddings": hf.get("max_position_embeddings")}
    full = {"rope_parameters": new.get(FULL) or hf.get("rope_scaling"), "rope_theta": hf.get("rope_theta")}
    near = {"rope_parameters": new.get(SLIDING), "rope_theta": hf.get("rope_local_base_freq")}
    return (
        rope.read(longest | full, default[0].theta, size, rope.SCALED),
        rope.read(longest | near, default[1].theta, size, rope.SCALED),
    )
