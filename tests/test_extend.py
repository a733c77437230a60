"""--extend: a run goes on for more steps, as the longer run would have, and nothing that it left behind is at risk."""

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax
import pytest
from runs import bits_equal, experiment, lines, results, weights, write_config

from jaxft import cli, config, modes
from jaxft.errors import UserError
from jaxft.modes import extending, training
from jaxft.storage.workdir import Workdir
from jaxft.train import numbers, state
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.loop import Position


@pytest.fixture(scope="module")
def short(tiny_model, cache) -> config.Experiment:
    """Ten steps at one rate, with dropout; logged and evaluated at each fifth."""
    e = experiment(tiny_model, cache, train={"log_every": 5, "eval_every": 5}, data={"shapes": 1})
    e.model.dropout, e.optimizer.schedule, e.optimizer.warmup = 0.2, "constant", 2
    return e


def changed(e: config.Experiment, **train: Any) -> config.Experiment:
    e = copy.deepcopy(e)
    for name, value in train.items():
        setattr(e.train, name, value)
    return e


@pytest.fixture(scope="module")
def whole(tmp_path_factory, short) -> Path:
    """The run of twenty steps at once."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    modes.train(changed(short, epochs=2), workdir)
    return workdir


@pytest.fixture(scope="module")
def ended(tmp_path_factory, short) -> Path:
    """The run of ten steps; do not change it."""
    workdir = tmp_path_factory.mktemp("ended") / "run"
    modes.train(copy.deepcopy(short), workdir)
    return workdir


@pytest.fixture
def run(ended, tmp_path) -> Path:
    return shutil.copytree(ended, tmp_path / "run")


def same(a: Path, b: Path) -> None:
    assert lines(a) == lines(b)
    assert results(a) == results(b)
    assert weights(a) == weights(b)


def files(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_extending_what_is_deleted_is_refused_before_anything_is_read(tmp_path):
    """Also from Python, and where there are no data and no model."""
    nowhere = config.Experiment(model=config.Model(path=str(tmp_path / "none")), task=config.SequenceClassification())
    with pytest.raises(UserError, match="--extend goes on with the run that --overwrite deletes; give one of them"):
        modes.train(nowhere, tmp_path / "run", extend=True, overwrite=True)


def test_at_one_rate_it_is_the_longer_run_bit_for_bit(run, short, whole, capsys):
    first = results(run)
    modes.train(changed(short, epochs=2), run, extend=True)
    said = capsys.readouterr().err
    assert "extended from 10 to 20 steps; the learning rate stays 0.003" in said
    same(run, whole)
    (before,) = json.loads((run / "extensions.json").read_text())
    assert (before["steps"], before["train.epochs"], before["at"]) == (10, 1, 10)
    assert {name: before["results"][name] for name in first} == first
    assert modes.evaluate(run)["test/loss"] == pytest.approx(results(run)["test/loss"])


@pytest.mark.matrix
def test_the_same_command_again_is_finished(run, short, capsys):
    longer = changed(short, steps=12)
    found = modes.train(copy.deepcopy(longer), run, extend=True)
    before = files(run)
    assert modes.train(copy.deepcopy(longer), run, extend=True) == pytest.approx(found, nan_ok=True)
    assert "is finished" in capsys.readouterr().err
    assert files(run) == before
    modes.train(changed(short, steps=14), run, extend=True)
    assert [one["steps"] for one in json.loads((run / "extensions.json").read_text())] == [10, 12]


def test_cut_off_at_any_moment_the_same_command_goes_on(run, short, whole, monkeypatch):
    """With --extend or without it: before the first step, where nothing has been saved yet, and in the middle."""
    longer = changed(short, epochs=2)
    parts = [(training, "fit"), (Workdir, "_write"), (training, "_finish")]
    for number, (where, name) in enumerate(parts):
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(where, name, lambda *args: sys.exit("killed"))
            modes.train(copy.deepcopy(longer), run, extend=number < 2)
    modes.train(copy.deepcopy(longer), run)
    same(run, whole)


@pytest.mark.matrix
@pytest.mark.parametrize("written", ["extensions.json", "config.json"])
def test_killed_before_a_file_is_written(run, short, monkeypatch, written):
    """The run is then the short one, which the short command finds finished or finishes, or the longer one."""
    write = Workdir._write

    def killed(self: Workdir, name: str, value: Any) -> None:
        if name == written:
            sys.exit("killed")
        write(self, name, value)

    own = weights(run)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Workdir, "_write", killed)
        modes.train(changed(short, steps=12), run, extend=True)
    modes.train(copy.deepcopy(short), run)
    assert weights(run) == own and results(run)["train/steps"] == 10
    modes.train(changed(short, steps=12), run, extend=True)
    assert results(run)["train/steps"] == 12


@pytest.mark.matrix
def test_the_schedule_is_that_of_the_longer_run(tiny_model, cache, tmp_path, capsys):
    """From the step on at which it goes on; at the end of the short run the rate was zero."""
    e = experiment(tiny_model, cache, train={"steps": 4, "log_every": 1, "eval_every": 4}, data={"shapes": 1})
    modes.train(copy.deepcopy(e), tmp_path / "run")
    modes.train(changed(e, steps=8), tmp_path / "run", extend=True)
    rates = {line["step"]: line["learning_rate"] for line in lines(tmp_path / "run") if line["split"] == "train"}
    peak, warmup = 3e-3, 1  # a tenth of the steps, rounded; the rate of step n is that after n - 1 updates
    assert [rates[step] for step in range(5, 9)] == pytest.approx([peak * (8 - n) / (8 - warmup) for n in range(4, 8)])
    said = capsys.readouterr().err
    assert "extended from 4 to 8 steps; at step 4 the learning rate goes from 0 to 0.00171, where the linear" in said


@pytest.mark.matrix
def test_a_run_that_stopped_early(tiny_model, cache, tmp_path):
    """More steps alone bring nothing; more patience does, and is the run that had it from the start."""
    e = experiment(tiny_model, cache, data={"shapes": 1})
    e.train = config.Train(batch_size=16, steps=12, eval_every=1, patience=1, metric="loss", log_every=1)
    e.optimizer.learning_rate = 0.3  # soon worse
    stopped = modes.train(copy.deepcopy(e), tmp_path / "run")["train/steps"]
    assert stopped < 12
    before = files(tmp_path / "run")
    with pytest.raises(UserError, match=rf"stopped at step {stopped} by config.train.patience 1, .* raise it"):
        modes.train(changed(e, steps=20), tmp_path / "run", extend=True)
    assert files(tmp_path / "run") == before
    modes.train(changed(e, patience=3), tmp_path / "run", extend=True)
    modes.train(changed(e, patience=3), tmp_path / "whole")
    same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("schedule", "warmup", "said"),
    [
        (
            "linear",
            0,
            "at step 300 the learning rate goes from 0 to 0.4, where the linear schedule of 500 steps has it",
        ),
        ("linear", 0.1, "at step 300 the learning rate goes from 0 to 0.444, where the linear"),
        ("cosine", 0, "at step 300 the learning rate goes from 0 to 0.345, where the cosine"),
        ("constant", 10, "the learning rate stays 1"),
    ],
)
def test_what_becomes_of_the_learning_rate(schedule, warmup, said):
    options = config.Optimizer(learning_rate=1.0, schedule=schedule, warmup=warmup)
    assert extending.rates(options, 300, 500, 300, 300).startswith(said)


REFUSED = {
    "without it": ([], {"epochs": 2}, ["a different experiment (train.epochs: 1 there, 2 here)", "--extend"]),
    "another rate": (
        ["--extend", "--config.optimizer.learning_rate=0.1"],
        {"epochs": 2},
        ["--extend: ", "optimizer.learning_rate: 0.003 there, 0.1 here", "train.epochs, train.steps, train.patience"],
    ),
    "fewer steps": (["--extend"], {"steps": 9}, ["has 10 steps, and 9 are asked for; give more"]),
    "as many steps": (["--extend"], {"steps": 10}, ["has 10 steps, and 10 are asked for; give more"]),
    "more patience, but no step is left": (["--extend"], {"patience": 3}, ["10 steps, and 10 are asked for"]),
    "to be deleted": (["--extend", "--overwrite"], {"epochs": 2}, ["--overwrite deletes", "give one of them"]),
    "other data": (
        ["--extend"],
        {"epochs": 2, "of": {"train_examples": 150}},
        ["data.train_examples: 160 there, 150 here"],
    ),
}


@pytest.mark.parametrize(("flags", "changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_one_line_and_changes_nothing(run, ended, short, tmp_path, capsys, flags, changes, said):
    e = changed(short, **{name: value for name, value in changes.items() if name != "of"})
    for name, value in changes.get("of", {}).items():
        setattr(e.data, name, value)
    before = files(run)
    file = write_config(tmp_path / "mine.py", e)
    assert cli.main(["run.py", f"--config={file}", f"--workdir={run}", *flags], None) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in said), error
    assert files(run) == before


def test_there_is_nothing_to_extend(short, run, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        modes.train(changed(short, epochs=2), tmp_path / "other", extend=True)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint to go on from"):
        modes.train(changed(short, epochs=2), run, extend=True)
    assert (run / "results.json").exists()


def test_a_checkpoint_of_before_is_taken_for_what_it_was_made_from(tmp_path):
    values = numbers.of(config.Optimizer(), 10)
    start = state.init({"w": jnp.arange(3.0)}, {}, optax.identity(), values, 0)
    shorter = Checkpoints(tmp_path / "c", 2, origin={"experiment": "short"})
    shorter.save(start, vars(Position(step=1)), None)
    shorter.close()
    longer = Checkpoints(tmp_path / "c", 2, origin={"experiment": "long"}, earlier=["shorter", "short"])
    found = longer.restore(start, {}, values)
    longer.close()
    assert found and bits_equal(found[0].trainable, start.trainable)
    other = Checkpoints(tmp_path / "c", 2, origin={"experiment": "long"}, earlier=["other"])
    with pytest.raises(UserError, match="another experiment"):
        other.restore(start, {}, values)
    other.close()


@pytest.mark.parametrize(
    ("position", "steps", "patience", "finished"),
    [
        (Position(step=10, finished=True), 10, 0, True),
        (Position(step=10, finished=True), 20, 0, False),
        (Position(step=10, finished=False), 10, 0, False),
        (Position(step=5, finished=True, bad_evals=2), 20, 2, True),
        (Position(step=5, finished=True, bad_evals=2), 20, 3, False),
        (Position(step=5, finished=True, bad_evals=2), 20, 0, False),
    ],
)
def test_what_is_finished_depends_on_the_plan(position, steps, patience, finished):
    assert position.still_finished(steps, patience) is finished
