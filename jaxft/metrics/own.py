"""A metric of the user's own: a function of the texts that were written and of those that were asked for."""

import importlib
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from jaxft.errors import UserError, nearest

Metric = Callable[[list[str], list[str]], Any]
"""`(texts that were written, those that were asked for) -> a number, or numbers by name`."""


def load(named: str) -> Metric:
    """Returns the function that MODULE:FUNCTION names; modules are looked for in the current folder first.

    Raises:
      UserError: that is no such name, the module cannot be imported, or it has no such function.
    """
    module, _, name = named.partition(":")
    if not module or not name:
        raise UserError(f"generate.metric is {named!r}; it must be MODULE:FUNCTION, e.g. my_metrics:distance")
    with _run(f"{module} cannot be imported"):
        found = importlib.import_module(module)
    metric = getattr(found, name, None)
    if metric is None:
        functions = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"generate.metric: {module} has no {name!r}; {nearest(name, functions)}")
    if not callable(metric):
        raise UserError(f"generate.metric: {named} is of type {type(metric).__name__}; it must be a function")
    return metric


def measured(
    metric: Metric, written: Sequence[str], references: Sequence[str], taken: Collection[str]
) -> dict[str, float]:
    """Returns what a metric says of texts: by its own name, or by the names that it gives.

    Args:
      written, references: as many each, in the order of the rows.
      taken: names of other metrics.

    Raises:
      UserError: the function fails, or returns what is no finite number, or a name that is taken.
    """
    called = getattr(metric, "__name__", type(metric).__name__)
    with _run(f"{called} failed on {len(written):,} texts"):
        found = metric([*written], [*references])
    values = found if isinstance(found, Mapping) else {called: found}
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, Real) or not math.isfinite(value):
            raise UserError(
                f"generate.metric: {called} returned {name!r}: {value!r}; it must be a finite number, or such by name"
            )
        if name in taken:
            raise UserError(f"generate.metric: {called} returned {name!r}, which is the name of another metric")
    return {name: float(value) for name, value in values.items()}


@contextmanager
def _run(failed: str) -> Iterator[None]:
    """Runs code of the user's, which finds modules in the current folder first, as if the interpreter had begun there.

    Raises:
      UserError: it fails, or ends the program; says so.
    """
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = str(error).splitlines()
        why = f"{type(error).__name__}{f': {lines[0]}' if lines else ''}"
        raise UserError(f"generate.metric: {failed} ({why})") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
