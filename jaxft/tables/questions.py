"""Questions and their answers in one form, whatever the user has: a list of answers, an answer a row, or none."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from jaxft.config import QuestionAnswering
from jaxft.data.sources import Split, check_text, require_columns
from jaxft.errors import UserError

TEXTS, STARTS = "_answers", "_starts"
"""Columns of the answers to each question: their texts, and the characters of the context that they begin at."""

Answer = tuple[str, int]


def read(options: QuestionAnswering, split: Split, labelled: bool) -> Split:
    """The split with the columns `question`, `context`, and, if labelled, `TEXTS` and `STARTS`.

    Answers are a list of `{text, answer_start}` (SQuAD), `{text: [...], answer_start: [...]}` (the same on the Hugging
    Face Hub), or a text, which begins at the character that the column `answer_start` names. No answer, or an empty
    one, says that the context holds none.

    Raises:
      UserError: a column, a text or an answer that cannot be used, and where.
    """
    names = ("question", "context", "answers") if labelled else ("question", "context")
    require_columns(split, {f"task.{name}": getattr(options, name) for name in names})
    kept = [options.question, options.context]
    for column in kept:
        check_text(split, column)
    table = split.table.select(kept)
    if not labelled:
        return split._replace(table=table)
    given = split.table[options.answers]
    if pa.types.is_string(given.type) or pa.types.is_large_string(given.type):
        require_columns(split, {"task.answer_start": options.answer_start})
        starts = split.table[options.answer_start].to_pylist()
        values = [{"text": t, "answer_start": s} if t else [] for t, s in zip(given.to_pylist(), starts, strict=True)]
    else:
        values = given.to_pylist()
    contexts = split.table[options.context].to_pylist()
    answers = [
        [_checked(answer, context, options, split.where(row)) for answer in _answers(value, options, split.where(row))]
        for row, (value, context) in enumerate(zip(values, contexts, strict=True))
    ]
    texts = pa.array([[text for text, _ in part] for part in answers], pa.list_(pa.large_string()))
    starts = pa.array([[start for _, start in part] for part in answers], pa.list_(pa.int64()))
    return split._replace(table=table.append_column(TEXTS, texts).append_column(STARTS, starts))


def _answers(value: Any, options: QuestionAnswering, where: str) -> Iterator[Answer]:
    listed = value
    if isinstance(value, dict):
        columns = [v if isinstance(v, list) else [v] for v in (value.get("text"), value.get("answer_start"))]
        listed = [dict(zip(("text", "answer_start"), pair, strict=True)) for pair in zip(*columns, strict=False)]
    for answer in listed or []:
        text, start = (answer.get(key) for key in ("text", "answer_start")) if isinstance(answer, dict) else "??"
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            hint = (
                'an answer is {"text": "...", "answer_start": 0}, or a text, with its place in config.task.answer_start'
            )
            raise UserError(f"{where}: {options.answers!r} holds {str(answer)[:60]}; {hint}")
        yield text, start


def _checked(answer: Answer, context: str, options: QuestionAnswering, where: str) -> Answer:
    text, start = answer
    if start < 0 or not text or context[start : start + len(text)] != text:
        places = [at for at in range(len(context)) if text and context.startswith(text, at)]
        nearest = min(places, key=lambda at: abs(at - start), default=None)
        hint = "it does not occur there" if nearest is None else f"it is at {nearest} (counted in characters, from 0)"
        raise UserError(
            f"{where}: the answer {text[:40]!r} in {options.answers!r} is not in {options.context!r} at {start}; {hint}"
        )
    return answer
