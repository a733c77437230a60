"""What computes a predictor's outputs: the interface, and the engine of programs that jax compiles."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxft import config, program
from jaxft.batch import BatchShape, Target, arrays
from jaxft.data.batches import Feed, assemble, spread
from jaxft.data.features import Features
from jaxft.models import Model
from jaxft.predict.shapes import EACH, EACH_ELSEWHERE, Fixed, fixed_shapes, shape_for
from jaxft.storage import fingerprint
from jaxft.tasks import Task
from jaxft.train.compiled import Compiled
from jaxft.train.evaluate import Evaluated, collect, evaluate, gather, scatter
from jaxft.types import Params


class Engine(Protocol):
    """What a predictor asks of whatever computes. One thread at a time may call `compute`, `evaluate` or `warm`.

    Attributes:
      positions: of the batches of the last `compute` after `warm`, padding included.
    """

    positions: int

    @property
    def task(self) -> Task: ...

    @property
    def model(self) -> Model: ...

    @property
    def device(self) -> str:
        """The kind of device that computes: cpu, gpu or tpu."""
        ...

    def compute(self, features: Features) -> Mapping[str, np.ndarray]:
        """Returns the outputs by name, `[examples, ...]` or, per token, `[tokens, ...]`, in the order of examples."""
        ...

    def evaluate(self, features: Features) -> Evaluated:
        """Returns the same of examples that have labels, and their mean loss."""
        ...

    def warm(self, tokens: int) -> list[BatchShape]:
        """Makes ready for a service whose batches have about so many tokens; returns the shapes that are compiled."""
        ...

    def check(self, features: Features, origin: str) -> None:
        """Makes sure that each row of the table has room.

        Raises:
          UserError: one has not; names it.
        """
        ...


class CompiledEngine:
    """Programs that jax compiles, one for each of a few shapes of batches; inputs share their rows.

    Each is compiled when it is first needed, and kept; after `warm` nothing is compiled any more.

    Attributes:
      weights: the trainable and the frozen parameters.
      positions: see `Engine`.
    """

    def __init__(self, experiment: config.Experiment, composed: program.Program, weights: tuple[Params, Params]):
        """Of a program and its parameters.

        Args:
          experiment: `data.max_length`, `data.packing` and `train.batch_size` are what is read of it.
        """
        self.weights = weights
        self.positions = 0
        self._experiment, self._program = experiment, composed
        self._steps: dict[BatchShape, Compiled] = {}
        self._fixed: tuple[Fixed, Compiled] | None = None
        self._functions: dict[Any, Any] = {}

    @property
    def task(self) -> Task:
        return self._program.task

    @property
    def model(self) -> Model:
        return self._program.model

    @property
    def composed(self) -> program.Program:
        """The program whose outputs it computes."""
        return self._program

    @property
    def fingerprint(self) -> str:
        """A fingerprint of the model that it computes, the same on every mesh: of the weights, the task, the sizes."""
        trainable, frozen = self.weights
        weights = fingerprint.of_params({"trainable": trainable, "frozen": frozen})
        return fingerprint.of_values([weights, str(self.task.options), str(self.model.cfg)])

    @property
    def device(self) -> str:
        return self._program.mesh.devices.flat[0].platform

    def compute(self, features: Features) -> Mapping[str, np.ndarray]:
        targets = {name: self.task.targets[name] for name in self.task.reads}
        if self._fixed:
            return self._in_fixed_shapes(features, targets, *self._fixed)
        feed, shape = self._feed(features, targets)
        if shape not in self._steps:
            abstract = program.weights(self._program.state)
            self._steps[shape] = Compiled(self._program.outputs, abstract, self._program.abstract_inputs, [shape])
        step = self._steps[shape]
        return collect(lambda *given: (step(*given), None), self.weights, feed, self.task.outputs)[0]

    def function(self, make: Callable[..., Any], *args: Any) -> Any:
        """Returns `make(program, *args)`, a jitted function for `collect`: made once, so that it is compiled once."""
        if (make, args) not in self._functions:
            self._functions[make, args] = make(self._program, *args)
        return self._functions[make, args]

    def of_task(self, task: Task) -> "CompiledEngine":
        """Returns what computes another task with the same parameters: made once for a type of task."""
        if type(task) not in self._functions:
            experiment = dataclasses.replace(self._experiment, objective=config.Objective())  # nothing is learned
            mesh, longest = self._program.mesh, experiment.data.max_length
            composed = program.compose(experiment, self.model, task, steps=10**9, mesh=mesh, longest=longest)
            self._functions[type(task)] = CompiledEngine(experiment, composed, self.weights)
        return self._functions[type(task)]

    def collect(
        self, function: Any, features: Features, targets: Mapping[str, Target], kinds: Mapping[str, str]
    ) -> dict[str, np.ndarray]:
        """Returns what another function of the parameters and packed examples gives, as `compute` returns outputs.

        Args:
          function: `(weights, batch) -> outputs`, jitted.
          targets: the columns of the features that it reads beside the tokens.
          kinds: each of its outputs' name -> "example" or "token".
        """
        feed, _ = self._feed(features, targets)
        return collect(lambda *given: (function(*given), None), self.weights, feed, kinds)[0]

    def evaluate(self, features: Features) -> Evaluated:
        composed = self._program
        feed, shape = self._feed(features, composed.targets)
        step = Compiled(composed.eval_step, program.weights(composed.state), composed.abstract_batch, [shape])
        return evaluate(step, self.weights, feed, self.task.outputs)

    def warm(self, tokens: int) -> list[BatchShape]:
        """Compiles a fixed set of shapes, and computes each once; `compute` has batches of these alone from then on.

        Args:
          tokens: of the largest batch, about; see `jaxft.predict.shapes.fixed_shapes`.
        """
        composed, task = self._program, self.task
        virtual = composed.adaptation.tokens > 0
        shapes = fixed_shapes(self._experiment, composed.row_shards, tokens, task.together, virtual)
        step = Compiled(composed.outputs, program.weights(composed.state), composed.abstract_inputs, shapes)
        step.wait()
        targets = {name: task.targets[name] for name in task.reads}
        for shape in shapes:
            empty = {name: np.zeros(dims, dtype) for name, (dims, dtype) in arrays(shape, targets).items()}
            jax.block_until_ready(step(self.weights, jax.device_put(empty, composed.batch_sharding)))
        self._fixed = Fixed(shapes, self.model.facts.width, EACH.get(self.device, EACH_ELSEWHERE)), step
        return shapes

    def check(self, features: Features, origin: str) -> None:
        if self._fixed:
            self._fixed[0].check(features.items(self.task.together), origin)

    def _in_fixed_shapes(
        self, features: Features, targets: Mapping[str, Target], fixed: Fixed, step: Compiled
    ) -> Mapping[str, np.ndarray]:
        """The outputs, from batches of the shapes that `warm` has compiled."""
        task, outputs = self.task, {}
        items, begun = features.items(task.together), []
        for part in fixed.parts(items):
            host = assemble(features, *spread(features, items, part.items, part.rows), part.shape, targets)
            placed = jax.device_put(dict(host.arrays), self._program.batch_sharding)
            begun.append((host, step(self.weights, placed)))
        self.positions = sum(host.shape.rows * host.shape.length for host, _ in begun)
        for host, found in begun:
            scatter(outputs, jax.device_get(found), task.outputs, host, features)
        return outputs

    def _feed(self, features: Features, targets: Mapping[str, Target]) -> tuple[Feed, BatchShape]:
        """The batches of all examples, and their one shape."""
        composed, together = self._program, self.task.together
        shape = shape_for(features.items(together), self._experiment, composed.row_shards)
        return Feed(features, targets, [shape], composed.batch_sharding, together=together), shape


def measured(
    outputs: Mapping[str, np.ndarray], features: Features, task: Task, experiment: config.Experiment
) -> Evaluated:
    """Returns outputs of examples that have labels, however they were computed, with their mean loss.

    Args:
      outputs: as `Engine.compute` returns them.
      experiment: as `shape_for` takes it.
    """
    together, sums = task.together, np.zeros(2)
    shape = shape_for(features.items(together), experiment, 1)
    place = NamedSharding(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]), PartitionSpec())
    feed, loss = Feed(features, task.targets, [shape], place, together=together), jax.jit(task.loss)
    for host, batch in feed.all():
        sums += np.asarray(loss(gather(outputs, task.outputs, host, features), batch), np.float64)
    return Evaluated(outputs, float(sums[0] / sums[1]) if sums[1] else float("nan"))
