"""The one exception that a user is meant to read."""

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator

SPOKEN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
"""Errors of the system that libraries pass on by their text alone."""


class UserError(Exception):
    """A mistake the user can mend: one line that says what is wrong, where, and what to do.

    `run.py` prints it without a traceback and exits with code 2. What cannot be printed in a line (a line break of a
    table's cell, half a character) is written as Python escapes it.
    """

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


class TrainingError(Exception):
    """A run that cannot go on (the loss stays non-finite, say): one line; `run.py` exits with code 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to end an error with: the nearest known name, or all of them (at most 20)."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"there are: {', '.join(names[:20]) or 'none'}{more}"


def system_error(error: BaseException) -> tuple[int, str]:
    """The number (errno) and the file of the system's error behind another one; (0, "") where there is none.

    orbax wraps what the file system said, and storage libraries say it in words alone: `[OS error 28: No space left]`,
    `[os_error_code='28']`.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno, str(cause.filename or "")
        if match := re.search(r"(?i)OS[ _]error(?:_code=')? ?(\d+)", str(cause)):
            file = re.search(r'(?:file|writing|opening|reading|deleting)[^"]*"(/[^"]+)"', str(cause))  # not a key
            return int(match[1]), file[1] if file else ""
        if number := next((n for n in SPOKEN if os.strerror(n) in str(cause)), 0):
            return number, ""
    return 0, ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
