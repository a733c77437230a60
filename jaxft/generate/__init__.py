"""Texts that a decoder writes: prompts in, what it continues them with out.

`jaxft.generate(model, prompts)` writes, see `jaxft.generate.answers.generate`: a name of the package cannot be a
function and a part of it at once, so this part can be called.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """What this module is: a module that can be called."""

    def __call__(self, *args: Any, **options: Any) -> list[Any]:
        """Writes; see `jaxft.generate.answers.generate` for what it takes, returns and raises."""
        from jaxft.generate.answers import generate

        return generate(*args, **options)


sys.modules[__name__].__class__ = _Callable
