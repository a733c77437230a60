"""Which part of the text of a conversation the assistant says, and which of its tokens.

Where the chat template marks it ({% generation %}) its marks are taken. Else a turn begins where the template's prompt
for it ends, and ends with the token that ends turns. Templates may strip what was said, leave out what was thought in
earlier turns, or move tools, so that the text of the first messages is not how that of all begins: each turn is
therefore found by rendering the conversation with another in its place too, and one that is not found is refused.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jaxft.data.chat_template import MARK, Conversation, Span, Template, applied
from jaxft.errors import UserError

PLAIN = {"role": "assistant", "content": MARK}

UNCLEAR = (
    "which text of the chat template is {} cannot be told: {}; put {{% generation %}} and {{% endgeneration %}} around "
    "what the assistant says, in a template that config.task.template names"
)


class Other(NamedTuple):
    """What is around the text of a turn: before it, behind it, and behind it where it is the last one."""

    leading: str
    trailing: str
    alone: str


def turns(template: Template, given: Conversation, where: str) -> tuple[str, list[Span]]:
    """Returns the text of a conversation, and where in it the turns lie that are learned, in characters, ascending.

    Raises:
      UserError: the template does not take the conversation or leaves a part of it out, or a turn is not found for
        certain.
    """
    learned = [at for at, one in enumerate(given.messages) if one["role"] == "assistant"]
    with applied(where):
        text, spans = template.marked(given)
        if omitted := template.omitted(given, text):
            raise UserError(
                f"{where}: the chat template leaves out the {omitted}; leave the row out, or name a template that has "
                "it in config.task.template"
            )
        if len(spans) != len(learned):
            spans = [_turn(template, given, at, text, where) for at in learned if at >= given.first]
        else:
            spans = [span for at, span in zip(learned, spans, strict=True) if at >= given.first]
    ends = [end for _, end in spans]
    if any(not before <= begin < end for before, (begin, end) in zip([0, *ends], spans, strict=False)):
        raise UserError(f"{where}: {UNCLEAR.format('its turns', 'they overlap, or are empty')}")
    return text, spans


def _turn(template: Template, given: Conversation, at: int, text: str, where: str) -> Span:
    """Where the turn of message `at` lies in the text of the whole conversation."""
    before, said = given.until(at), given.messages[at]
    prompt, bare = template.render(before, prompt=True), template.render(before)
    head, _ = _around(template.render(before.then(PLAIN)))
    others = list(_others(template, given, at))
    # Without a prompt of its own a template may still put a header before the turn, which is not the assistant's.
    immediate = prompt != bare or (head.startswith(prompt) and not head[len(prompt) :].strip())
    begins = [len(prompt)] if immediate and text.startswith(prompt) else []
    begins += [len(other.leading) for other in others if text.startswith(other.leading)]
    fitting = [other for other in others if text.endswith(other.trailing)]
    known = ((other, _ending(other, template.tokens)) for other in fitting)
    ends = [len(text) - len(other.trailing) + end for other, end in known if end is not None]
    if not others and text.startswith(whole := template.render(before.then(said))):
        ends = [len(whole.rstrip())]
    if not (begins and ends):
        why = "end as another in its place would" if begins else "begin where its prompt ends"
        raise UserError(f"{where}: {UNCLEAR.format(f'message {at + 1}', f'it does not {why}')}")
    if (content := said["content"].strip()) in text and content not in text[begins[0] : ends[0]]:
        raise UserError(f"{where}: {UNCLEAR.format(f'message {at + 1}', 'it is not where it should be')}")
    return begins[0], ends[0]


def _others(template: Template, given: Conversation, at: int) -> Iterator[Other]:
    """What is around message `at`, found with another in its place: a plain one, or one with its own calls.

    A template may refuse the one, as it wants a call before an answer of a tool, and not show the other's text.
    """
    for other in (PLAIN, {**given.messages[at], "content": MARK}):
        with contextlib.suppress(Exception):
            around = _around(template.render(given.but(at, other)))
            yield Other(*around, _around(template.render(given.until(at).then(other)))[1])


def _ending(other: Other, tokens: Sequence[str]) -> int | None:
    """How many characters behind what was said are the turn's end; None: it cannot be told.

    That is the special token there, blanks before it included, or all that is there where nothing follows.
    """
    follows, last = other.trailing.lstrip(), other.alone.lstrip()
    for token in tokens:
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
