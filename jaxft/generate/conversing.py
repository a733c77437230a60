"""A conversation with a model: what is said, the answer as it is written, and all of that before the next.

Of each turn the model reads what is new: see `jaxft.generate.resuming`.
"""

from collections.abc import Callable, Sequence

from jaxft.data.chat_template import Conversation, Template, applied
from jaxft.data.messages import Message
from jaxft.errors import UserError
from jaxft.generate.answers import Answer, answer, check_lengths, continued, encoded, first_of, stop_tokens, writer
from jaxft.generate.options import Options
from jaxft.generate.resuming import Kept, written
from jaxft.predict.predictor import Predictor

HALF = "\ufffd"
"""What stands for a letter of which a part is written."""

Show = Callable[[str], None]
"""Is given each piece of an answer, once it is sure to be one."""


class Talk:
    """A conversation, by the chat template of the tokenizer or of the run.

    Attributes:
      messages: said so far.
    """

    def __init__(self, predictor: Predictor, options: Options, system: str = ""):
        """Of a model that writes texts.

        Args:
          options: as `Options.check` returns them; of one answer, and one beam, as what beams write is not known before
            the end.
          system: a message that the conversation begins with; empty: none.

        Raises:
          UserError: the model writes none, the tokenizer has no chat template, or there are several beams or
            answers.
        """
        for name in ("beams", "answers"):
            if (count := getattr(options, name)) > 1:
                raise UserError(
                    f"generate.{name} is {count}; an answer that is shown as it is written is one text: leave it out"
                )
        self.engine, self.predictor, self.options = writer(predictor), predictor, options
        self._kept: Kept | None = None
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []
        with predictor.tokenizer() as tokenizer:
            self._template = Template(tokenizer, getattr(predictor.table.options, "template", ""))
            self._stops = stop_tokens(predictor.directory, tokenizer)

    def reply(self, said: str, show: Show) -> Answer:
        """Returns the answer to what the user says; both are part of the conversation then.

        Raises:
          UserError: the chat template does not take the conversation, or it is longer than the model.
        """
        messages = [*self.messages, {"role": "user", "content": said}]
        with applied("the conversation"):
            text = self._template.render(Conversation(messages), prompt=True)
        words = self.options.stop
        with self.predictor.tokenizer() as tokenizer:
            ids = encoded(tokenizer, text, rendered=True)
            check_lengths(self.engine, [len(ids)], lambda _: "the conversation")
            so_far = Shown(show)

            def watch(tokens: list[int]) -> bool:
                whole = continued(tokenizer, ids, tokens)
                at = first_of(whole, words)
                so_far.upto(whole[: settled(whole, words) if at is None else at])
                return at is not None

            found, self._kept = written(self.engine, ids, self._stops, self.options, self._kept, watch)
            one = answer(found, lambda tokens: continued(tokenizer, ids, tokens), words)
        so_far.upto(one.completion)
        self.messages = [*messages, {"role": "assistant", "content": one.completion}]
        return one


class Shown:
    """What has been shown of a text that grows."""

    def __init__(self, show: Show):
        self.text, self._show = "", show

    def upto(self, text: str) -> None:
        """Shows what a text has beyond what was shown; nothing, where it has become another one."""
        if text.startswith(self.text) and len(text) > len(self.text):
            self._show(text[len(self.text) :])
            self.text = text


def settled(text: str, words: Sequence[str]) -> int:
    """Returns how many characters of a text stay, whatever follows: no half letter, nor what may begin a word.

    Args:
      words: those that end the text, of which it has none yet.
    """
    size = len(text.rstrip(HALF))
    begun = (at for word in words for at in range(max(size - len(word) + 1, 0), size) if word.startswith(text[at:size]))
    return min(begun, default=size)
