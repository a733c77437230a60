"""Work in forked processes, several at a time: what one breaks stays its own, and one that hangs is ended."""

import collections
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

HUNG, DIED = "hung", "died"
"""How a process ends that leaves no answer: it takes too long, or a signal ends it."""


class Ended(RuntimeError):
    """A process that left no answer: it took too long (`HUNG`), or a signal ended it (`DIED`)."""


def forked(work: Callable[[], Any], out: Path, limit: float) -> Callable[[], Any]:
    """Starts a process that does the work and leaves what it gives as JSON; returns what waits for that.

    It waits for `limit` seconds, then ends the process. What it returns raises `Ended` where there is no answer, and
    RuntimeError with its traceback where the work raised.
    """
    child = os.fork()
    if child == 0:
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
    begun = time.monotonic()

    def wait() -> Any:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() - begun > limit:
                os.killpg(child, 9)
                os.waitpid(child, 0)
                raise Ended(HUNG)
            time.sleep(0.02)
        if not out.exists():
            raise Ended(DIED)
        answer = json.loads(out.read_text())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["found"]

    return wait


def in_turns(count: int, starts: Iterable[Callable[[], Callable[[], Any]]]) -> Iterator[Any]:
    """Yields what each process gives, in order, so many at a time."""
    waiting: collections.deque[Callable[[], Any]] = collections.deque()
    for start in starts:
        waiting.append(start())
        if len(waiting) == count:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()
