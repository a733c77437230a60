"""Questions as SQuAD's JSON files hold them (Rajpurkar et al. 2016, 2018): articles of paragraphs of questions."""

import json
from collections.abc import Iterator
from typing import Any

from jaxft.errors import UserError

SHAPE = '{"data": [{"paragraphs": [{"context": "...", "qas": [{"question": "...", "answers": [...]}]}]}]}'


def articles(text: str) -> Any:
    """What is at `data` of a SQuAD file; None where a text is none."""
    if not text.lstrip().startswith("{") or '"paragraphs"' not in text:
        return None
    try:
        return json.loads(text).get("data")
    except json.JSONDecodeError as error:
        if error.msg.startswith("Extra data"):
            return None  # JSON lines
        raise


def questions(data: Any, origin: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row for each question, with the name of its place.

    Raises:
      UserError: something is missing or of another kind, and where.
    """
    for at, article, paragraphs in _each(data, "paragraphs", "data", origin):
        for below, paragraph, asked in _each(paragraphs, "qas", f"{at}.paragraphs", origin):
            for place, question, answers in _each(asked, "answers", f"{below}.qas", origin):
                row = {"title": article.get("title"), "id": question.get("id"), "question": question.get("question")}
                row |= {"context": paragraph.get("context")}
                for name in ("question", "context"):
                    if not isinstance(row[name], str):
                        raise UserError(f"{origin}, {place}: no {name!r}; SQuAD JSON is {SHAPE}")
                for answer in answers:
                    if not isinstance(answer, dict) or not {"text", "answer_start"} <= answer.keys():
                        hint = 'an answer is {"text": "...", "answer_start": 0}'
                        raise UserError(f"{origin}, {place}: 'answers' holds {str(answer)[:40]}; {hint}")
                kept = [] if question.get("is_impossible") else answers
                yield place, row | {"answers": [{k: a[k] for k in ("text", "answer_start")} for a in kept]}


def _each(things: Any, inside: str, place: str, origin: str) -> Iterator[tuple[str, dict[str, Any], list[Any]]]:
    """Each of a list of objects: its place, itself, and the list that it holds under a name.

    A question may lack its answers: they are not known.
    """
    for number, thing in enumerate(things if isinstance(things, list) else [things]):
        held = thing.get(inside, [] if inside == "answers" else None) if isinstance(thing, dict) else None
        if not isinstance(held, list):
            raise UserError(f"{origin}, {place}[{number}]: no list {inside!r}; SQuAD JSON is {SHAPE}")
        yield f"{place}[{number}]", thing, held
