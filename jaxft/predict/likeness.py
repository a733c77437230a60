"""Whether two models answer the same, so that their answers can be put together."""

from collections.abc import Mapping

import numpy as np

from jaxft import config
from jaxft.errors import UserError
from jaxft.tables import Table

Places = np.ndarray | None
"""Where one model has each label of the other; None: labels are not named, or in the same order."""


def places(said: str, theirs: config.Task, mine: config.Task) -> Places:
    """Returns where a model has each label of the run that it is to answer with, or for.

    Args:
      said: what an error calls the model.
      theirs, mine: the options of its table and of the run's.

    Raises:
      UserError: it has another task, or other labels.
    """
    own, other = check_labels(said, theirs, mine)
    if getattr(theirs, "windows", "") != getattr(mine, "windows", ""):
        raise UserError(f"{said}: it does not read long texts as the run does; give both the same task.windows")
    return None if own == other else np.asarray([other.index(name) for name in own])


def check_labels(said: str, theirs: config.Task, mine: config.Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the labels of the run and of a model, which are the same names; arguments as of `places`.

    Raises:
      UserError: the model has another task, or other labels.
    """
    if type(theirs) is not type(mine) or getattr(theirs, "problem", "") != getattr(mine, "problem", ""):
        kinds = [f"{type(one).__name__} {getattr(one, 'problem', '')}".strip() for one in (theirs, mine)]
        raise UserError(f"{said}: its task is {kinds[0]}, that of the run {kinds[1]}; take a model of the same")
    own, other = (tuple(getattr(one, "labels", ())) for one in (mine, theirs))
    if sorted(own) != sorted(other):
        raise UserError(f"{said}: its labels are {', '.join(other)}, those of the run {', '.join(own)}")
    return own, other


def check_mean(said: str, table: Table) -> None:
    """Makes sure that of the answers of several models there is a mean.

    Raises:
      UserError: there is none.
    """
    if type(table).mean is Table.mean:
        raise UserError(f"{said}: of answers of {type(table.options).__name__} there is no mean; take one model alone")


def ordered(outputs: Mapping[str, np.ndarray], at: Places) -> Mapping[str, np.ndarray]:
    """Returns the outputs of the model, labels in the order of the run's."""
    return outputs if at is None else {name: array[..., at] for name, array in outputs.items()}
