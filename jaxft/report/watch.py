"""What a run says of itself while it trains, to whoever asks at any moment: `Exporter` does for Prometheus."""

import dataclasses
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass
class Watch:
    """The newest numbers of a run. The training thread writes them, and any thread may read.

    It holds what the loop reports anyway, so that a reader costs the device nothing, and the host one clock a step.
    Each attribute is replaced as a whole: who reads two of them may see those of neighbouring steps, never half of one.

    Attributes:
      info: what run it is; empty: it has not begun.
      steps: the number of the last step.
      steps_per_epoch: 0: not known.
      step: says how many steps the host has given to the device, those of earlier starts of the run included.
      values: of the newest line that training has logged, which is an interval of the log behind.
      evaluations: split -> the newest metrics of it, the loss among them.
      stepped: when the newest step was given to the device, or the run began, by `time.monotonic`, in seconds.
    """

    info: Mapping[str, str] = dataclasses.field(default_factory=dict)
    steps: int = 0
    steps_per_epoch: float = 0
    step: Callable[[], int] = lambda: 0
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    evaluations: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    stepped: float = 0.0

    def begin(self, info: Mapping[str, str], steps: int, steps_per_epoch: float, step: Callable[[], int]) -> None:
        """Says that a run begins, or goes on; what an earlier one has said is forgotten. See the attributes."""
        self.values, self.evaluations = {}, {}
        self.steps, self.steps_per_epoch, self.step = steps, steps_per_epoch, step
        self.stepped = time.monotonic()
        self.info = dict(info)  # last: with it the rest is read

    def note_step(self) -> None:
        """Notes that a step has just been given to the device."""
        self.stepped = time.monotonic()

    def note(self, split: str, values: Mapping[str, float]) -> None:
        """Takes a line of the log: metrics by name, of training steps or of the evaluation of another split."""
        if split == "train":
            self.values = dict(values)
        else:
            self.evaluations = {**self.evaluations, split: dict(values)}
