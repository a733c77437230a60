"""Questions and their answers in one form, whatever the user has: a list of answers, an answer a row, or none."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxft.config import QuestionAnswering
from jaxft.data.columns import is_text, with_numbers, with_spelled, with_text, written
from jaxft.data.sources import Split, require_columns
from jaxft.errors import UserError

TEXTS, STARTS = "_answers", "_starts"
"""Columns of the answers to each question: their texts, and the characters of the context that they begin at."""

HINT = 'an answer is {"text": "...", "answer_start": 0}, or a text, with its place in config.task.answer_start'


class Answer(NamedTuple):
    """An answer, the character of the context that it begins at, and where its text occurs nearest to that."""

    text: str
    start: int
    nearest: int | None

    @property
    def right(self) -> bool:
        """Whether it is where it says."""
        return self.nearest == self.start


def read(options: QuestionAnswering, split: Split, labelled: bool) -> Split:
    """Returns the split with the columns `question`, `context`, and, if labelled, `TEXTS` and `STARTS`.

    Answers are a list of `{text, answer_start}` (SQuAD), `{text: [...], answer_start: [...]}` (the same on the Hugging
    Face Hub), or a text, which begins at the character that the column `answer_start` names. No answer, or an empty
    one, says that the context holds none. An answer that is not where it says is moved to where it occurs nearest
    (`options.repair` nearest), or left out (drop; also if it occurs nowhere), and with it a question that has no other.

    Raises:
      UserError: a column, a text or an answer that cannot be used, where, and how many there are.
    """
    names = ("question", "context", "answers") if labelled else ("question", "context")
    require_columns(split, {f"task.{name}": getattr(options, name) for name in names})
    kept = [options.question, options.context]
    for column in kept:
        split = with_text(split, column)
    table = split.table.select(kept)
    if not labelled:
        return split._replace(table=table)
    contexts = split.table[options.context].to_pylist()
    found = [
        [_placed(text, start, context) for text, start in _answers(value, options, split.where(row), split.hint)]
        for row, (value, context) in enumerate(zip(_values(options, split), contexts, strict=True))
    ]
    answers = _repaired(found, options, split)
    lines = _counts(found, answers, options)
    texts = pa.array([[text for text, _ in part] for part in answers], pa.list_(pa.large_string()))
    starts = pa.array([[start for _, start in part] for part in answers], pa.list_(pa.int64()))
    split = split._replace(table=table.append_column(TEXTS, texts).append_column(STARTS, starts)).noting(*lines)
    left = np.asarray([bool(part) or not given for part, given in zip(answers, found, strict=True)])
    return split if left.all() else split.take(np.flatnonzero(left))


def _values(options: QuestionAnswering, split: Split) -> list[Any]:
    """The answers of each question, as a list or an object of them."""
    for kind in (list, dict):
        split = with_spelled(split, options.answers, kind)
    given = split.table[options.answers]
    if not (is_text(given) or pa.types.is_integer(given.type) or pa.types.is_floating(given.type)):
        return given.to_pylist()
    require_columns(split, {"task.answer_start": options.answer_start})
    starts = with_numbers(split, options.answer_start).table[options.answer_start].to_pylist()
    pairs = zip(given.to_pylist(), starts, strict=True)
    return [[] if text is None or text == "" else {"text": text, "answer_start": start} for text, start in pairs]


def _answers(value: Any, options: QuestionAnswering, where: str, hidden: str) -> Iterator[tuple[str, int]]:
    listed = value
    if isinstance(value, dict):
        columns = [v if isinstance(v, list) else [v] for v in (value.get("text"), value.get("answer_start"))]
        if len(columns[0]) != len(columns[1]):
            counts = f"{len(columns[0])} texts, but {len(columns[1])} places of them"
            raise UserError(f"{where}: {options.answers!r} holds {counts}; {HINT}")
        listed = [dict(zip(("text", "answer_start"), pair, strict=True)) for pair in zip(*columns, strict=True)]
    if listed is not None and not isinstance(listed, list):
        raise UserError(f"{where}: {options.answers!r} holds {str(value)[:60]}; {HINT}{hidden}")
    for answer in listed or []:
        text, start = (answer.get(key) for key in ("text", "answer_start")) if isinstance(answer, dict) else "??"
        if isinstance(text, int | float) and not isinstance(text, bool):
            text = written(text)
        if isinstance(start, float) and start.is_integer():  # a column of whole numbers that once had an empty cell
            start = int(start)
        if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
            raise UserError(f"{where}: {options.answers!r} holds {str(answer)[:60]}; {HINT}")
        yield text, start


def _placed(text: str, start: int, context: str) -> Answer:
    if start >= 0 and text and context.startswith(text, start):
        return Answer(text, start, start)
    middle = min(max(start, 0), len(context))
    below, above = (context.rfind(text, 0, middle + len(text) - 1), context.find(text, middle)) if text else (-1, -1)
    places = [at for at in (below, above) if at >= 0]
    return Answer(text, start, min(places, key=lambda at: abs(at - start), default=None))


def _repaired(found: list[list[Answer]], options: QuestionAnswering, split: Split) -> list[list[tuple[str, int]]]:
    """The answers that are left of each question, where they are.

    Raises:
      UserError: some are not where they say, and are not to be repaired.
    """
    bad = [(row, one) for row, part in enumerate(found) for one in part if not one.right]
    if bad and not options.repair:
        (row, one), count = bad[0], sum(map(len, found))
        hint = "it does not occur there"
        if one.nearest is not None:
            hint = f"it is at {one.nearest} (counted in characters, from 0)"
        nowhere = sum(one.nearest is None for _, one in bad)
        raise UserError(
            f"{split.where(row)}: the answer {one.text[:40]!r} in {options.answers!r} is not in {options.context!r} "
            f"at {one.start}; {hint}; so it is with {len(bad):,} of {count:,} answers, {nowhere:,} of which occur "
            "nowhere; config.task.repair=nearest moves them, drop leaves them out"
        )
    drop = options.repair == "drop"
    return [
        [(one.text, one.nearest) for one in part if one.nearest is not None and (one.right or not drop)]
        for part in found
    ]


def _counts(found: list[list[Answer]], answers: list[list[tuple[str, int]]], options: QuestionAnswering) -> list[str]:
    """What there is to say of answers that have been repaired."""
    bad = [one for part in found for one in part if not one.right]
    if not bad:
        return []
    dropped = sum(map(len, found)) - sum(map(len, answers))
    questions = sum(bool(given) and not part for given, part in zip(found, answers, strict=True))
    return [
        f"{len(bad):,} answers in {options.answers!r} are not where they say: {len(bad) - dropped:,} moved to where "
        f"they occur nearest, {dropped:,} left out, with {questions:,} questions that have no other"
    ]
