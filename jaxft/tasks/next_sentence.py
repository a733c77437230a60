"""Masked language modelling that also learns which texts follow each other (Devlin et al. 2019, section 3.1).

Head and loss are those of BertForPreTraining (transformers, modeling_bert.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.tasks import losses
from jaxft.tasks.base import Host, softmax
from jaxft.tasks.masked_lm import MaskedLM, read, resolve
from jaxft.types import Array, Batch, Outputs, Params

if TYPE_CHECKING:
    from jaxft.data.features import Features
    from jaxft.data.sources import Split


@dataclasses.dataclass(frozen=True)
class NextSentence(MaskedLM):
    """See `jaxft.tasks.base.Task`. Its examples are pairs of segments, as `jaxft.data.sentences.pair` makes them.

    The loss is the sum of two means, over hidden tokens and over examples, so that the parts of a batch that
    `train.accumulate` splits are batches by themselves here.
    """

    head: str = "ForPreTraining"

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

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """The mean over hidden tokens plus that over examples, times the number of examples; and that number."""
        total, hidden = super().loss(outputs, batch)
        relation, examples = losses.cross_entropy(
            outputs["next_logits"], batch["next_sentence_label"], batch["weights"]
        )
        return total / jnp.maximum(hidden, 1) * examples + relation, examples

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        from jaxft.data import sentences

        if not labelled:
            return super().features(split, tokenizer, max_length, labelled)
        pairs = sentences.pair(tokenizer, split.table[self.options.text].to_pylist(), max_length)
        if not pairs:
            raise UserError(
                f"{split.origin}: no text in {self.options.text!r} has two sentences and others beside it, which "
                "learning what follows needs; a row must be a document (of a .txt file: config.data.documents=true)"
            )
        columns = self.hide([pair.piece for pair in pairs], tokenizer)
        columns["token_type_ids"] = [pair.types for pair in pairs]
        return columns | {"next_sentence_label": np.asarray([pair.label for pair in pairs], np.int32)}

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        labels = features.examples["next_sentence_label"]
        probabilities = softmax(outputs["next_logits"])
        chosen = np.log(probabilities[np.arange(len(labels)), labels]).mean()
        found = super().metrics(outputs, features, split)
        loss = {"loss": float(np.log(found["perplexity"]) - chosen)} if found else {}
        return loss | found | {"next_accuracy": float((probabilities.argmax(-1) == labels).mean())}


def build(options: config.NextSentence) -> NextSentence:
    return NextSentence(options)


__all__ = ["NextSentence", "build", "read", "resolve"]
