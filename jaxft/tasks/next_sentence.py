"""Masked language modelling that also learns which texts follow each other (Devlin et al. 2019, section 3.1).

Head and loss are those of BertForPreTraining (transformers, modeling_bert.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxft.batch import Target
from jaxft.models import Model, nn
from jaxft.tasks import losses
from jaxft.tasks.masked_lm import MaskedLM
from jaxft.types import Array, Batch, Outputs, Params


@dataclasses.dataclass(frozen=True)
class NextSentence(MaskedLM):
    """The loss is the sum of two means, over hidden tokens and over examples, so that the parts of a batch that
    `train.accumulate` splits are batches by themselves here.
    """

    hf_class: str = "ForPreTraining"

    @property
    def targets(self) -> Mapping[str, Target]:
        return {**super().targets, "next_sentence_label": Target("example", np.int32)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {**super().outputs, "next_logits": "example"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(model.head("word"), model.head("pair"))

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        slots = batch["starts"].shape[1]
        at = self.hidden_places(batch)
        x = model.encode(params, batch, run, at=jnp.concatenate([batch["starts"], at], axis=1))
        logits = model.head("pair").apply(params, x[:, :slots], run)
        words = model.head("word").apply(params, x[:, slots:], run)
        return {**self.guesses(words, batch, at), "next_logits": logits}

    def padded(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        hidden = model.encode(params, batch, run)
        words = model.head("word").apply(params, hidden, run)
        pair = model.head("pair").apply(params, nn.pick(hidden, batch["starts"]), run).squeeze(1)
        return {"prediction_logits": words, "seq_relationship_logits": pair}

    def unpadded(self, found: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        words = super().unpadded({"logits": found["prediction_logits"]}, batch)
        return {**words, "next_logits": found["seq_relationship_logits"][:, None]}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """The mean over hidden tokens plus that over examples, times the number of examples; and that number."""
        total, hidden = super().loss(outputs, batch)
        relation, examples = losses.cross_entropy(
            outputs["next_logits"], batch["next_sentence_label"], batch["weights"]
        )
        return total / jnp.maximum(hidden, 1) * examples + relation, examples
