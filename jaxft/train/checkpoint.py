"""Checkpoints of a run: asynchronous and atomic, by orbax. Only what learns is saved, not the frozen parameters."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from jaxft import distributed
from jaxft.errors import UserError
from jaxft.train.state import State
from jaxft.types import Params

logging.getLogger("absl").setLevel(logging.ERROR)


class _Best:
    """An orbax preservation policy that keeps one step: the best one so far."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [info.step == self.step for info in checkpoints]


class Checkpoints:
    """The folder `checkpoints/` of a run."""

    def __init__(self, directory: Path, keep: int, note: Callable[[str], None] = print):
        """Keeps the latest `keep` checkpoints and the best one.

        Raises:
          UserError: the folder cannot be written.
        """
        self._best = _Best()
        self._note = note
        self._directory = directory
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]), cleanup_tmp_directories=True
        )
        try:
            self._manager = ocp.CheckpointManager(directory, options=options)
        except OSError as error:
            raise UserError(
                f"{directory}: cannot write checkpoints ({error.strerror}); choose another --workdir"
            ) from error

    def steps(self) -> list[int]:
        """Of the whole checkpoints there are, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: State, position: dict[str, Any], best_step: int | None) -> None:
        """Starts saving; returns as soon as the state may change again."""
        self._best.step = best_step
        items = {"state": ocp.args.StandardSave(_saved(state)), "position": ocp.args.JsonSave(position)}
        self._manager.save(int(position["step"]), args=ocp.args.Composite(**items))

    def restore(self, state: State, frozen: Params) -> tuple[State, dict[str, Any]] | None:
        """The newest whole checkpoint, placed as the abstract `state` says; None if there is none.

        One that cannot be read is named and set aside, and the one before it is used.
        """
        for step in reversed(self.steps()):
            failed = None
            try:
                restored, position = self._read(step, state)
            except (OSError, ValueError, KeyError, TypeError) as error:
                failed = error
            if not distributed.every(failed is None):
                self._set_aside(step, failed or OSError("another process cannot"))
                continue
            self._best.step = position["best_step"]
            return restored.replace(frozen=frozen), position
        return None

    def read(self, step: int, state: State, frozen: Params) -> State:
        """The state of one checkpoint."""
        return self._read(step, state)[0].replace(frozen=frozen)

    def _read(self, step: int, state: State) -> tuple[State, dict[str, Any]]:
        wanted = {"state": ocp.args.StandardRestore(_saved(state)), "position": ocp.args.JsonRestore()}
        items = self._manager.restore(step, args=ocp.args.Composite(**wanted))
        return items["state"], items["position"]

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self._directory.with_name("checkpoints-unreadable") / str(step)
        distributed.once(lambda: _move(self._directory / str(step), aside))
        self._manager.reload()
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        self._note(f"checkpoint {step} cannot be read ({reason}); moved to {aside}, using the one before it")

    def wait(self) -> None:
        """Until everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def _move(path: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    path.rename(target)


def _saved(state: State) -> State:
    return state.replace(frozen={})
