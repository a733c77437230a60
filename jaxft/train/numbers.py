"""Settings of a run that are numbers: arguments of the compiled step, so that another value compiles nothing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxft import config
from jaxft.errors import UserError
from jaxft.models.nn import Rate
from jaxft.types import Array, Float, Int


class Numbers(NamedTuple):
    """What a training step is computed with.

    Whether a weight decay, a smoothing or a dropout rate is zero is part of the program.

    Attributes:
      learning_rate: the peak.
      warmup: steps of it.
      steps: of the run, over which the learning rate decays.
      weight_decay: decoupled.
      loss: numbers of the task's loss by name; see `jaxft.tasks.base.Task.numbers`. Evaluation, which no state is
        handed to, is compiled for each value of these.
      dropout: the rates above zero of the model and of the method, by name.
      strengths: of the transforms that are on, by name; see `jaxft.objectives`.
    """

    learning_rate: Float[Array, ""]
    warmup: Int[Array, ""]
    steps: Int[Array, ""]
    weight_decay: Float[Array, ""]
    loss: Mapping[str, Float[Array, ""]]
    dropout: Mapping[str, Rate]
    strengths: Mapping[str, Float[Array, ""]]


def of(
    options: config.Optimizer,
    steps: int,
    loss: Mapping[str, float] | None = None,
    dropout: Mapping[str, float] | None = None,
    strengths: Mapping[str, float] | None = None,
) -> Numbers:
    """Returns the numbers of a run of so many steps, on the host.

    Args:
      loss: those of the task.
      dropout: rates above zero.
      strengths: of transforms, above zero.

    Raises:
      UserError: warmup is longer than the run.
    """
    warmup = round(options.warmup * steps) if options.warmup < 1 else round(options.warmup)
    if warmup > steps:
        raise UserError(f"config.optimizer.warmup is {warmup} steps, but the run has only {steps}")
    values: dict[str, Any] = dict(
        learning_rate=np.float32(options.learning_rate),
        warmup=np.int32(warmup),
        steps=np.int32(min(steps, np.iinfo(np.int32).max)),
        weight_decay=np.float32(options.weight_decay),
        loss={name: np.float32(value) for name, value in (loss or {}).items()},
        dropout={name: Rate.of(rate) for name, rate in (dropout or {}).items()},
        strengths={name: np.float32(value) for name, value in (strengths or {}).items()},
    )
    return Numbers(**values)
