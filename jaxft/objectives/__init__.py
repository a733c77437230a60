"""What changes the step of training: one file a transform, and this registry of them.

A transform changes the objective, its gradient or the update, and is composed where its strength is above zero alone:
at zero the program is the plain one. docs/objectives.md says what each is for, its formula, its cost, and what it does
not compose with.
"""

from typing import Any

import optax

from jaxft.config import Experiment, Optimizer
from jaxft.errors import UserError
from jaxft.objectives.average import Averaged, averaged, exponential, uniform
from jaxft.types import Params


def strengths(experiment: Experiment) -> dict[str, float]:
    """Returns the strengths of the transforms that an experiment asks for, those above zero, by name.

    Raises:
      UserError: two of them do not compose.
    """
    options = experiment.optimizer
    if options.ema and options.swa:
        raise UserError(
            "config.optimizer.ema and config.optimizer.swa are both set, but one average is evaluated and exported; "
            "unset one of them"
        )
    found = {"ema": options.ema, "swa": options.swa}
    return {name: value for name, value in found.items() if value}


def optimizer(inner: optax.GradientTransformation, options: Optimizer) -> optax.GradientTransformation:
    """Returns the optimizer with the average that is asked for, if any."""
    if options.ema or options.swa:
        return averaged(inner, exponential if options.ema else uniform)
    return inner


def evaluated(trainable: Params, opt_state: Any) -> Params:
    """Returns what is evaluated and exported of what learns: its average where the optimizer keeps one."""
    return opt_state.mean if isinstance(opt_state, Averaged) else trainable


__all__ = ["evaluated", "optimizer", "strengths"]
