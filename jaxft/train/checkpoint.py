"""Checkpoints of a run: asynchronous and atomic, by orbax. Only what learns is saved, not the frozen parameters."""

import contextlib
import dataclasses
import errno
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from jaxft.devices import distributed
from jaxft.errors import UserError, causes, system_error
from jaxft.storage import bucket
from jaxft.train.numbers import Numbers
from jaxft.train.state import State
from jaxft.types import Params

NO_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""System errors that say nothing about the checkpoint itself."""

ORIGINS = {
    "experiment": "experiment (its settings differ in more than how it is computed and shown)",
    "data": "data (that of config.data.source, or its tokens, have changed)",
    "teachers": "teacher (the weights of a model of config.objective.teacher have changed)",
    "frozen": "model (the weights of config.model.path that do not learn have changed)",
}
"""What a run is made from, beside its state."""


class _Best:
    """An orbax preservation policy that keeps one step: the best one so far."""

    step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [info.step == self.step for info in checkpoints]


class _Manager(ocp.CheckpointManager):
    """Orbax's, which does not ask whether the run is to stop: the loop does.

    The processes agree on a step by the last one that each has asked for, and orbax would ask, on one of them and from
    another thread, for that of a checkpoint that has just been written: they would stop at different steps, and hang.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The folder `checkpoints/` of a run."""

    def __init__(
        self,
        directory: Path | epath.Path,
        keep: int | None,
        note: Callable[[str], None] = print,
        origin: Mapping[str, str] = MappingProxyType({}),
        publish: Callable[[], None] = lambda: None,
        earlier: Sequence[str] = (),
    ):
        """Keeps the latest `keep` checkpoints and the best one.

        Args:
          keep: None: only to be read, perhaps while a run writes there; nothing is changed.
          origin: fingerprints of what the run is made from, see `ORIGINS`: written into each checkpoint, and what those
            that are read must agree with.
          publish: called before each checkpoint, and when all are on disk.
          earlier: fingerprints of the experiment before it was made longer, which checkpoints may have too.

        Raises:
          UserError: the folder cannot be written. So do the methods, of a bucket.
        """
        self._best = _Best()
        self._note = note
        self._publish = publish
        self._directory = epath.Path(directory)
        self._origin = dict(origin)
        self._earlier = earlier
        self._read_only = keep is None
        options = ocp.CheckpointManagerOptions(read_only=True)
        if keep is not None:
            policy = AnyPreservationPolicy([LatestN(keep), self._best])
            options = ocp.CheckpointManagerOptions(preservation_policy=policy, cleanup_tmp_directories=True)
        try:
            with self._told("read"):
                self._manager = _Manager(self._directory, options=options)
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
        self._publish()
        position = {**position, "origin": self._origin}
        items = {"state": ocp.args.StandardSave(_saved(state)), "position": ocp.args.JsonSave(position)}
        with self._told("written"):
            self._manager.save(int(position["step"]), args=ocp.args.Composite(**items))

    def restore(self, state: State, frozen: Params, numbers: Numbers) -> tuple[State, dict[str, Any]] | None:
        """The newest whole checkpoint, placed as the abstract `state` says; None if there is none.

        `frozen` and `numbers`, which no checkpoint holds, complete it. One that cannot be read is named and set aside,
        and the one before it is used.

        Raises:
          UserError: it was saved by a run that was made from something else.
        """
        for step in reversed(self.steps()):
            failed = None
            try:
                restored, position = self._read(step, state)
            except Exception as error:
                if _is_no_damage(error):
                    raise
                failed = error
            if not distributed.every(failed is None):
                self._set_aside(step, failed or OSError("another process cannot read it"))
                continue
            self._best.step = position["best_step"]
            return restored.replace(frozen=frozen, numbers=numbers), position
        return None

    def best(self, state: State, last: tuple[State, dict[str, Any]]) -> tuple[State, dict[str, Any]]:
        """The state at the best step, placed as the abstract `state` says, and the position there.

        Args:
          last: those of the last step, which say which step is the best one. They are what is returned where there is
            no better one, or, with a note, where it cannot be read.
        """
        step = last[1]["best_step"]
        if step is None or step == last[1]["step"]:
            return last
        failed, found = None, last
        try:
            restored, position = self._read(step, state)
            found = restored.replace(frozen=last[0].frozen, numbers=last[0].numbers), position
        except Exception as error:
            if _is_no_damage(error):
                raise
            failed = error
        if distributed.every(failed is None):
            return found
        reason = "another process cannot read it" if failed is None else _reason(failed)
        self._note(f"checkpoint {step}, the best one, cannot be read: {reason}; taking the last one in its place")
        return last

    def each(self, state: State) -> Iterator[tuple[int, Params]]:
        """Yields the step of each checkpoint, ascending, and what learns, placed as the abstract `state` says.

        One that cannot be read is named and left out.

        Raises:
          UserError: as `restore`.
        """
        for step in self.steps():
            try:
                restored = self._read(step, state)[0]
            except Exception as error:
                if _is_no_damage(error):
                    raise
                self._note(f"checkpoint {step} cannot be read: {_reason(error)}")
                continue
            yield step, restored.trainable

    def _read(self, step: int, state: State) -> tuple[State, dict[str, Any]]:
        with self._told("read"):
            wanted = ocp.args.Composite(position=ocp.args.JsonRestore())
            position = self._manager.restore(step, args=wanted)["position"]
            saved = position.pop("origin")
            for name, value in self._origin.items():
                earlier = self._earlier if name == "experiment" else ()
                if saved.get(name) not in (value, *earlier):
                    raise UserError(
                        f"{self._directory / str(step)} was saved with another {ORIGINS[name]}; bring that back, "
                        "choose another --workdir, or start anew by --overwrite"
                    )
            wanted = ocp.args.Composite(state=ocp.args.StandardRestore(_saved(state)))
            return state.replace(**self._manager.restore(step, args=wanted)["state"]), position

    def _set_aside(self, step: int, error: Exception) -> None:
        self._note(f"checkpoint {step} cannot be read: {_reason(error)}")
        if self._read_only:
            return
        aside = self._directory.parent / "checkpoints-unreadable" / f"{step}-{time.time_ns():x}"
        distributed.once(lambda: _move(self._directory / str(step), aside))
        self._manager.reload()
        left = self.steps()
        self._note(f"moved to {aside}; going on from " + (f"checkpoint {left[-1]}" if left else "the beginning"))

    def wait(self) -> None:
        """Until everything is on disk, or in the bucket."""
        with self._told("written"):
            self._manager.wait_until_finished()
        self._publish()

    def close(self) -> None:
        self._manager.close()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turns the refusals of a store into the user's error: they are no damage."""
        try:
            yield
        except Exception as error:
            if "://" in str(self._directory) and _is_refusal(error):
                raise bucket.refused(str(self._directory), what, error) from error
            raise


def _move(path: epath.Path, target: epath.Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.exists():  # in a bucket, where a folder is there once it holds something
        (target.parent / "README").write_text("Checkpoints that could not be read. Nothing here is used any more.\n")
    path.rename(target)


def _saved(state: State) -> dict[str, Any]:
    """The parts of a state that a checkpoint holds, as jaxft 0.1.0 wrote them."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    del parts["numbers"]
    return parts | {"frozen": {}}


def _is_no_damage(error: Exception) -> bool:
    """Of an error in reading: it would come with a whole checkpoint too. (For torn ones orbax raises all kinds.)"""
    return isinstance(error, UserError | MemoryError | jax.errors.JaxRuntimeError) or (
        system_error(error)[0] in NO_DAMAGE
    )


def _is_refusal(error: Exception) -> bool:
    return any(word in str(cause) for cause in causes(error) for word in bucket.REFUSALS)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
