"""What is learned: one file a task, and this registry of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from jaxft import config
from jaxft.errors import UserError
from jaxft.tasks import (
    masked_lm,
    multiple_choice,
    next_sentence,
    question_answering,
    sentence_embedding,
    sequence_classification,
    token_classification,
)
from jaxft.tasks.base import Task

if TYPE_CHECKING:
    from jaxft.data.sources import Split

T = TypeVar("T", bound=config.Task)

TASKS: dict[type[config.Task], Any] = {
    config.SequenceClassification: sequence_classification,
    config.TokenClassification: token_classification,
    config.QuestionAnswering: question_answering,
    config.MaskedLM: masked_lm,
    config.NextSentence: next_sentence,
    config.MultipleChoice: multiple_choice,
    config.SentenceEmbedding: sentence_embedding,
}
"""Options -> the module, or anything else, that has `read`, `resolve` and `build`, as below."""


def register(
    name: str,
    options: type[config.Task],
    *,
    read: Callable[[Any, Split, bool], Split],
    build: Callable[[Any], Task],
    resolve: Callable[[Any, Mapping[str, Split]], Any] = lambda options, splits: options,
) -> None:
    """Adds a task of one's own: an experiment may have such `options`, and config.json calls them `name`.

    Args:
      read, resolve, build: as the functions of these names below, of these options.

    Raises:
      UserError: the package has a task of this name.
    """
    if config.TASKS.get(name, options).__module__ == config.Task.__module__:
        raise UserError(f"tasks.register: jaxft has a task {name!r} of its own; choose another name")
    config.TASKS[name] = options
    TASKS[options] = SimpleNamespace(read=read, resolve=resolve, build=build)


def read(options: config.Task, split: Split, labelled: bool = True) -> Split:
    """The split, checked row by row, as the task takes it: the same rows, columns in the one form that it works on.

    Raises:
      UserError: a column, a text or a label that the task cannot use, and where.
    """
    return TASKS[type(options)].read(options, split, labelled)


def resolve(options: T, splits: Mapping[str, Split]) -> T:
    """The options with everything in them that only the data, as `read` gives them, can tell (label names).

    Raises:
      UserError: splits that do not fit together, and where.
    """
    return TASKS[type(options)].resolve(options, splits)


def build(options: config.Task) -> Task:
    """The task that resolved options describe."""
    return TASKS[type(options)].build(options)


def assume(options: config.Task) -> dict[str, Any]:
    """Values that resolve the options where there are no data: what a plan of their run supposes, and says."""
    supposed = getattr(TASKS[type(options)], "assume", None)  # few tasks leave anything to the data
    return supposed(options) if supposed else {}


__all__ = ["TASKS", "Task", "assume", "build", "read", "register", "resolve"]
