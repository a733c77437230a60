"""Why a model answers as it does: which words of a text speak for an answer, and which against it.

`jaxft.explain(model, texts)` explains, see `jaxft.explain.explainer.explain`: a name of the package cannot be a
function and a part of it at once, so this part can be called.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """What this module is: a module that can be called."""

    def __call__(self, *args: Any, **options: Any) -> list[Any]:
        """Explains; see `jaxft.explain.explainer.explain` for what it takes, returns and raises."""
        from jaxft.explain.explainer import explain

        return explain(*args, **options)


sys.modules[__name__].__class__ = _Callable
