"""The config.json of ModernBERT: what `jaxft.models.modernbert` computes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxft.errors import UserError
from jaxft.models import blocks

FULL, SLIDING = "full_attention", "sliding_attention"
"""What layers see: the whole example, or what is near; as `layer_types` of config.json says it."""

DROPOUTS = ("attention", "embedding", "mlp", "classifier")
"""Where there is dropout: NAME_dropout of config.json is its rate."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      layer_types: `FULL` or `SLIDING` for each layer.
      thetas: of the rotation in layers of the one kind and the other.
    """

    prefix: ClassVar[str] = "model"
    hf_name: ClassVar[str] = "ModernBert"

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    local_attention: int = 128
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    tie_word_embeddings: bool = True
    layer_types: tuple[str, ...] = ()
    thetas: tuple[float, float] = (160_000.0, 10_000.0)

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json, with the keys of transformers 4 or those of 5.

        Raises:
          UserError: as `jaxft.models.blocks.check_config`; or kinds of layers, rotations or a pooling that are not
            computed here.
        """
        layers, every = hf.get("num_hidden_layers", cls.num_hidden_layers), hf.get("global_attn_every_n_layers", 3)
        kinds = tuple(hf.get("layer_types") or (SLIDING if i % every else FULL for i in range(layers)))
        if len(kinds) != layers or not {*kinds} <= {FULL, SLIDING}:
            raise UserError(f"config.json: layer_types must be {FULL} or {SLIDING} for each of num_hidden_layers")
        thetas = _theta(hf, FULL, "global", cls.thetas[0]), _theta(hf, SLIDING, "local", cls.thetas[1])
        cfg = blocks.read_config(cls, hf, layer_types=kinds, thetas=thetas)
        for act in (cfg.hidden_activation, cfg.classifier_activation):
            blocks.check_config(hf, act, cfg.hidden_size, cfg.num_attention_heads, absolute=False)
        if cfg.classifier_pooling not in ("cls", "mean"):
            raise UserError("config.json: classifier_pooling must be cls or mean")
        return cfg

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(self, **{f"{name}_dropout": rate for name in DROPOUTS})


def _theta(hf: Mapping[str, Any], kind: str, old: str, default: float) -> float:
    """What the rotation of a kind of layers is to the power of; `old` begins its key in transformers 4."""
    own = (hf.get("rope_parameters") or {}).get(kind) or {}
    if hf.get("rope_scaling") or own.get("rope_type", "default") != "default":
        raise UserError("config.json: rope_scaling and a rope_type beside default are not supported")
    return float(own.get("rope_theta", hf.get(f"{old}_rope_theta", default)))
