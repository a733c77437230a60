"""Conversations, of which the assistant's turns are learned.

Metrics and answers are those of texts (`jaxft.tables.causal_lm`), of these turns alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from jaxft import config
from jaxft.data.chat_template import Conversation
from jaxft.data.messages import FOLLOWS, with_messages, with_parts, with_tools
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.models import Model
from jaxft.tables import turns
from jaxft.tables.base import Published
from jaxft.tables.causal_lm import CausalLM


@dataclasses.dataclass(frozen=True)
class Chat(CausalLM):
    """An example is a conversation. Columns of it hold JSON once they have been read."""

    options: config.Chat  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def inputs(self) -> tuple[str, ...]:
        options = self.options
        columns = (options.messages,) if options.messages else (options.prompt, options.completion)
        return (*columns, options.tools) if options.tools else columns

    def read(self, split: Split, labelled: bool = True) -> Split:
        options = self.options
        if options.messages:
            split = with_messages(split, options.messages, "task.messages")
        else:
            split = with_parts(split, options.prompt, {"task.completion": options.completion})
        return with_tools(split, options.tools)

    def asked(self, split: Split) -> tuple[list[Conversation], list[str]]:
        """Returns each conversation up to what the assistant says last, and what that is; "": it is to be said.

        Raises:
          UserError: a row is no conversation, or it asks nothing at its end, and where.
        """
        options, there = self.options, split.table.column_names
        if options.messages:
            columns = [options.messages]
            split = with_messages(split, options.messages, "task.messages", answered=False)
        else:
            completions = {"task.completion": options.completion} if options.completion in there else {}
            columns = [options.prompt, *completions.values()]
            split = with_parts(split, options.prompt, completions)
        split = with_tools(split, options.tools)
        found, said = [], []
        for row, values in enumerate(split.table.to_pylist()):
            messages = [one for name in columns for one in json.loads(values[name])]
            last = messages.pop() if messages[-1]["role"] == "assistant" else {"content": ""}
            if not messages or messages[-1]["role"] not in FOLLOWS["assistant"]:
                raise UserError(f"{split.where(row)}: {columns[0]!r} asks nothing: end it with a message of 'user'")
            tools = values[options.tools] if options.tools else None
            found.append(Conversation(messages, tools and json.loads(tools)))
            said.append(last["content"])
        return found, said

    def resolve(self, splits: Mapping[str, Split]) -> config.Chat:
        return dataclasses.replace(self.options, template=turns.template_of(self.options.template))

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        where = [split.where(row) for row in range(split.table.num_rows)]
        return turns.encoded(list(self._conversations(split)), where, tokenizer, self.options.template, max_length)

    def _conversations(self, split: Split) -> Iterator[Conversation]:
        columns = [name for name in self.inputs if name != self.options.tools]
        for row in split.table.to_pylist():
            parts = [json.loads(row[name]) for name in columns]
            tools = row[self.options.tools] if self.options.tools else None
            first = sum(map(len, parts[:-1]))
            yield Conversation([one for part in parts for one in part], tools and json.loads(tools), first)

    def published(self, model: Model, max_length: int) -> Published:
        return Published("text-generation", turns.USAGE, files=turns.files(self.options.template))
