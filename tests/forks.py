"""Work in forked processes, several at a time: what one breaks stays its own, and one that hangs is ended."""

import collections
import itertools
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

HUNG, DIED = "hung", "died"
"""How a process ends that leaves no answer: it takes too long, or a signal ends it."""


class Ended(RuntimeError):
    """A process that left no answer: it took too long (`HUNG`), or a signal ended it (`DIED`)."""


class Process:
    """A forked process that does some work and leaves what that gives as JSON in a file.

    Args:
      limit: it is ended when it takes more seconds than these.
    """

    def __init__(self, work: Callable[[], Any], out: Path, limit: float) -> None:
        self._out, self._limit, self._begun, self._ended = out, limit, time.monotonic(), ""
        self._child = os.fork()
        if self._child == 0:
            _leave(work, out)

    def ended(self) -> bool:
        """Whether it has ended, or has been ended now."""
        if not self._ended and os.waitpid(self._child, os.WNOHANG) != (0, 0):
            self._ended = DIED  # unless it has left an answer
        if not self._ended and time.monotonic() - self._begun > self._limit:
            os.killpg(self._child, 9)
            os.waitpid(self._child, 0)
            self._ended = HUNG
        return bool(self._ended)

    def answer(self) -> Any:
        """Waits for it, and returns what its work gave.

        Raises:
          Ended: there is no answer.
          RuntimeError: with its traceback, where the work raised.
        """
        while not self.ended():
            time.sleep(0.02)
        if self._ended == HUNG or not self._out.exists():
            raise Ended(self._ended)
        answer = json.loads(self._out.read_text())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["found"]


def _leave(work: Callable[[], Any], out: Path) -> NoReturn:
    """What the forked process does: the work, silently."""
    os.setsid()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    try:
        answer = {"found": work()}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    out.write_text(json.dumps(answer))
    os._exit(0)


def in_turns(count: int, starts: Iterable[Callable[[], Process]]) -> Iterator[Process]:
    """Yields each process in order, once it has ended; so many run at a time, and as one ends the next starts."""
    left = iter(starts)
    waiting = collections.deque(start() for start in itertools.islice(left, count))
    while waiting:
        ended = waiting[0].ended()  # asked first, so that another has started before the last of them is given
        running = sum(not process.ended() for process in waiting)
        waiting.extend(start() for start in itertools.islice(left, count - running))
        if ended:
            yield waiting.popleft()
        else:
            time.sleep(0.02)
