"""The text that a chat template makes of a conversation, and which of its tokens the assistant says.

Where the template marks them ({% generation %}) its marks are taken. Else a turn begins where the template's prompt for
it ends, and ends with the token that ends turns. Templates may strip what was said, leave out what was thought in
earlier turns, or move tools, so that the text of the first messages is not how that of all begins: each turn is
therefore found by rendering the conversation with another in its place too, and one that is not found is refused.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxft.data.messages import Message
from jaxft.errors import UserError

MARK = "Zq7XjV3kQ"
"""What is put in the place of a turn: no template changes letters and digits."""

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

PLAIN = {"role": "assistant", "content": MARK}

MISSING = (
    "the tokenizer has no chat template, which says how messages become a text; name a file of one in "
    "config.task.template, or take a model that has one"
)

UNCLEAR = (
    "which text of the chat template is {} cannot be told: {}; put {{% generation %}} and {{% endgeneration %}} around "
    "what the assistant says, in a template that config.task.template names"
)

Span = tuple[int, int]
"""First and last-plus-one character, or token."""


class Conversation(NamedTuple):
    """Messages, the tools that are offered, and the first message that is learned if it is of the assistant."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None = None
    first: int = 0


class Other(NamedTuple):
    """What is around the text of a turn: before it, behind it, and behind it where it is the last one."""

    leading: str
    trailing: str
    alone: str


class Template:
    """A chat template, with the tokenizer whose special tokens it names."""

    def __init__(self, tokenizer: Any, text: str = ""):
        """Of a tokenizer's own, or of a `text` in Jinja.

        Raises:
          UserError: the tokenizer has none.
        """
        self._tokenizer, self._text = tokenizer, text
        if not (text or tokenizer.chat_template):
            raise UserError(MISSING)
        self._ends = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)

    def render(self, given: Conversation, messages: Sequence[Message], prompt: bool) -> str:
        """Returns the text of some messages; with the prompt for the assistant's turn behind them, if asked."""
        return self._rendered(given, messages, prompt, marks=False)[0]

    def _rendered(
        self, given: Conversation, messages: Sequence[Message], prompt: bool, marks: bool
    ) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        tools: Any = list(given.tools) if given.tools else None
        found: Any = render_jinja_template(
            conversations=[list(messages)],
            tools=tools,
            chat_template=self._source(tools),
            return_assistant_tokens_mask=marks,
            add_generation_prompt=prompt,
            **self._tokenizer.special_tokens_map,
        )
        texts, spans = found
        return texts[0], spans[0] if marks else []

    def _source(self, tools: Any) -> str:
        return self._text or self._tokenizer.get_chat_template(None, tools)

    def turns(self, given: Conversation, where: str) -> tuple[str, list[Span]]:
        """Returns the text of a conversation, and where in it the turns lie that are learned, in characters.

        Raises:
          UserError: the template does not take the conversation, or a turn is not found for certain.
        """
        learned = [at for at, one in enumerate(given.messages) if one["role"] == "assistant"]
        try:
            marked = bool(GENERATION.search(self._source(given.tools)))
            text, spans = self._rendered(given, given.messages, prompt=False, marks=marked)
            if len(spans) != len(learned):
                spans = [self._turn(given, at, text, where) for at in learned if at >= given.first]
            else:
                spans = [span for at, span in zip(learned, spans, strict=True) if at >= given.first]
        except UserError:
            raise
        except Exception as error:  # what a template raises: of jinja2, or of Python, as it is a program
            told = f"{type(error).__name__}: {str(error)[:120]}"
            raise UserError(f"{where}: the chat template does not take it ({told})") from error
        ends = [end for _, end in spans]
        if any(not before <= begin < end for before, (begin, end) in zip([0, *ends], spans, strict=False)):
            raise UserError(f"{where}: {UNCLEAR.format('its turns', 'they overlap, or are empty')}")
        return text, spans

    def _turn(self, given: Conversation, at: int, text: str, where: str) -> Span:
        """Where the turn of message `at` lies in the text of the whole conversation."""
        before, said = given.messages[:at], given.messages[at]
        prompt, bare = self.render(given, before, True), self.render(given, before, False)
        head, _ = _around(self.render(given, [*before, PLAIN], False))
        others = list(self._others(given, at))
        # Without a prompt of its own a template may still put a header before the turn, which is not the assistant's.
        immediate = prompt != bare or (head.startswith(prompt) and not head[len(prompt) :].strip())
        begins = [len(prompt)] if immediate and text.startswith(prompt) else []
        begins += [len(other.leading) for other in others if text.startswith(other.leading)]
        fitting = [other for other in others if text.endswith(other.trailing)]
        ends = [len(text) - len(other.trailing) + end for other in fitting if (end := self._ending(other)) is not None]
        if not others and text.startswith(whole := self.render(given, [*before, said], False)):
            ends = [len(whole.rstrip())]
        if not (begins and ends):
            why = "end as another in its place would" if begins else "begin where its prompt ends"
            raise UserError(f"{where}: {UNCLEAR.format(f'message {at + 1}', f'it does not {why}')}")
        if (content := said["content"].strip()) in text and content not in text[begins[0] : ends[0]]:
            raise UserError(f"{where}: {UNCLEAR.format(f'message {at + 1}', 'it is not where it should be')}")
        return begins[0], ends[0]

    def _others(self, given: Conversation, at: int) -> Iterator[Other]:
        """What is around message `at`, found with another in its place: a plain one, or one with its own calls.

        A template may refuse the one, as it wants a call before an answer of a tool, and not show the other's text.
        """
        before, said, behind = given.messages[:at], given.messages[at], given.messages[at + 1 :]
        for other in (PLAIN, {**said, "content": MARK}):
            with contextlib.suppress(Exception):
                around = _around(self.render(given, [*before, other, *behind], False))
                yield Other(*around, _around(self.render(given, [*before, other], False))[1])

    def _ending(self, other: Other) -> int | None:
        """How many characters behind what was said are the turn's end; None: it cannot be told.

        That is the special token there, blanks before it included, or all that is there where nothing follows.
        """
        follows, last = other.trailing.lstrip(), other.alone.lstrip()
        for token in self._ends:
            if follows.startswith(token) and last.startswith(token):
                return len(other.trailing) - len(follows) + len(token)
        if other.trailing.startswith(other.alone):
            return len(other.alone.rstrip())
        return None if follows and follows[0] == last[:1] else 0


def _around(text: str) -> tuple[str, str]:
    head, mark, tail = text.partition(MARK)
    if not mark or MARK in tail:
        raise ValueError("the text of a turn is there more than once, or not at all")
    return head, tail


def of_tokens(text: str, offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """Returns of each token the number of the turn that it is of, from 0; -1: it is of none.

    A token is of the turn in which it begins; blanks before its first letter do not count.

    Args:
      offsets: of each token its characters.
      spans: of the turns, ascending.
    """
    found = []
    for begin, end in offsets:
        piece = text[begin:end]
        first = begin + (len(piece) - len(piece.lstrip()) if piece.strip() else 0)
        found.append(next((turn for turn, (low, high) in enumerate(spans) if low <= first < high), -1))
    return found
