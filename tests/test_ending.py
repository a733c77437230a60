"""How a command line ends: by SIGTERM outside the loop, and by a failure. Nothing is trained."""

import signal
import subprocess
import sys
import threading

import pytest
from runs import ROOT

from jaxft.cli import ending

ENDING = """
import signal, sys, threading, time
from jaxft.cli import ending

{what}
"""


def run(what: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", ENDING.format(what=what)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_sigterm_ends_it_at_once_with_the_code_to_start_again():
    """Before and after, the process answers as it did."""
    done = run("with ending.leave_on_sigterm():\n    signal.raise_signal(signal.SIGTERM)\nprint('went on')")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "stopped by SIGTERM; start the same command again\n"
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
    ("code", "ends"), [(0, False), (1, True), pytest.param(2, True, marks=pytest.mark.matrix), (75, False)]
)
def test_after_a_failure_it_waits_for_no_thread(code, ends):
    """Of one that never ends: ten seconds are enough. After success what it writes is waited for."""
    slow = "threading.Thread(target=time.sleep, args=[{seconds}]).start()\nending.leave({code})"
    done = run("print('said')\n" + slow.format(seconds=30 if ends else 1, code=code))
    assert (done.returncode, done.stdout, done.stderr) == (code, "said\n", "")
