"""Tag each word of a text: named entities, parts of speech.

The first token of each word carries its tag. Head and loss are those of BertForTokenClassification
(transformers, modeling_bert.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import IGNORED, Target
from jaxft.models import Head, Model, nn
from jaxft.tasks import losses
from jaxft.tasks.base import Task
from jaxft.types import Array, Batch, Outputs, Params


@dataclasses.dataclass(frozen=True)
class TokenClassification(Task):
    options: config.TokenClassification
    hf_class: str = "ForTokenClassification"

    @property
    def labels(self) -> tuple[str, ...]:
        return self.options.labels

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"labels": Target("token", np.int32, IGNORED)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "token"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(self._head(model))

    def _head(self, model: Model) -> Head:
        return model.head("token", outputs=len(self.labels))

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        return {"logits": model.of_tokens(self._head(model), params, batch, run)}

    @property
    def numbers(self) -> Mapping[str, float]:
        return losses.strengths(self.options)

    def with_numbers(self, numbers: Mapping[str, Array]) -> TokenClassification:
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **numbers))

    def divergence(self, outputs: Outputs, others: Outputs, batch: Batch) -> Array:
        counts = (batch["labels"] != IGNORED) * losses.scale_of(self.options, jnp.maximum(batch["labels"], 0))
        return (counts * losses.divergence(outputs["logits"], others["logits"])).sum()

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """-log softmax(logits)[label], summed over the tokens that carry a tag; and their number, or their weights'."""
        tagged = (batch["labels"] != IGNORED).astype(jnp.float32)
        return losses.of_classes(self.options, outputs["logits"], jnp.maximum(batch["labels"], 0), tagged)
