"""Chat templates: programs in Jinja, most often a tokenizer's own, that make a text of a conversation."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxft.data.messages import Message
from jaxft.errors import UserError

MARK = "Zq7XjV3kQ"
"""What is put in the place of what is said: no template changes letters and digits."""

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

Span = tuple[int, int]
"""First and last-plus-one character."""


class Conversation(NamedTuple):
    """Messages, the tools that are offered, and the first message that is learned if it is of the assistant."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None = None
    first: int = 0

    def but(self, at: int, other: Message) -> "Conversation":
        """The same with another message at a place."""
        return self._replace(messages=[*self.messages[:at], other, *self.messages[at + 1 :]])

    def until(self, at: int) -> "Conversation":
        """Its first messages."""
        return self._replace(messages=self.messages[:at])

    def then(self, said: Message) -> "Conversation":
        """The same with a message more."""
        return self._replace(messages=[*self.messages, said])


@contextlib.contextmanager
def applied(where: str) -> Iterator[None]:
    """Makes a user's error of what a template raises inside: one of jinja2, or of Python, as it is a program.

    Args:
      where: what the error calls the conversation.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {str(error)[:120]}"
        raise UserError(f"{where}: the chat template does not take it ({told})") from error


class Template:
    """A chat template, with the tokenizer whose special tokens it names. It raises whatever the template raises.

    Attributes:
      tokens: texts of the tokenizer's added tokens, the longest first.
    """

    def __init__(self, tokenizer: Any, text: str = ""):
        """Of a tokenizer's own, or of a `text` in Jinja.

        Raises:
          UserError: the tokenizer has none.
        """
        self._tokenizer, self._text = tokenizer, text
        if not (text or tokenizer.chat_template):
            raise UserError(
                "the tokenizer has no chat template, which says how messages become a text; name a file of one in "
                "config.task.template, or take a model that has one"
            )
        self.tokens = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)

    def render(self, given: Conversation, prompt: bool = False) -> str:
        """Returns the text of a conversation; with the prompt for the assistant's turn behind it, if asked."""
        return self.marked(given, prompt)[0]

    def marked(self, given: Conversation, prompt: bool = False) -> tuple[str, list[Span]]:
        """Returns the text, and what of it the template marks as said by the assistant, which may be nothing."""
        from transformers.utils.chat_template_utils import render_jinja_template

        tools: Any = list(given.tools) if given.tools else None
        source = self._text or self._tokenizer.get_chat_template(None, tools)
        marks = bool(GENERATION.search(source))
        found: Any = render_jinja_template(
            conversations=[list(given.messages)],
            tools=tools,
            chat_template=source,
            return_assistant_tokens_mask=marks,
            add_generation_prompt=prompt,
            **self._tokenizer.special_tokens_map,
        )
        texts, spans = found
        return texts[0], spans[0] if marks else []

    def omitted(self, given: Conversation, text: str) -> str:
        """Returns what a text of the conversation leaves out of tools, calls of them, and others' messages; "": none.

        What the assistant says is left out by intent, as thoughts of earlier turns are.
        """
        if given.tools and self._tried(given._replace(tools=None)) == text:
            return "tools"
        for at, one in enumerate(given.messages):
            if one.get("tool_calls"):
                bare = {name: value for name, value in one.items() if name != "tool_calls"}
                if self._tried(given.but(at, bare)) == text:
                    return f"tool_calls of message {at + 1}"
            if one["role"] != "assistant" and self._tried(given.but(at, {**one, "content": MARK})) == text:
                return f"content of message {at + 1}"
        return ""

    def _tried(self, given: Conversation) -> str:
        """The text; none where the template refuses it, as one that wants a call before an answer of a tool."""
        try:
            return self.render(given)
        except Exception:
            return ""
