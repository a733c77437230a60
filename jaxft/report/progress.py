"""How far training is: a bar on a terminal, plain lines in a log file."""

import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

UNITS = {"examples_per_second": ("examples/s", "ex/s"), "real_tokens_per_second": ("tokens/s", "tok/s")}
"""Unit of a rate in a log line, and on the bar, where room is short."""


class Progress:
    """Shows the metrics of training steps on `stream` (standard error if not given); a context manager.

    On a terminal it is one bar that stays at the bottom; elsewhere each update is a line without control characters.

    Args:
      total_steps: the step at which training ends.
      start_step: the step it starts from, above zero for a resumed run.
      stream: where to write.
      quiet: shows nothing, on the processes of a run that leave this to another one.
    """

    def __init__(self, total_steps: int, start_step: int = 0, stream: TextIO | None = None, quiet: bool = False):
        self._total = total_steps
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._anchor: tuple[int, float] | None = None
        self._bar = self._task = None
        if not quiet and self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task("", total=total_steps, completed=start_step, text="")
            self._bar.start()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Shows `step` as done, and of `values` the loss, learning rate, examples and real tokens a second."""
        parts = _describe(values, short=self._bar is not None)
        if (left := self._seconds_left(step)) is not None:
            parts.append(f"{duration(left)} left")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, text="  ".join(parts), refresh=True)
        else:
            self._print("  ".join([f"step {step}/{self._total}", *parts]))

    def note(self, text: str) -> None:
        """Prints a line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._print(text)

    def close(self) -> None:
        """Leaves the bar as it is and gives the terminal back; may be called twice."""
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, file=self._stream, flush=True)

    def _seconds_left(self, step: int) -> float | None:
        """From the pace since the first update: the steps before it include compilation."""
        now = time.perf_counter()
        if self._anchor is None:
            self._anchor = (step, now)
        first, then = self._anchor
        return (now - then) / (step - first) * (self._total - step) if first < step < self._total else None


def _bar(stream: TextIO):
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    # Without its own thread: the bar changes when a step does. What others print to the terminal goes above it, but
    # output that the user sent to a file must keep going there.
    return Bar(
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(file=stream),
        auto_refresh=False,
        expand=True,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    )


def _describe(values: Mapping[str, float], short: bool) -> list[str]:
    parts = []
    if (loss := values.get("loss")) is not None:
        parts.append(f"loss {loss:.3f}" if abs(loss) >= 0.01 or loss == 0 else f"loss {loss:.1e}")
    if (rate := values.get("learning_rate")) is not None:
        parts.append(f"lr {rate:.1e}")
    for name, units in UNITS.items():
        if (speed := values.get(name)) is not None:
            parts.append(f"{speed:,.0f} {units[short]}" if speed >= 10 else f"{speed:.1f} {units[short]}")
    return parts


def duration(seconds: float) -> str:
    """`1:12` (minutes and seconds) or `2:01:12`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
