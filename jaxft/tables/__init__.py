"""The host's side of the tasks: rows in, examples, metrics and answers out. One file a task, and this registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxft import config, tasks
from jaxft.errors import UserError
from jaxft.tables.base import Host, Published, Table
from jaxft.tables.causal_lm import CausalLM
from jaxft.tables.chat import Chat
from jaxft.tables.masked_lm import MaskedLM
from jaxft.tables.multiple_choice import MultipleChoice
from jaxft.tables.next_sentence import NextSentence
from jaxft.tables.preference import Preference
from jaxft.tables.question_answering import QuestionAnswering
from jaxft.tables.sentence_embedding import SentenceEmbedding
from jaxft.tables.sequence_classification import SequenceClassification
from jaxft.tables.token_classification import TokenClassification
from jaxft.tasks import Task

TABLES: dict[type[config.Task], Callable[[Any], Table]] = {
    config.SequenceClassification: SequenceClassification,
    config.TokenClassification: TokenClassification,
    config.QuestionAnswering: QuestionAnswering,
    config.MaskedLM: MaskedLM,
    config.NextSentence: NextSentence,
    config.CausalLM: CausalLM,
    config.Chat: Chat,
    config.Preference: Preference,
    config.MultipleChoice: MultipleChoice,
    config.SentenceEmbedding: SentenceEmbedding,
}
"""Type of the options -> what makes the table of such options."""


def build(options: config.Task) -> Table:
    """Returns the table of these options."""
    return TABLES[type(options)](options)


def register(
    name: str, options: type[config.Task], *, task: Callable[[Any], Task], table: Callable[[Any], Table]
) -> None:
    """Adds a task of one's own: an experiment may have such `options`, and config.json calls them `name`.

    Args:
      task, table: make the two sides of it from such options.

    Raises:
      UserError: the package has a task of this name.
    """
    if config.TASKS.get(name, options).__module__ == config.Task.__module__:
        raise UserError(f"tables.register: jaxft has a task {name!r} of its own; choose another name")
    config.TASKS[name] = options
    tasks.TASKS[options], TABLES[options] = task, table


__all__ = ["TABLES", "Host", "Published", "Table", "build", "register"]
