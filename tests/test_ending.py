"""How a command line ends: by SIGTERM outside the loop, and by a failure. Nothing is trained."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from jaxft.cli import ending


def ended(work: Callable[[], object]) -> tuple[int, bytes]:
    """The exit code and the standard error of a copy of this process that does the work, and then ends with code 99."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 2)
        os.close(read)
        os.close(write)
        try:
            work()
        except SystemExit as error:
            threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]  # as Python does, which waits for threads
            os._exit(int(str(error.code)))
        os._exit(99)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def test_sigterm_ends_it_at_once_with_the_code_to_start_again():
    """Before and after, the process answers as it did."""

    def work() -> None:
        with ending.leave_on_sigterm():
            signal.raise_signal(signal.SIGTERM)

    assert ended(work) == (75, b"stopped by SIGTERM; start the same command again\n")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), ending.leave_on_sigterm():
        assert signal.getsignal(signal.SIGTERM) != before
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_sets_no_signal_handler():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def use() -> None:
        with ending.leave_on_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("code", "seconds"), [(0, 0.2), (1, 60), pytest.param(2, 60, marks=pytest.mark.matrix), (75, 0.2)]
)
def test_after_a_failure_it_waits_for_no_thread(code, seconds):
    """Of one that never ends: ten seconds are enough. After success what it writes is waited for."""

    def work() -> None:
        threading.Thread(target=lambda: (time.sleep(seconds), os.write(2, b"written"))).start()
        ending.leave(code)

    begun = time.monotonic()
    assert ended(work) == (code, b"" if seconds == 60 else b"written")
    assert time.monotonic() - begun < 30
