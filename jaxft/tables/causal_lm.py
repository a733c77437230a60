"""Texts to learn the language of, from left to right.

Each is an example of its own, or several pieces where it is too long: nothing crosses from one text to another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data.columns import with_text
from jaxft.data.features import Features
from jaxft.data.sources import Split, require_columns
from jaxft.metrics import language
from jaxft.models import Model
from jaxft.tables.base import Host, Published, Table

USAGE = """from transformers import pipeline

predict = pipeline("text-generation", model="path/to/this/directory")
print(predict("A text"))"""


@dataclasses.dataclass(frozen=True)
class CausalLM(Table):
    options: config.CausalLM
    metric: str = "perplexity"
    lower: frozenset[str] = frozenset({"perplexity"})

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.options.text,)

    def read(self, split: Split, labelled: bool = True) -> Split:
        require_columns(split, {"task.text": self.options.text})
        return with_text(split, self.options.text)

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        texts = split.table[self.options.text].to_pylist()
        encoded = tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
        ends = tokenizer.eos_token_id if self.options.end else None
        pieces = [cut(ended(ids, ends), max_length) for ids in encoded]
        ids = [piece for own in pieces for piece in own]
        return {
            "input_ids": ids,
            "token_type_ids": [[0] * len(piece) for piece in ids],
            "labels": ids,
            "row": np.repeat(np.arange(len(pieces)), [len(own) for own in pieces]),
        }

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        counted = outputs["counted"] > 0
        return language.guesses(outputs["log_probs"][counted], outputs["right"][counted])

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """Of each text the perplexity: how strange it is to the model; and how many of its tokens were guessed."""
        for low, high in zip(features.bounds, features.bounds[1:], strict=False):
            part = slice(features.offsets[low], features.offsets[high])
            found = outputs["log_probs"][part][outputs["counted"][part] > 0]
            yield {"perplexity": language.perplexity(found) if len(found) else None, "guessed": len(found)}

    def published(self, model: Model, max_length: int) -> Published:
        return Published("text-generation", USAGE)


def ended(ids: Sequence[int], end: int | None) -> list[int]:
    """Returns the tokens of a text with the one behind them that ends texts, if there is one and it is not there."""
    return [*ids] if end is None or (ids and ids[-1] == end) else [*ids, end]


def cut(ids: Sequence[int], size: int) -> list[list[int]]:
    """Returns pieces of at most `size` tokens, 2 or more.

    Each begins with the last token of the one before it, so that every token but a text's first is guessed once.
    """
    return [[*ids[at : at + size]] for at in range(0, max(len(ids) - 1, 1), size - 1)]
