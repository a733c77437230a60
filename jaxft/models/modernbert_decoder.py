"""ModernBERT that reads forward (Weller et al. 2025), as transformers/models/modernbert_decoder computes it.

The decoders of Ettin. The layers of ModernBERT, where each token sees itself and those before it: most layers the
`local_attention / 2 - 1` before it, every third one all of them; query, key and value are matrices of their own.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from jaxft.errors import UserError
from jaxft.models import decoder, heads, modernbert, modernbert_config, nn
from jaxft.models.interface import Facts, Head
from jaxft.models.modernbert_config import SLIDING
from jaxft.types import Array, Batch, Params

PROJECTIONS = {"q_proj": "heads", "k_proj": "kv_heads", "v_proj": "kv_heads"}
"""Dense layers that make queries, keys and values -> the logical axis of what each gives."""


@dataclasses.dataclass(frozen=True)
class Config(modernbert_config.Config):
    """As `jaxft.models.modernbert_config.Config`, and which id is padding.

    Attributes:
      sliding_window: tokens that a token sees in layers that see what is near, itself included.
    """

    hf_name: ClassVar[str] = "ModernBertDecoder"

    sliding_window: int = 64
    pad_token_id: int | None = 50283

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "Config":
        """Reads a config.json.

        Raises:
          UserError: as `jaxft.models.modernbert_config.Config.from_hf`; or a window in which a token sees no other.
        """
        # As transformers has it: a window that is written down goes before half of local_attention.
        reach = hf.get("local_attention", cls.local_attention) or 0
        near = hf.get("sliding_window", reach // 2) or 0
        cfg = super().from_hf({**hf, "local_attention": reach, "sliding_window": near})
        assert isinstance(cfg, Config), "of this class"
        if SLIDING in cfg.layer_types and near < 2:
            raise UserError(
                f"config.json: sliding_window, or half of local_attention, must be 2 tokens or more; it is {near}"
            )
        return cfg

    def sight(self, kind: str) -> nn.Sight:
        """What a token sees in a layer of a kind: within a window of n the n - 1 before it; beyond a text is none."""
        near = kind == SLIDING and self.sliding_window < self.max_position_embeddings
        return nn.Sight(self.sliding_window - 1 if near else 0, causal=True)


def facts(cfg: Config) -> Facts:
    """Returns what others ask about the model."""
    found = modernbert.facts(cfg)
    return found._replace(
        causal=True, padding=cfg.pad_token_id, parts={**found.parts, "key": ("k_proj",), "value": ("v_proj",)}
    )


def param_spec(cfg: Config) -> nn.Spec:
    """Declares every parameter of the body."""
    size, std = cfg.hidden_size, cfg.initializer_range
    each = {
        name: nn.dense_spec(size, size, ("embed", axis), std, cfg.attention_bias) for name, axis in PROJECTIONS.items()
    }
    return modernbert.body_spec(cfg, each)


def head(cfg: Config, purpose: str, outputs: int) -> Head | None:
    """Returns the head of a purpose, as the class of transformers for it has one; None: there is no such class."""
    size, std = cfg.hidden_size, cfg.initializer_range
    if purpose == "text":
        top = heads.linear("classifier", size, outputs, std, bias=cfg.classifier_bias)
        return heads.over(modernbert.transformed(cfg, "head"), top._replace(pooling="last"))
    return modernbert.words(cfg, modernbert.transformed(cfg, "lm_head")) if purpose == "next" else None


def _body(params: Params, cfg: Config, batch: Batch, run: nn.Run) -> decoder.Body:
    p, each = params["model"], {kind: partial(_layer, cfg, kind) for kind in {*cfg.layer_types}}  # each traced once
    return decoder.Body(
        stream=modernbert.embedded(p["embeddings"], cfg, batch, run),
        layers=[each[kind] for kind in cfg.layer_types],
        stack=[p["layers"][str(i)] for i in range(cfg.num_hidden_layers)],
        norm=lambda x: nn.layer_norm(p["final_norm"], x, cfg.norm_eps),
    )


encode, decode = decoder.reading(_body)


def _layer(
    cfg: Config, kind: str, p: Params, stream: nn.Stream, at: Array | None, cache: nn.Cache | None
) -> tuple[Array, nn.Cache | None]:
    """One layer: attention and a gated feed-forward net, each normalized before."""
    parts = decoder.Parts(
        normed=partial(modernbert.normed, cfg, p),
        project=partial(_project, p["attn"], cfg, cfg.thetas[kind == SLIDING]),
        attended=partial(modernbert.attended, p["attn"]["Wo"]),
        mlp=partial(modernbert.fed, cfg, p),
        sight=cfg.sight(kind),
    )
    return decoder.layer(parts, stream, at, cache)


def _project(p: Params, cfg: Config, theta: float, told: nn.Stream, at: Array | None) -> tuple[Array, Array, Array]:
    """Queries, keys and values; positions turn the first two."""
    asking, size = told.pick(at), cfg.hidden_size // cfg.num_attention_heads

    def project(name: str, stream: nn.Stream) -> Array:
        return nn.split_heads(
            nn.dense(p[name], stream.x, stream.run), cfg.num_attention_heads, stream.run, PROJECTIONS[name]
        )

    def turned(name: str, stream: nn.Stream) -> Array:
        return nn.Rotation.of(stream.positions, size, nn.Rope(theta))(project(name, stream))

    return turned("q_proj", asking), turned("k_proj", told), project("v_proj", told)
