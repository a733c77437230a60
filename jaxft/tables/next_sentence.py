"""Documents to learn the language of, and which texts follow each other.

Examples are pairs of segments, as `sentences.pair` makes them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.metrics.probabilities import softmax
from jaxft.tables import sentences
from jaxft.tables.base import Host
from jaxft.tables.masked_lm import MaskedLM


@dataclasses.dataclass(frozen=True)
class NextSentence(MaskedLM):
    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
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
