"""A classifier of texts that gives, beside its logits, the vector of each text that its head reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import jax.numpy as jnp

from jaxft.devices.distributed import say
from jaxft.models import Model, nn
from jaxft.predict.engine import CompiledEngine
from jaxft.sure import distance
from jaxft.tables import Table
from jaxft.tables.sequence_classification import SequenceClassification as Texts
from jaxft.tasks.sequence_classification import SequenceClassification
from jaxft.types import Batch, Outputs, Params

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

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        head = self._head(model)
        if head.pooling in ("first", "last"):
            at = batch["starts"] if head.pooling == "first" else model.ends(batch)
            vectors = model.encode(params, batch, run, at=at)
        else:
            vectors = nn.mean_pool(model.encode(params, batch, run), batch["segment_ids"], batch["starts"].shape[1])
        return super().forward(params, model, batch, run) | {"vectors": vectors.astype(jnp.float32)}


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
