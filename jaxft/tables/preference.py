"""Pairs of answers to the same, of which one is preferred. An example is an answer, with what it answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data.chat_template import Conversation
from jaxft.data.features import Features
from jaxft.data.messages import Message, with_messages, with_parts, with_tools
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.models import Model
from jaxft.tables import turns
from jaxft.tables.base import Host, Published, Table
from jaxft.tasks.preference import REFERENCE


@dataclasses.dataclass(frozen=True)
class Preference(Table):
    """Columns of it hold JSON once they have been read."""

    options: config.Preference
    metric: str = "accuracy"

    @property
    def inputs(self) -> tuple[str, ...]:
        options = self.options
        return tuple(filter(None, (options.prompt, options.chosen, options.rejected, options.tools)))

    @property
    def examples(self) -> int:
        return 2

    def read(self, split: Split, labelled: bool = True) -> Split:
        options = self.options
        answers = {"task.chosen": options.chosen, "task.rejected": options.rejected}
        if options.prompt:
            split = with_parts(split, options.prompt, answers)
        else:
            for key, column in answers.items():
                split = with_messages(split, column, key)
        split = with_tools(split, options.tools)
        for row, (chosen, rejected) in enumerate(self._pairs(split)):
            if chosen.messages == rejected.messages:
                raise UserError(f"{split.where(row)}: {self._same()}")
        return split

    def _same(self) -> str:
        return f"{self.options.chosen!r} and {self.options.rejected!r} are the same: none is preferred; leave it out"

    def resolve(self, splits: Mapping[str, Split]) -> config.Preference:
        return dataclasses.replace(self.options, template=turns.template_of(self.options.template))

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        both = [one for pair in self._pairs(split) for one in pair]
        where = [f"{split.where(row)}: {name!r}" for row in range(len(both) // 2) for name in self._answers]
        columns = turns.encoded(both, where, tokenizer, self.options.template, max_length)
        ids, cut = columns["input_ids"], columns["halved"] + columns["lost"] > 0
        for row, (chosen, rejected) in enumerate(zip(ids[::2], ids[1::2], strict=True)):
            if chosen == rejected and not cut[2 * row]:  # a template may strip all that is different
                raise UserError(f"{split.where(row)}: {self._same()}")
        return columns | {"row": np.repeat(np.arange(len(both) // 2), 2)}

    @property
    def _answers(self) -> tuple[str, str]:
        return self.options.chosen, self.options.rejected

    def _pairs(self, split: Split) -> Iterator[tuple[Conversation, Conversation]]:
        """Of each row the conversation with either answer; what both begin with is not learned."""
        for row in split.table.select(self.inputs).to_pylist():
            loaded = {name: json.loads(value) for name, value in row.items() if value is not None}
            before = loaded[self.options.prompt] if self.options.prompt else []
            chosen, rejected = (before + loaded[name] for name in self._answers)
            first, tools = shared(chosen, rejected), loaded.get(self.options.tools)
            yield Conversation(chosen, tools, first), Conversation(rejected, tools, first)

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        """How often the chosen answer has the greater reward, and by how much on average.

        The reward is b (log p - log q), for orpo b log p; log probabilities are sums for dpo, and else means.
        """
        options, log_probs = self.options, outputs["log_prob"].astype(np.float64)
        if options.loss != "orpo":
            log_probs = log_probs - features.examples.get(REFERENCE, np.nan)
        if options.loss != "dpo":
            log_probs = log_probs / np.maximum(outputs["counted"], 1)
        margins = options.beta * (log_probs[::2] - log_probs[1::2])
        known = (outputs["counted"].reshape(-1, 2) > 0).all(-1)
        if not known.any():
            return {}
        margins = margins[known]
        right = np.where(np.isnan(margins), np.nan, margins > 0)
        return {"accuracy": float(right.mean()), "margin": float(margins.mean())}

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """Of each pair the log probability and the tokens of either answer, and which is likelier a token."""
        names = ("chosen", "rejected")
        log_probs, tokens = outputs["log_prob"].reshape(-1, 2), outputs["counted"].reshape(-1, 2)
        for found, counts in zip(log_probs, tokens, strict=True):
            means = found / np.maximum(counts, 1)
            said = {"prediction": names[int(means[1] > means[0])]} if counts.all() else {"prediction": None}
            for name, value, count in zip(names, found, counts, strict=True):
                said |= {f"{name}_log_prob": float(value) if count else None, f"{name}_tokens": int(count)}
            yield said

    def published(self, model: Model, max_length: int) -> Published:
        return Published("text-generation", turns.USAGE, files=turns.files(self.options.template))


def shared(chosen: list[Message], rejected: list[Message]) -> int:
    """Returns with how many messages both begin."""
    pairs = zip(chosen, rejected, strict=False)
    return next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(chosen), len(rejected)))
