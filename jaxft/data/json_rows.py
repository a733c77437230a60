"""JSON as rows: lines of objects, an array of them, {"data": [...]} or SQuAD."""

import io
import json
from collections.abc import Iterator
from typing import Any

from jaxft.data import squad
from jaxft.errors import UserError


def objects(text: str, origin: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each object of a file, or each question of one in the format of SQuAD, with the name of its place.

    Raises:
      UserError: broken JSON, or what is no object, and where.
    """
    try:
        articles = squad.articles(text)
        held = None if articles is not None else _data(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{origin}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin}: broken JSON ({_short(error)})") from error
    if articles is not None:
        yield from squad.questions(articles, origin)
        return
    if held is not None:
        yield from _checked(held, origin, "data[{}]", 0)
        return
    whole = text.lstrip().startswith("[")
    for number, part in enumerate([text] if whole else io.StringIO(text), 1):
        if part.isspace():
            continue
        try:
            value = json.loads(part)
        except json.JSONDecodeError as error:
            line = error.lineno if whole else number
            raise UserError(
                f"{origin}, line {line}, column {error.colno}: broken JSON ({error.msg}); "
                "each line must be one JSON object, or the file one array of them"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{origin}, line {number}: broken JSON ({_short(error)})") from error
        yield from _checked(value, origin, "row {}", 1) if whole else _checked([value], origin, "line {}", number)


def spans(column: list[Any]) -> list[Any]:
    """Returns a column of lists of [start, end, label], as doccano writes spans, as lists of objects.

    Arrow stores no list of a number and a text. Any other column stays as it is.
    """
    lists = [value for value in column if value is not None]
    if not any(lists) or not all(isinstance(value, list) and all(map(_is_span, value)) for value in lists):
        return column
    names = ("start", "end", "label")
    return [value and [dict(zip(names, span, strict=True)) for span in value] for value in column]


def _is_span(value: Any) -> bool:
    kinds = (int, int, str)
    return isinstance(value, list) and len(value) == 3 and all(type(v) is k for v, k in zip(value, kinds, strict=True))


def _data(text: str) -> list[Any] | None:
    """What is at `data` of a file that is one object; None where there is no such list of objects."""
    start = text.lstrip()
    if not start.startswith("{"):
        return None
    try:
        first, end = json.JSONDecoder().raw_decode(start)
    except json.JSONDecodeError:
        return None  # said of the line it is in
    held = first.get("data")
    one = not start[end:].strip() and isinstance(held, list) and all(isinstance(row, dict) for row in held)
    return held if one else None


def _checked(values: list[Any], origin: str, place: str, first: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, value in enumerate(values, first):
        named = place.format(number)
        if not isinstance(value, dict):
            raise UserError(f"{origin}, {named}: {str(value)[:40]!r} is not a JSON object of columns and values")
        yield named, value


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"
