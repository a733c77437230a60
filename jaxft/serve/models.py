"""The models of a service, by name, and what each says of itself."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft import config
from jaxft.batch import BatchShape
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import JAX, Predictor
from jaxft.tables.sequence_classification import SequenceClassification


class Tensor(NamedTuple):
    """A tensor of the Open Inference Protocol: its name, its type, and its shape, -1 where that is not known."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Served:
    """A model that is served.

    Attributes:
      name: what requests call it.
      shapes: of its batches, all compiled.
    """

    name: str
    predictor: Predictor
    shapes: tuple[BatchShape, ...] = ()

    @property
    def task(self) -> str:
        """The name of the task, as config.json has it; of one of a user's own that of its options' class."""
        kind = type(self.predictor.table.options)
        return next((name for name, known in config.TASKS.items() if known is kind), kind.__name__)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(getattr(self.predictor.table.options, "labels", ()))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that a row must have."""
        return tuple(self.predictor.table.inputs)

    def says(self) -> dict[str, Any]:
        """Returns what /info says of the model; no path of this machine."""
        options = self.predictor.table.options
        found: dict[str, Any] = {"name": self.name, "task": self.task, "inputs": list(self.inputs)}
        found |= {"labels": list(self.labels)} if self.labels else {}
        found |= {"problem": options.problem} if hasattr(options, "problem") else {}
        table = self.predictor.table
        if isinstance(table, SequenceClassification):
            found |= {"thresholds": thresholds} if (thresholds := table.thresholds()) else {}
            found |= {"calibration": table.calibration.says()} if table.calibration else {}
        data = self.predictor.experiment.data
        found |= {"max_length": data.max_length, "truncate": data.truncate}
        return found | {"shapes": [[shape.rows, shape.length] for shape in self.shapes]}

    def outputs(self) -> list[Tensor]:
        """Returns the tensors that `/v2/models/NAME/infer` can give. `answer` is the whole answer, as JSON."""
        options, answer = self.predictor.table.options, Tensor("answer", "BYTES", (-1,))
        if isinstance(options, config.SentenceEmbedding):
            return [Tensor("embedding", "FP32", (-1, self.predictor.width)), answer]
        if not isinstance(options, config.SequenceClassification):
            return [answer]
        if not options.labels:
            return [Tensor("score", "FP32", (-1,)), answer]
        each = Tensor("probabilities", "FP32", (-1, len(options.labels)))
        if options.problem == "multi_label":
            return [each, answer]
        return [Tensor("prediction", "BYTES", (-1,)), Tensor("probability", "FP32", (-1,)), each, answer]


def read_adapters(given: str) -> dict[str, str]:
    """Returns name -> path of `--adapters=NAME=PATH,OTHER=PATH`.

    Raises:
      UserError: a part that is none, or a name that comes twice or cannot stand in a URL.
    """
    found: dict[str, str] = {}
    for part in filter(None, given.split(",")):
        name, equals, path = part.partition("=")
        if not equals or not name or not path:
            raise UserError(f"--adapters: {part!r} is no NAME=PATH; write --adapters=first=/path/one,second=/path/two")
        check_name("--adapters", name)
        if name in found:
            raise UserError(f"--adapters: the name {name!r} is given twice; each adapter has one of its own")
        found[name] = path
    return found


def check_name(flag: str, name: str) -> None:
    """Makes sure that a model's name can stand in a URL.

    Raises:
      UserError: it cannot.
    """
    if not name.isascii() or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UserError(
            f"{flag}: the name {name!r} must be of letters, digits, '-', '_' and '.', as it is part of a URL"
        )


def open_all(
    workdir: str, adapters: Mapping[str, str], engine: str = JAX, runs: Sequence[str] = ()
) -> dict[str, Predictor]:
    """Opens a model and the adapters that are put on it: name -> predictor, the first for requests that name none.

    A base that answers nothing by itself is left out where there are adapters. Parameters that are the same are kept
    once.

    Args:
      runs: others that answer with the model; see `Predictor.open`.

    Raises:
      UserError: there is no such run, model or adapter, or it does not fit.
    """
    if runs and adapters:
        raise UserError("--runs has models that answer together, on which --adapters cannot be put; leave one out")
    found: dict[str, Predictor] = {}
    own = name_of(workdir)
    if own in adapters:
        raise UserError(f"--adapters: {own!r} is the name of --workdir {workdir} itself; give the adapter another name")
    try:
        found[own] = Predictor.open(workdir, engine=engine, runs=runs)
    except UserError as error:
        if not adapters:
            raise
        say(f"{own} is not served by itself: {error}")
    for name, path in adapters.items():
        found[name] = Predictor.open(workdir, adapter=path, engine=engine)
    first, *others = (predictor.engine for predictor in found.values())
    for other in others:
        if isinstance(first, CompiledEngine) and isinstance(other, CompiledEngine):
            other.weights = shared(first.weights, other.weights)
    return found


def name_of(workdir: str) -> str:
    """Returns what requests call the model of a folder or a Hub name: the last part of it that is a name."""
    parts = [part for part in workdir.replace(":", "/").split("/") if part.strip(".~")]
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in parts[-1]) if parts else "model"
    return name or "model"


def shared(first: Any, other: Any) -> Any:
    """Returns the other's parameters, with the first's arrays where they are equal to it, bit for bit."""
    there = {path: x for part in first for path, x in nn.flatten(part).items()}

    def same(path: str, x: jax.Array) -> jax.Array:
        mine = there.get(path)
        if mine is None or mine.shape != x.shape or mine.dtype != x.dtype or mine.sharding != x.sharding:
            return x
        return mine if np.array_equal(np.asarray(mine), np.asarray(x)) else x

    def named(path: tuple, x: jax.Array) -> jax.Array:
        return same("/".join(str(entry.key) for entry in path), x)

    return tuple(jax.tree_util.tree_map_with_path(named, part) for part in other)
