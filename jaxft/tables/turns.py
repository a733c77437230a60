"""What tables of conversations share: their chat template, and examples of which the assistant's turns are learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.batch import IGNORED
from jaxft.data import formats
from jaxft.data.chat_template import Conversation, Template
from jaxft.data.conversation import of_tokens, turns
from jaxft.errors import UserError
from jaxft.hub.directory import CHAT_TEMPLATE
from jaxft.storage import paths

USAGE = """from transformers import pipeline

predict = pipeline("text-generation", model="path/to/this/directory")
print(predict([{"role": "user", "content": "A question"}]))"""


def template_of(value: str) -> str:
    """Returns the chat template that `task.template` is or names; "" for the tokenizer's own.

    Raises:
      UserError: it names no file.
    """
    if not value or "{" in value:
        return value
    file = paths.resolve(value)
    if file is None or not file.is_file():
        raise UserError(f"config.task.template: {paths.missing(value)}")
    text = formats.decode(file, "utf-8")
    if "{" not in text:
        raise UserError(f"config.task.template: {file} is no template: it has no {{{{ }}}} of Jinja")
    return text


def files(template: str) -> dict[str, Any]:
    """Returns the files by which an export has a template that is not the tokenizer's own."""
    return {CHAT_TEMPLATE: template} if template else {}


def encoded(
    conversations: Sequence[Conversation], where: Sequence[str], tokenizer: Any, template: str, max_length: int
) -> dict[str, Any]:
    """Returns the columns of an example a conversation, of `max_length` tokens at most: what is longer is cut.

    `labels` are the tokens of the turns that are learned, else `IGNORED`. Of each example `learned` counts these
    tokens, `halved` the turns that the cut goes through, and `lost` those behind it.

    Args:
      where: what errors call each.
      template: in Jinja; "": the tokenizer's own.

    Raises:
      UserError: there is no template, or it does not take a conversation; see `jaxft.data.conversation.turns`.
    """
    rendered = Template(tokenizer, template)
    texts = [turns(rendered, one, place) for one, place in zip(conversations, where, strict=True)]
    found = tokenizer(
        [text for text, _ in texts],
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", "token_type_ids", "labels")}
    counts = []
    for (text, spans), ids, offsets in zip(texts, found["input_ids"], found["offset_mapping"], strict=True):
        owners = of_tokens(text, offsets, spans)
        kept, behind = Counter(owners[:max_length]), Counter(owners[max_length:])
        halved = sum(turn >= 0 and turn in behind for turn in kept)
        lost = sum(turn >= 0 and turn not in kept for turn in behind)
        counts.append((sum(kept.values()) - kept[-1], halved, lost))
        ids = ids[:max_length]
        columns["input_ids"].append(ids)
        columns["token_type_ids"].append([0] * len(ids))
        labels = [token if owner >= 0 else IGNORED for token, owner in zip(ids, owners, strict=False)]
        columns["labels"].append(labels)
    numbers = np.asarray(counts, np.int32).reshape(-1, 3)
    return columns | {name: numbers[:, at] for at, name in enumerate(("learned", "halved", "lost"))}
