"""Law 4: resuming is exact. Killed anywhere and started again: the same final parameters and metrics, bit for bit."""

import copy
import random
import signal
import time

import pytest
from runs import experiment, lines, results, start, until, weights, write_config

from jaxft import modes

KILLS = 12


@pytest.fixture(scope="module")
def long_run(tiny_model, cache):
    """60 steps; saves at each fourth, evaluations at each tenth, lines of the log in between."""
    train = {"epochs": 6, "log_every": 3, "eval_every": 10, "save_every": 4}
    return experiment(tiny_model, cache, train=train)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, long_run):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    modes.train(copy.deepcopy(long_run), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def command(tmp_path_factory, long_run):
    """The same as a user starts it."""
    return f"--config={write_config(tmp_path_factory.mktemp('config') / 'tiny.py', long_run)}"


def same(a, b) -> None:
    assert lines(a) == lines(b)
    assert results(a) == results(b)
    assert weights(a) == weights(b)


def logged(workdir) -> int:
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def saves(workdir) -> set[str]:
    """The checkpoints that are being written, or were when the run was killed."""
    return {entry.name for entry in (workdir / "checkpoints").glob("*tmp*")}


def moments(workdir, rng: random.Random):
    """When the run is killed, in the order in which it gets there: a name, a condition, and a delay after it."""
    more = lambda count: lambda: logged(workdir) >= count  # noqa: E731
    saves_begin = lambda before: lambda: bool(saves(workdir) - before)  # noqa: E731
    yield "starting", lambda: True, rng.uniform(0.1, 2)
    yield "claimed", (workdir / "config.json").exists, rng.uniform(0, 0.1)
    yield "the first save", saves_begin(set()), 0
    for count in (4, 9, 13, 17, 22):
        yield f"{count} lines", more(count), rng.uniform(0, 0.1)
    yield "a save", saves_begin(saves(workdir)), rng.uniform(0, 0.02)
    yield "tested", more(LINES), 0
    yield "exporting", (workdir / ".export.new").exists, rng.uniform(0, 0.005)
    yield "reporting", (workdir / "report").exists, rng.uniform(0, 0.2)


LINES = 20 + 6 + 1
"""Of metrics.jsonl: training, validation, test."""


def test_killed_twelve_times(command, undisturbed, tmp_path):
    workdir, log, rng = tmp_path / "run", tmp_path / "log", random.Random(4)
    killed = []
    for name, happened, delay in moments(workdir, rng):
        process = start(command, f"--workdir={workdir}", log=log)
        if until(happened, process):
            time.sleep(delay)
            process.kill()
        if process.wait() == -signal.SIGKILL:
            killed.append((name, logged(workdir), sorted(saves(workdir))))
    assert len(killed) == KILLS, (killed, log.read_text())
    assert not (workdir / "results.json").exists()
    assert start(command, f"--workdir={workdir}", log=log).wait() == 0, log.read_text()
    same(workdir, undisturbed)
