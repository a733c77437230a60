"""A classifier of texts that gives, beside its logits, the vector of each text that its head reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from jaxft.devices.distributed import say
from jaxft.models import nn
from jaxft.predict.engine import CompiledEngine
from jaxft.sure import distance
from jaxft.tables import Table
from jaxft.tables.sequence_classification import SequenceClassification as Texts
from jaxft.tasks.sequence_classification import SequenceClassification
from jaxft.types import Array, Batch, Outputs

AnyEngine = TypeVar("AnyEngine")
"""See `jaxft.predict.engine.Engine`."""


@dataclasses.dataclass(frozen=True)
class WithVectors(SequenceClassification):
    """The same task, of texts that are read whole.

    `vectors` are the hidden states of the last layer that the head reads: of one token, or the mean of all.
    """

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "example", "vectors": "example"}

    def _says_vectors(self, run: nn.Run) -> bool:
        return True

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """The same as without: vectors are compared in training alone."""
        return super().loss({"logits": outputs["logits"]}, batch)


def with_vectors(engine: CompiledEngine) -> CompiledEngine:
    """Returns an engine of the same parameters, whose outputs have `vectors`."""
    return engine.of_task(WithVectors(engine.task.options))


def without_vectors(engine: AnyEngine) -> AnyEngine | CompiledEngine:
    """Returns an engine of the same parameters, whose outputs have none."""
    if not isinstance(engine, CompiledEngine) or not isinstance(engine.task, WithVectors):
        return engine
    return engine.of_task(SequenceClassification(engine.task.options))


def with_distance(table: Table, engine: CompiledEngine, directory: Path) -> tuple[Table, CompiledEngine]:
    """Returns both so that answers say how far a text is, where a distance is kept beside the model; else as they are.

    Raises:
      UserError: what is kept there is damaged.
    """
    if not isinstance(table, Texts):
        return table, engine
    kept, lines = distance.read(directory)
    for line in lines:
        say(line)
    if kept is None:
        return table, engine
    return table.placed(kept), with_vectors(engine)
