"""What is computed: one file an architecture, and this registry of them."""

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from jaxft.errors import UserError, nearest
from jaxft.models import bert, nn
from jaxft.types import Array, Batch, Params

ARCHITECTURES: dict[str, ModuleType] = {"bert": bert}
"""`model_type` of config.json -> the module that computes it: PREFIX, HF_NAME, Config, param_spec, encode, pool."""


@dataclasses.dataclass(frozen=True)
class Model:
    """An architecture together with its sizes."""

    module: ModuleType
    cfg: Any

    @property
    def prefix(self) -> str:
        """The path under which the pretrained body lies; everything beside it is a head."""
        return self.module.PREFIX

    @property
    def layers(self) -> str:
        """The path under which the parameters of layer 0, 1, ... lie."""
        return f"{self.prefix}/encoder/layer"

    def param_spec(self, pooler: bool = True) -> nn.Spec:
        return self.module.param_spec(self.cfg, pooler)

    def encode(self, params: Params, batch: Batch, run: nn.Run, at: Array | None = None) -> Array:
        """Hidden states `[rows, length, embed]`, or `[rows, slots, embed]` at the positions `at`."""
        return self.module.encode(params, self.cfg, batch, run, at)

    def pool(self, params: Params, first: Array) -> Array:
        """One vector an example, `[rows, slots, embed]`, from the hidden states at their first positions."""
        return self.module.pool(params, self.cfg, first)


def build(hf: Mapping[str, Any], dropout: float | None = None) -> Model:
    """The model that a Hugging Face config.json describes; `dropout` replaces all its dropout rates.

    Raises:
      UserError: a `model_type` that has no file here.
    """
    kind = hf.get("model_type")
    if kind not in ARCHITECTURES:
        raise UserError(f"config.json: model_type {kind!r} is not supported; {nearest(str(kind), ARCHITECTURES)}")
    if dropout is not None:
        rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        hf = dict(hf) | dict.fromkeys(rates, dropout)
    module = ARCHITECTURES[kind]
    return Model(module, module.Config.from_hf(hf))
