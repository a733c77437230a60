"""Scalars as TensorBoard event files."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class TensorBoard:
    """Writes scalars below `directory`, tagged `SPLIT/NAME`.

    tensorboardX is imported at the first write, which a training loop makes after its first step; nothing is created
    before. Its SummaryWriter is not used: that writes on a thread, and on a full disk
    the thread dies and the next writes wait for it forever.

    Args:
      directory: where the event files go.
      purge_step: for a resumed run, the step from which TensorBoard hides what the killed run wrote.
    """

    def __init__(self, directory: str | Path, purge_step: int | None = None):
        self._directory = Path(directory)
        self._purge_step = purge_step
        self._writer: Any = None

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes each `{name: value}` at `step`, to the disk: a resumed run does not write it again.

        Raises:
          OSError: the disk is full, and the like.
        """
        with _without_torch():
            from tensorboardX.proto import event_pb2, summary_pb2

        event: Any = event_pb2  # made at run time, where no type checker sees what is in them
        summary: Any = summary_pb2
        if self._writer is None:
            self._writer = self._open(event)
        scalars = [summary.Summary.Value(tag=f"{split}/{name}", simple_value=v) for name, v in values.items()]
        self._writer.write_event(event.Event(wall_time=time.time(), step=step, summary=summary.Summary(value=scalars)))
        self._writer.flush()

    def _open(self, event: Any) -> Any:
        from tensorboardX.event_file_writer import EventsWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        writer = EventsWriter(str(self._directory / "events"))
        if self._purge_step is not None:
            start = event.SessionLog(status=event.SessionLog.START)
            writer.write_event(event.Event(wall_time=time.time(), step=self._purge_step, session_log=start))
        return writer

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """For tensorboardX, which imports PyTorch where that is installed, to draw its models; it takes two seconds."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["torch"]
