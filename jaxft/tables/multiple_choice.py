"""Texts or questions, each with its choices. Tables are as `choices.read` makes them; an example is a choice."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.metrics.probabilities import softmax
from jaxft.models import Model
from jaxft.tables import choices, means
from jaxft.tables.base import Host, Published, Table
from jaxft.tables.choices import CHOICES, RIGHT

USAGE = """from transformers import AutoModelForMultipleChoice, AutoTokenizer

path = "path/to/this/directory"
tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForMultipleChoice.from_pretrained(path)
text, choices = "A text.", ["A continuation.", "Another one."]
inputs = tokenizer([text] * len(choices), choices, padding=True, return_tensors="pt")
print(choices[model(**{name: array[None] for name, array in inputs.items()}).logits.argmax()])"""


@dataclasses.dataclass(frozen=True)
class MultipleChoice(Table):
    options: config.MultipleChoice
    metric: str = "accuracy"

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.options.context, self.options.question, *self.options.choices)))

    @property
    def examples(self) -> int:
        """The columns of choices; of a list in one column, four, which SWAG, RACE and most of ARC have."""
        return len(self.options.choices) if len(self.options.choices) > 1 else 4

    def read(self, split: Split, labelled: bool = True) -> Split:
        return choices.read(self.options, split, labelled)

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        contexts, listed = (split.table[name].to_pylist() for name in (self.options.context, CHOICES))
        questions = split.table[self.options.question].to_pylist() if self.options.question else [""] * len(contexts)
        rows = np.repeat(np.arange(len(listed)), [len(part) for part in listed])
        first = [contexts[row] for row in rows]
        second = [f"{q} {one}" if q else one for q, part in zip(questions, listed, strict=True) for one in part]
        encoded = tokenizer(
            first,
            second,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        columns = {name: encoded[name] for name in ("input_ids", "token_type_ids")} | {"row": rows}
        if not labelled:
            return columns
        right = split.table[RIGHT].to_pylist()
        ids = [at == r for part, r in zip(listed, right, strict=True) for at in range(len(part))]
        return columns | {"labels": np.asarray(ids, np.float32)}

    def _probabilities(self, outputs: Host, features: Features) -> list[np.ndarray]:
        """Of each choice, question by question."""
        bounds = itertools.pairwise(features.bounds)
        return [softmax(outputs["logits"][None, low:high])[0] for low, high in bounds]

    def mean(self, several: Sequence[Host], features: Features) -> Host:
        return {"logits": means.of_groups(np.stack([outputs["logits"] for outputs in several]), features.bounds)}

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        return {"accuracy": float(1 - self.errors(outputs, features, split).mean())}

    def errors(self, outputs: Host, features: Features, split: Split) -> np.ndarray:
        best = [int(part.argmax()) for part in self._probabilities(outputs, features)]
        return np.asarray(best) != np.asarray(split.table[RIGHT].to_pylist())

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """`prediction` is the number of the choice, from 0, and `choice` its text."""
        listed = split.table[CHOICES].to_pylist()
        for part, probabilities in zip(listed, self._probabilities(outputs, features), strict=True):
            best = int(probabilities.argmax())
            answer = {"prediction": best, "choice": part[best], "probability": float(probabilities[best])}
            yield answer | {"probabilities": probabilities.tolist()}

    def published(self, model: Model, max_length: int) -> Published:
        return Published("multiple-choice", USAGE)
