"""What disks do to checkpoints: the damage is named, no good checkpoint is touched, the newest whole one is used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from mistakes import cut
from runs import bits_equal

from jaxft import models
from jaxft.errors import UserError, system_error
from jaxft.program import Program
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.loop import Position
from jaxft.train.state import State

STEPS = (2, 4, 6)
BEST = 2


ORIGIN = {"experiment": "this one", "data": "these"}


@pytest.fixture(scope="module")
def program() -> Program:
    return support.compose(support.TASKS["single_label"].task, models.build(support.SMALL))


@pytest.fixture(scope="module")
def states(program: Program) -> dict[int, State]:
    """A state a step, no two alike."""
    state = program.init(support.random_params(program.task, program.model, seed=0))
    return {step: state.replace(step=state.step + step, skipped=state.skipped + 10 * step) for step in STEPS}


@pytest.fixture(scope="module")
def saved(tmp_path_factory, states: dict[int, State]) -> Path:
    """The folder of three checkpoints, the first of them the best one; do not change it."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, 3, origin=ORIGIN)
    for step, state in states.items():
        checkpoints.save(state, vars(Position(step=step, best_step=BEST)), BEST)
    checkpoints.close()
    assert sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()) == list(STEPS)
    return folder


def contents(folder: Path, *steps: int) -> dict[Path, bytes]:
    """Every file of these checkpoints."""
    files = (file for step in steps for file in (folder / str(step)).rglob("*") if file.is_file())
    return {file: file.read_bytes() for file in files}


def every_file(change: Callable[[Path], object], pattern: str = "*") -> Callable[[Path], None]:
    """Does it to each file of a checkpoint that the pattern matches; there must be one."""

    def damage(checkpoint: Path) -> None:
        files = [file for file in checkpoint.rglob(pattern) if file.is_file()]
        assert files, pattern
        for file in files:
            change(file)

    return damage


def empty(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


DAMAGE = {
    "every file is cut": every_file(cut),
    "every file is empty": every_file(lambda file: file.write_bytes(b"")),
    "the data are gone": every_file(Path.unlink, "d/*"),
    "the data are cut": every_file(cut, "d/*"),
    "the index is cut": every_file(cut, "manifest.ocdbt"),
    "the tree's JSON is torn": every_file(cut, "_METADATA"),
    "the position's JSON is torn": every_file(cut, "position/*"),
    "the position is gone": lambda checkpoint: shutil.rmtree(checkpoint / "position"),
    "the state is gone": lambda checkpoint: shutil.rmtree(checkpoint / "state"),
    "the folder is empty": empty,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_the_newest_whole_checkpoint_is_used(damage, saved, program, states, tmp_path):
    folder, said = shutil.copytree(saved, tmp_path / "checkpoints"), []
    damage(folder / "6")
    before = contents(folder, 2, 4)
    checkpoints = Checkpoints(folder, 3, said.append, ORIGIN)
    found = checkpoints.restore(program.state, {}, program.placed_numbers())
    checkpoints.close()
    assert found is not None and found[1]["step"] == 4
    assert bits_equal(found[0], states[4])
    assert contents(folder, 2, 4) == before and not (folder / "6").exists()
    if said:  # without its metadata orbax does not count a folder as a checkpoint
        assert said[0].startswith("checkpoint 6 cannot be read: ") and "\n" not in said[0]
        assert said[1].startswith(f"moved to {tmp_path}/checkpoints-unreadable/6-")
        assert said[1].endswith("; going on from checkpoint 4")


def test_no_whole_checkpoint_is_the_beginning(saved, program, tmp_path):
    folder, said = shutil.copytree(saved, tmp_path / "checkpoints"), []
    for step in STEPS:
        DAMAGE["the data are gone"](folder / str(step))
    checkpoints = Checkpoints(folder, 3, said.append, ORIGIN)
    assert checkpoints.restore(program.state, {}, program.placed_numbers()) is None
    checkpoints.close()
    assert [line.split(":")[0] for line in said[::2]] == [
        f"checkpoint {step} cannot be read" for step in reversed(STEPS)
    ]
    assert said[-1].endswith("; going on from the beginning")
    assert len(list((tmp_path / "checkpoints-unreadable").iterdir())) == 3


def test_each_checkpoint_is_read_but_those_that_cannot_be(saved, program, states, tmp_path):
    folder, said = shutil.copytree(saved, tmp_path / "checkpoints"), []
    DAMAGE["the data are gone"](folder / "4")
    before = contents(folder, 2, 6)
    checkpoints = Checkpoints(folder, None, said.append, ORIGIN)
    found = dict(checkpoints.each(program.state))
    checkpoints.close()
    assert [*found] == [2, 6] and all(bits_equal(x, states[step].trainable) for step, x in found.items())
    assert len(said) == 1 and said[0].startswith("checkpoint 4 cannot be read: ") and contents(folder, 2, 6) == before
    other = Checkpoints(folder, None, said.append, {**ORIGIN, "data": "of another run"})
    with pytest.raises(UserError, match="was saved with another data"):
        list(other.each(program.state))
    other.close()


def test_without_the_best_checkpoint_the_last_one_is_taken(saved, program, states, tmp_path):
    folder, said = shutil.copytree(saved, tmp_path / "checkpoints"), []
    checkpoints = Checkpoints(folder, None, said.append, ORIGIN)
    last, position = checkpoints.restore(program.state, {}, program.placed_numbers()) or pytest.fail("nothing there")
    assert position["best_step"] == BEST
    found, at = checkpoints.best(program.state, (last, position))
    assert bits_equal(found, states[BEST]) and at["step"] == BEST and said == []
    DAMAGE["the data are gone"](folder / str(BEST))
    before = contents(folder, 4, 6)
    assert checkpoints.best(program.state, (last, position)) == (last, position) and position["step"] == 6
    checkpoints.close()
    assert len(said) == 1 and said[0].startswith("checkpoint 2, the best one, cannot be read: ")
    assert said[0].endswith("; taking the last one in its place") and contents(folder, 4, 6) == before


@pytest.mark.parametrize("what", ["experiment", "data"])
def test_a_checkpoint_of_something_else_is_refused_and_stays(what, saved, program, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    before = contents(folder, *STEPS)
    checkpoints = Checkpoints(folder, 3, origin=ORIGIN | {what: "another"})
    with pytest.raises(UserError, match=f"checkpoints/6 was saved with another {what}"):
        checkpoints.restore(program.state, {}, program.placed_numbers())
    checkpoints.close()
    assert contents(folder, *STEPS) == before and not (tmp_path / "checkpoints-unreadable").exists()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ('Error writing local file "/r/c/8/d/1": [OS error 28: No space left on device]', (28, "/r/c/8/d/1")),
        ("Error writing local file \"/r/c/8\": Not a directory [os_error_code='20']", (20, "/r/c/8")),
        ('NOT_FOUND: Error opening "zarr" driver', (0, "")),
    ],
)
def test_what_storage_says_of_the_system(said, meant):
    """In the words of TensorStore 0.1.86 and before."""
    assert system_error(ValueError(said)) == meant
