"""Texts to learn the language of.

Those to train and evaluate on are put one after the other and cut; those to predict of are each by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxft import config
from jaxft.batch import IGNORED
from jaxft.data.columns import with_text
from jaxft.data.features import Features
from jaxft.data.sources import Split, require_columns
from jaxft.metrics import language
from jaxft.models import Model
from jaxft.tables import masking
from jaxft.tables.base import Host, Published, Table
from jaxft.tables.masking import Piece

USAGE = """from transformers import pipeline

predict = pipeline("fill-mask", model="path/to/this/directory")
print(predict(f"A {predict.tokenizer.mask_token}."))"""


@dataclasses.dataclass(frozen=True)
class MaskedLM(Table):
    options: config.MaskedLM
    metric: str = "perplexity"
    lower: frozenset[str] = frozenset({"perplexity"})

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.options.text,)

    def read(self, split: Split, labelled: bool = True) -> Split:
        require_columns(split, {"task.text": self.options.text})
        return with_text(split, self.options.text)

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        pieces, rows = masking.cut(tokenizer, split.table[self.options.text].to_pylist(), max_length, join=labelled)
        columns = self.hide(pieces, tokenizer) | {"token_type_ids": [np.zeros(len(p.ids), np.int32) for p in pieces]}
        return columns | ({} if labelled else {"row": np.asarray(rows)})

    def hide(self, pieces: Sequence[Piece], tokenizer: Any) -> dict[str, Any]:
        """Columns of the pieces, hidden as in every evaluation.

        `words` tells what is hidden together; that, `mask` and `vocabulary` are for `vary`.
        """
        if not self.options.whole_words:
            pieces = [p._replace(words=np.where(p.words < 0, -1, np.arange(len(p.words)))) for p in pieces]
        mask, size = tokenizer.mask_token_id, len(tokenizer)
        fraction, fixed = self.options.mask_fraction, {"seed": 0, "epoch": masking.FIXED}
        found = [masking.hide(p, fraction, mask, size, **fixed, example=i) for i, p in enumerate(pieces)]
        ids, labels = zip(*found, strict=True)
        columns: dict[str, Any] = {"input_ids": ids, "labels": labels, "words": [piece.words for piece in pieces]}
        return columns | {"mask": np.full(len(ids), mask, np.int32), "vocabulary": np.full(len(ids), size, np.int32)}

    def vary(self, features: Features, examples: np.ndarray, seed: int, epoch: int) -> Features:
        """Other tokens are hidden in each epoch."""
        tokens, offsets = dict(features.tokens), features.offsets
        plain = np.where(tokens["labels"] == IGNORED, tokens["input_ids"], tokens["labels"])
        ids, labels = [], []
        for i, example in enumerate(examples):
            piece = masking.Piece(*(part[offsets[i] : offsets[i + 1]] for part in (plain, tokens["words"])))
            mask, size = (int(features.examples[name][i]) for name in ("mask", "vocabulary"))
            fraction = self.options.mask_fraction
            found = masking.hide(piece, fraction, mask, size, seed=seed, epoch=epoch, example=int(example))
            ids.append(found[0])
            labels.append(found[1])
        tokens |= {"input_ids": np.concatenate(ids), "labels": np.concatenate(labels)}
        return dataclasses.replace(features, tokens=tokens)

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        hidden = features.tokens["labels"] != IGNORED
        return language.guesses(outputs["log_probs"][hidden], outputs["right"][hidden])

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """Of each text the perplexity, as in evaluation: how strange it is to the model; and how many were hidden."""
        hidden = features.tokens["labels"] != IGNORED
        for low, high in zip(features.bounds, features.bounds[1:], strict=False):
            part = slice(features.offsets[low], features.offsets[high])
            found = outputs["log_probs"][part][hidden[part]]
            yield {"perplexity": language.perplexity(found) if len(found) else None, "hidden": len(found)}

    def published(self, model: Model, max_length: int) -> Published:
        return Published("fill-mask", USAGE)
