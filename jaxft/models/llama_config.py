"""The config.json of Llama and its kin: what `jaxft.models.llama` computes, and in what the types differ."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from jaxft.errors import UserError
from jaxft.models import blocks, heads, nn, rope

Own = TypeVar("Own", bound="Config")

FULL, SLIDING = "full_attention", "sliding_attention"
"""What layers see of what comes before: all, or what is near; as `layer_types` of config.json says it."""


class Kind(NamedTuple):
    """What differs of a type from `llama`.

    Attributes:
      hf_name: what the names of its Hugging Face classes begin with.
      defaults: values of keys that config.json may lack.
      fixed: values of keys that its class does not read.
      qk_norm: whether queries and keys are normalized, head by head.
    """

    hf_name: str
    defaults: Mapping[str, Any] = {}
    fixed: Mapping[str, Any] = {}
    qk_norm: bool = False


_PLAIN = {"attention_bias": False, "output_bias": False, "mlp_bias": False}
_QWEN = {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "max_window_layers": 28,
    "sliding_window": 4096,
}
_MISTRAL = {
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}
_SMOLLM = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "pad_token_id": 128004,
    "rope_theta": 2_000_000.0,
    "no_rope_layer_interval": 4,
}
KINDS = {
    "llama": Kind("Llama", fixed={"use_sliding_window": False, "layer_types": None}),
    "qwen2": Kind("Qwen2", _QWEN, {**_PLAIN, "attention_bias": True, "head_dim": None}),
    "qwen3": Kind("Qwen3", {**_QWEN, "head_dim": 128}, {"mlp_bias": False}, qk_norm=True),
    "mistral": Kind("Mistral", _MISTRAL, {**_PLAIN, "use_sliding_window": True, "layer_types": None}),
    "smollm3": Kind("SmolLM3", _SMOLLM),
}
"""`model_type` of config.json -> what differs."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and rates, under the names of the Hugging Face config.json.

    Attributes:
      num_key_value_heads, head_dim: None: as many as heads of queries; and the width divided among these.
      attention_bias, output_bias: of queries, keys and values; and of what ends attention.
      pad_token_id: what no example ends with, for a class of the whole; None: there is none.
      rope: see `jaxft.models.rope.read`.
      layer_types: `FULL` or `SLIDING` for each layer, where config.json may say it; else empty.
      windows: how many tokens before it a token sees, in each layer; 0: all.
      turned: whether positions turn queries and keys, in each layer.
    """

    prefix: ClassVar[str] = "model"
    causal: ClassVar[bool] = True

    model_type: str = "llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    output_bias: bool = False
    attention_dropout: float = 0.0
    classifier_dropout: float = 0.1
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    rope: nn.Rope = nn.Rope(10_000.0)
    layer_types: tuple[str, ...] = ()
    windows: tuple[int, ...] = ()
    turned: tuple[bool, ...] = ()

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json, with the keys of transformers 4 or those of 5.

        Raises:
          UserError: as `jaxft.models.blocks.check_config` and `rope.read`; or heads or windows that are not computed.
        """
        kind = KINDS[hf["model_type"]]
        hf = {**kind.defaults, **hf}
        hf = {"output_bias": hf.get("attention_bias", cls.attention_bias), **hf, **kind.fixed}
        rate = heads.rate_of(hf, cls.classifier_dropout)
        cfg = blocks.read_config(cls, hf, classifier_dropout=rate, layer_types=())
        turned = _turned(hf, cfg.num_hidden_layers)
        kinds = _layer_types(hf, turned)
        return cfg.checked(hf, layer_types=kinds, windows=_windows(hf, kinds, cfg), turned=turned)

    def checked(self: Own, hf: Mapping[str, Any], **read: Any) -> Own:
        """Returns the config with the rotation that config.json describes, and with other values that have been read.

        Raises:
          UserError: as `from_hf`.
        """
        size = self.num_attention_heads * self.head_dim if self.head_dim else self.hidden_size
        blocks.check_config(hf, self.hidden_act, size, self.num_attention_heads, absolute=False)
        if self.key_heads < 1 or self.num_attention_heads % self.key_heads:
            raise UserError("config.json: num_attention_heads must be a multiple of num_key_value_heads")
        turns = rope.read(hf, self.rope.theta, self.head_size, rope.SCALED)
        return dataclasses.replace(self, rope=turns, **read)

    def with_dropout(self, rate: float) -> "Config":
        """Returns the same with all dropout rates replaced."""
        return dataclasses.replace(self, attention_dropout=rate, classifier_dropout=rate)

    @property
    def hf_name(self) -> str:
        """What the names of its Hugging Face classes begin with."""
        return KINDS[self.model_type].hf_name

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalized, head by head."""
        return KINDS[self.model_type].qk_norm

    @property
    def key_heads(self) -> int:
        """How many heads of keys and values there are."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_size(self) -> int:
        """The size of each head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


def _turned(hf: Mapping[str, Any], count: int) -> tuple[bool, ...]:
    """Which layers turn queries and keys: of SmolLM3 not every fourth, or not those that `no_rope_layers` says 0 of."""
    if hf["model_type"] != "smollm3":
        return (True,) * count
    given = hf.get("no_rope_layers") or [(i + 1) % hf["no_rope_layer_interval"] for i in range(count)]
    if len(given) < count:
        raise UserError("config.json: no_rope_layers must be 0 or 1 for each of num_hidden_layers")
    return tuple(map(bool, given[:count]))


def _layer_types(hf: Mapping[str, Any], turned: Sequence[bool]) -> tuple[str, ...]:
    """What each layer sees, where config.json may say it; empty: the type has one kind of layers.

    Else those slide, if any do, that turn nothing; where all turn, those from number `max_window_layers` on.
    """
    if "layer_types" in KINDS[hf["model_type"]].fixed:
        return ()
    first, windowed = hf.get("max_window_layers", len(turned)), bool(hf.get("use_sliding_window"))
    near = [i >= first if all(turned) else not turns for i, turns in enumerate(turned)]
    kinds = tuple(hf.get("layer_types") or (SLIDING if windowed and slides else FULL for slides in near))
    if len(kinds) != len(turned) or not {*kinds} <= {FULL, SLIDING}:
        raise UserError(f"config.json: layer_types must be {FULL} or {SLIDING} for each of num_hidden_layers")
    return kinds


def _windows(hf: Mapping[str, Any], kinds: Sequence[str], cfg: Config) -> tuple[int, ...]:
    """How far back each layer lets a token see."""
    size = hf.get("sliding_window") if hf.get("use_sliding_window") else None
    if size is None and SLIDING in kinds:
        raise UserError(
            f"config.json: layer_types has {SLIDING}, but use_sliding_window and sliding_window say no window"
        )
    if size is not None and size < 2:
        raise UserError(f"config.json: sliding_window must be 2 or more, a token and the one before; it is {size}")
    near = 0 if size is None or size >= cfg.max_position_embeddings else size - 1
    return tuple(0 if kind == FULL else near for kind in kinds or [SLIDING] * cfg.num_hidden_layers)
