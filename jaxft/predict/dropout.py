"""The engine of one model that answers with dropout, by the mean of several passes (Gal and Ghahramani 2016)."""

import copy
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config, program, sharding
from jaxft.batch import BatchShape
from jaxft.data.features import Features
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.models import Model
from jaxft.predict.engine import CompiledEngine, measured
from jaxft.predict.likeness import check_mean
from jaxft.predict.predictor import Predictor
from jaxft.predict.vectors import without_vectors
from jaxft.tables import Table
from jaxft.tasks import Task
from jaxft.train.evaluate import Evaluated
from jaxft.types import Array, Batch, Params

FEWEST = 2
"""Passes, at least: of one there is no disagreement."""

SEED = 0
"""Of the masks: the same rows have the same answers."""


def dropping(predictor: Predictor, passes: int) -> Predictor:
    """Returns a predictor of the same model that answers with dropout.

    Raises:
      UserError: as `DropoutEngine`; or there is no single model whose parameters are at hand.
    """
    engine, other = predictor.engine, copy.copy(predictor)
    if not isinstance(engine, CompiledEngine):
        raise UserError("--predict.dropout is for one model by its parameters; leave --runs and --engine out")
    other.table = predictor.table.calibrated(None)
    other.engine = DropoutEngine(without_vectors(engine), predictor.experiment, other.table, passes)
    if other.table != predictor.table:
        say("--predict.dropout: the calibration is left out, being of what the model answers without dropout")
    return other


class DropoutEngine:
    """Computes examples several times, each time by what another mask of dropout leaves of the model.

    In a pass all examples have the same mask, so that an answer does not depend on those beside it.

    Attributes:
      positions: see `jaxft.predict.engine.Engine`.
    """

    def __init__(self, engine: CompiledEngine, experiment: config.Experiment, table: Table, passes: int):
        """Of a model's own engine.

        Args:
          experiment, table: see `jaxft.predict.predictor.Predictor`.
          passes: how many.

        Raises:
          UserError: there are too few passes, nothing drops out, or of the answers there is no mean.
        """
        check_mean("--predict.dropout", table)
        if passes < FEWEST:
            raise UserError(f"--predict.dropout is {passes}; a mean is of {FEWEST} passes or more")
        if not engine.composed.numbers.dropout:
            raise UserError("--predict.dropout: no dropout rate in the model's config.json is above zero; leave it out")
        self.positions = 0
        self._engine, self._experiment, self._table = engine, experiment, table
        self._passes = passes

    @property
    def task(self) -> Task:
        return self._engine.task

    @property
    def model(self) -> Model:
        return self._engine.model

    @property
    def device(self) -> str:
        return self._engine.device

    def each(self, features: Features) -> Iterator[Mapping[str, np.ndarray]]:
        """Yields the outputs of each pass."""
        function = self._engine.function(make_dropped)
        targets = {name: self.task.targets[name] for name in self.task.reads}
        for key in jax.random.split(jax.random.key(SEED), self._passes):
            yield self._engine.collect(_with(function, key), features, targets, self.task.outputs)

    def compute(self, features: Features) -> Mapping[str, np.ndarray]:
        several = list(self.each(features))
        return {**self._table.mean(several, features), **self._table.disagreement(several)}

    def evaluate(self, features: Features) -> Evaluated:
        return measured(self.compute(features), features, self.task, self._experiment)

    def warm(self, tokens: int) -> list[BatchShape]:
        raise UserError("answers with dropout are not served; leave --predict.dropout out")

    def check(self, features: Features, origin: str) -> None:
        self._engine.check(features, origin)


Weights = tuple[Params, Params]


def make_dropped(composed: program.Program) -> Callable[[Weights, Array, Batch], dict[str, Array]]:
    """Returns the jitted function `(weights, words of a key, batch) -> outputs`, with dropout."""

    def dropped(weights: Weights, words: Array, batch: Batch) -> dict[str, Array]:
        alike = {**batch, "order": jnp.zeros_like(batch["order"])}
        return composed.dropped(weights, alike, jax.random.wrap_key_data(words))

    places = jax.tree.map(lambda x: x.sharding, program.weights(composed.state))
    everywhere = sharding.replicated(composed.mesh)
    given = places, everywhere, composed.batch_sharding
    return jax.jit(dropped, in_shardings=given, out_shardings=everywhere)


def _with(
    function: Callable[[Weights, Array, Batch], dict[str, Array]], key: Array
) -> Callable[[Weights, Batch], dict[str, Array]]:
    words = jax.random.key_data(key)
    return lambda weights, batch: function(weights, words, batch)
