"""Scalars as TensorBoard event files."""

from collections.abc import Mapping
from pathlib import Path


class TensorBoard:
    """Writes scalars below `directory`, tagged `SPLIT/NAME`.

    tensorboardX takes two seconds to import, so that happens at the first write, which a training loop makes after its
    first step; nothing is created before.

    Args:
      directory: where the event files go.
      purge_step: for a resumed run, the step from which TensorBoard hides what the killed run wrote.
    """

    def __init__(self, directory: str | Path, purge_step: int | None = None):
        self._directory = str(directory)
        self._purge_step = purge_step
        self._writer = None

    def scalars(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes each `{name: value}` at `step`, to the disk: a resumed run does not write it again."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(self._directory, purge_step=self._purge_step)
        for name, value in values.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
