"""Conversations as rows have them: lists of messages, or a prompt and a completion, and the tools that are offered.

They are kept as JSON: Arrow gives all rows one list of fields, and would put a null for those that others have.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from jaxft.data.columns import is_text, written
from jaxft.data.sources import Split, require_columns
from jaxft.errors import UserError, nearest

Message = dict[str, Any]
"""A `role` of `FOLLOWS`, `content` and whatever else a chat template reads, such as `tool_calls`."""

FOLLOWS: Mapping[str, tuple[str, ...]] = {
    "system": ("",),
    "developer": ("",),
    "user": ("", "system", "developer", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}
"""A role -> those whose message may stand before one of it; "": it is the first."""


def with_messages(split: Split, column: str, key: str, answered: bool = True) -> Split:
    """Returns the split with conversations as JSON in a column that has lists of messages, or JSON of them.

    Args:
      answered: whether the assistant must have said something in each.

    Raises:
      UserError: the column is not there, or a value is no such conversation, and where.
    """
    require_columns(split, {key: column})
    found = []
    for row, value in enumerate(split.table[column].to_pylist()):
        where = f"{split.where(row)}: {column!r}"
        messages = _messages(_from_text(value, where) if isinstance(value, str) else value, where)
        check_order(messages, where)
        if answered and not any(message["role"] == "assistant" for message in messages):
            raise UserError(f"{where} has no message of the assistant, so that there is nothing to learn; leave it out")
        found.append(messages)
    return _as_json(split, column, found)


def with_parts(split: Split, prompt: str, completions: Mapping[str, str]) -> Split:
    """Returns the split with what is asked and its completions as JSON of messages, each in its column.

    A text is a message: of the user where it is a prompt, of the assistant where it is a completion.

    Args:
      prompt: the column of what is asked.
      completions: config key -> column of what is answered.

    Raises:
      UserError: a column is not there, or a prompt and a completion are no conversation together, and where.
    """
    require_columns(split, {"task.prompt": prompt, **completions})
    asked = [_part(value, "user", f"{split.where(row)}: {prompt!r}") for row, value in _rows(split, prompt)]
    for column in completions.values():
        answered = []
        for row, value in _rows(split, column):
            where = f"{split.where(row)}: {column!r}"
            messages = _part(value, "assistant", where)
            check_order([*asked[row], *messages], f"{where} after {prompt!r}")
            if not any(message["role"] == "assistant" for message in messages):
                raise UserError(f"{where} has no message of the assistant; it must be what is answered")
            answered.append(messages)
        split = _as_json(split, column, answered)
    return _as_json(split, prompt, asked)


def with_tools(split: Split, column: str) -> Split:
    """Returns the split with the tools of each row, a list of JSON schemas, as JSON; of a row without any null.

    Raises:
      UserError: the column is not there, or a value is no list of objects, and where.
    """
    if not column:
        return split
    require_columns(split, {"task.tools": column})
    found = []
    for row, value in _rows(split, column):
        where = f"{split.where(row)}: {column!r}"
        tools = _from_text(value, where) if isinstance(value, str) and value.strip() else _bare(value or None)
        if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
            raise UserError(f"{where} holds {str(value)[:40]!r}; it must be a list of tools, each a JSON schema")
        found.append(tools)
    return _as_json(split, column, found)


def check_order(messages: Sequence[Message], where: str) -> None:
    """Makes sure that messages follow each other as those of a conversation do; see `FOLLOWS`.

    Raises:
      UserError: one does not.
    """
    before = ""
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if before not in FOLLOWS[role]:
            after = f"after one of {before!r}" if before else "at the beginning"
            may = " or ".join(repr(name) if name else "nothing" for name in FOLLOWS[role])
            raise UserError(f"{where}: message {number} is of {role!r}, {after}; it may follow {may}")
        before = role


def _rows(split: Split, column: str) -> Any:
    return enumerate(split.table[column].to_pylist())


def _part(value: Any, role: str, where: str) -> list[Message]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = written(value)
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    return _messages(value, where)


def _messages(value: Any, where: str) -> list[Message]:
    """The messages of one conversation, each checked by itself, without fields that are null."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{where} holds {str(value)[:40]!r}; it must be a list of messages, {{role, content}}")
    return [_message(one, f"{where}: message {number}") for number, one in enumerate(value, 1)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict) or not isinstance(value.get("role"), str):
        raise UserError(f"{where} is {str(value)[:40]!r}; it must be an object {{role, content}}")
    message = {name: one for name, one in value.items() if one is not None}
    role, content = message["role"], message.get("content", "")
    if role not in FOLLOWS:
        raise UserError(f"{where} is of {role!r}; {nearest(role, FOLLOWS)}")
    if not isinstance(content, str):
        raise UserError(f"{where} has the content {str(content)[:40]!r}; it must be a text")
    if not content.strip() and not (role == "tool" or message.get("tool_calls")):
        raise UserError(f"{where}, of {role!r}, is empty; fill it, or leave the row out")
    return {**message, "content": content}


def _from_text(text: str, where: str) -> Any:
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds half a character (\\ud800 to \\udfff); mend its encoding") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} holds {text[:40]!r}, which is neither a list nor JSON of one") from error
    return found


def _bare(value: Any) -> Any:
    """A value without the fields of its objects that are null, which Arrow puts where another row has them."""
    if isinstance(value, dict):
        return {name: _bare(one) for name, one in value.items() if one is not None}
    return [_bare(one) for one in value] if isinstance(value, list) else value


def _as_json(split: Split, column: str, values: Sequence[Any]) -> Split:
    native = not is_text(split.table[column])
    texts = [None if value is None else json.dumps(_bare(value) if native else value) for value in values]
    at = split.table.column_names.index(column)
    return split._replace(table=split.table.set_column(at, column, pa.array(texts, pa.large_string())))
