"""What is learned: one file a task, pure, and this registry of them. Their tables are in `jaxft.tables`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxft import config
from jaxft.tasks.base import Task
from jaxft.tasks.causal_lm import CausalLM
from jaxft.tasks.masked_lm import MaskedLM
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.next_sentence import NextSentence
from jaxft.tasks.preference import Preference
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.tasks.sentence_embedding import SentenceEmbedding
from jaxft.tasks.sequence_classification import SequenceClassification
from jaxft.tasks.token_classification import TokenClassification

TASKS: dict[type[config.Task], Callable[[Any], Task]] = {
    config.SequenceClassification: SequenceClassification,
    config.TokenClassification: TokenClassification,
    config.QuestionAnswering: QuestionAnswering,
    config.MaskedLM: MaskedLM,
    config.NextSentence: NextSentence,
    config.CausalLM: CausalLM,
    config.Chat: CausalLM,
    config.Preference: Preference,
    config.MultipleChoice: MultipleChoice,
    config.SentenceEmbedding: SentenceEmbedding,
}
"""Type of the options -> what makes the task of such options."""


def build(options: config.Task) -> Task:
    """Returns the task that resolved options describe."""
    return TASKS[type(options)](options)


__all__ = ["TASKS", "Task", "build"]
