"""The pure core of training (state, step, optimizer), and the loop and the checkpoints around it.

`jaxft.train(experiment, workdir)` trains, see `jaxft.modes.training.train`: a name of the package cannot be a function
and a part of it at once, so this part can be called.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """What this module is: a module that can be called."""

    def __call__(self, *args: Any, **options: Any) -> dict[str, float]:
        """Trains; see `jaxft.modes.training.train` for what it takes, returns and raises."""
        from jaxft.modes.training import train  # the core, which is here as well, does without all that it needs

        return train(*args, **options)


sys.modules[__name__].__class__ = _Callable
