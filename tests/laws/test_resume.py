"""Law 4: resuming is exact. Killed anywhere and started again: the same final parameters and metrics, bit for bit."""

import contextlib
import copy
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from runs import experiment, lines, results, start, until, weights, write_config

from jaxft import cli, modes
from jaxft.modes import shared, training
from jaxft.train import loop

KILLS = 12


@pytest.fixture(scope="module")
def long_run(tiny_model, cache):
    """60 steps; saves at each fourth, evaluations at each tenth, lines of the log in between."""
    train = {"epochs": 6, "log_every": 3, "eval_every": 10, "save_every": 4}
    return experiment(tiny_model, cache, train=train, data={"shapes": 1})


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


@pytest.mark.matrix
@pytest.mark.timeout(900)  # 14 processes, one after the other
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


def test_sigterm_in_every_phase(command, undisturbed, tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    phases = {
        "before the loop": (workdir / "config.json").exists,
        "training": lambda: logged(workdir) >= 8,
        "after the loop": (workdir / "report").exists,
    }
    for phase, reached in phases.items():
        process = start(command, f"--workdir={workdir}", log=log)
        assert until(reached, process), phase
        asked = time.monotonic()
        process.terminate()
        assert process.wait() == cli.EXIT_PREEMPTED, (phase, log.read_text())
        assert time.monotonic() - asked < 5, phase
        assert (phase == "before the loop") == (not checkpoint_steps(workdir))
    assert log.read_text().count("stopped by SIGTERM") == len(phases) and "Traceback" not in log.read_text()
    assert start(command, f"--workdir={workdir}", log=log).wait() == 0, log.read_text()
    same(workdir, undisturbed)


def checkpoint_steps(workdir) -> list[int]:
    return sorted(int(entry.name) for entry in (workdir / "checkpoints").glob("*") if entry.name.isdigit())


@pytest.mark.matrix
def test_sigterm_during_an_evaluation(long_run, undisturbed, tmp_path, monkeypatch):
    """It is given up, twice, and made again; a long one must not use up the grace period."""
    plain, evaluations = shared.run_evaluation, []

    def cut_off(*args):
        evaluations.append(1)
        if len(evaluations) in (2, 3, 8, 9):
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)

    monkeypatch.setattr(shared, "run_evaluation", cut_off)
    for at in (20, 20, 60, 60):
        with pytest.raises(loop.Preempted, match=f"at step {at}"):
            modes.train(copy.deepcopy(long_run), str(tmp_path / "run"))
        assert checkpoint_steps(tmp_path / "run")[-1] == at
        assert lines(tmp_path / "run")[-1]["split"] == "train"
    modes.train(copy.deepcopy(long_run), str(tmp_path / "run"))
    same(tmp_path / "run", undisturbed)


@contextlib.contextmanager
def replaced(folder):
    """By a file."""
    away = folder.rename(folder.with_name("away"))
    folder.write_text("")
    try:
        yield
    finally:
        folder.unlink()
        away.rename(folder)


@contextlib.contextmanager
def locked(folder):
    """Nothing can be made or deleted in it; for root that takes more than a mode."""
    lock, unlock = (["chattr", "+i"], ["chattr", "-i"]) if os.getuid() == 0 else (["chmod", "555"], ["chmod", "755"])
    if subprocess.run([*lock, folder], capture_output=True).returncode:
        pytest.skip("this file system cannot lock a folder")
    try:
        yield
    finally:
        subprocess.run([*unlock, folder], check=True)


@pytest.mark.matrix
def test_the_folder_of_checkpoints_is_lost(command, undisturbed, tmp_path):
    """While the run is writing there: it ends with one line, what was saved is whole, and the run goes on from it."""
    workdir = tmp_path / "run"
    for number, lost in enumerate((replaced, locked)):
        log = tmp_path / f"log{number}"
        enough = logged(workdir) + 3
        process = start(command, f"--workdir={workdir}", log=log)
        assert until(lambda enough=enough: logged(workdir) >= enough, process), log.read_text()
        with lost(workdir / "checkpoints"):
            assert process.wait(timeout=60) == cli.EXIT_USER, log.read_text()
        errors = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and errors[0].endswith("what is on disk is whole: mend and resume")
        assert "Traceback" not in log.read_text()
    assert start(command, f"--workdir={workdir}", log=log).wait() == 0, log.read_text()
    assert not (workdir / "checkpoints-unreadable").exists()
    same(workdir, undisturbed)


def test_stopped_early_and_killed_before_the_end(tiny_model, cache, tmp_path, monkeypatch):
    """A run that early stopping has ended makes no further step when it is started again."""

    def run(name):
        e = experiment(tiny_model, cache, train={"epochs": 4, "eval_every": 5, "patience": 1, "metric": "loss"})
        e.data.shapes = 1
        e.optimizer.learning_rate = 0.3  # soon worse
        return modes.train(e, str(tmp_path / name))

    assert run("whole")["train/steps"] < 40
    with monkeypatch.context() as patch:
        patch.setattr(training, "_finish", lambda *args: sys.exit("killed"))
        with pytest.raises(SystemExit):
            run("cut")
    run("cut")
    same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.matrix
def test_on_another_mesh_and_in_another_precision(tiny_model, cache, tmp_path):
    """Saved on 8 devices; continued on 2 x 4 and on one, with dropout."""
    e = experiment(tiny_model, cache, train={"epochs": 2, "log_every": 1, "eval_every": 10, "save_every": 4})
    e.model.dropout, e.data.shapes, e.optimizer.learning_rate = 0.2, 1, 1e-3
    modes.train(copy.deepcopy(e), str(tmp_path / "whole"))
    whole = lines(tmp_path / "whole")
    file, log = write_config(tmp_path / "tiny.py", e), tmp_path / "log"

    process = start(f"--config={file}", f"--workdir={tmp_path / '8'}", log=log, devices=8)
    assert until(lambda: logged(tmp_path / "8") >= 8, process), log.read_text()
    process.terminate()
    assert process.wait() == cli.EXIT_PREEMPTED, log.read_text()
    for name in ("2x4", "1", "bfloat16"):
        shutil.copytree(tmp_path / "8", tmp_path / name)

    mesh = ("--config.mesh.data=2", "--config.mesh.fsdp=4")
    process = start(f"--config={file}", f"--workdir={tmp_path / '2x4'}", *mesh, log=log, devices=8)
    modes.train(copy.deepcopy(e), str(tmp_path / "1"))
    e.compute.dtype = "bfloat16"
    modes.train(e, str(tmp_path / "bfloat16"))
    assert process.wait() == 0, log.read_text()
    for name, tolerance in {"2x4": 1e-5, "1": 1e-5, "bfloat16": 3e-2}.items():
        found = lines(tmp_path / name)
        assert [(line["step"], line["split"]) for line in found] == [(line["step"], line["split"]) for line in whole]
        np.testing.assert_allclose(losses(found), losses(whole), rtol=tolerance, err_msg=name)
    assert losses(lines(tmp_path / "bfloat16"))[:8] == losses(lines(tmp_path / "8"))[:8]


def losses(found) -> list[float]:
    return [line["loss"] for line in found]
