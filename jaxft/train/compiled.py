"""A jitted function compiled ahead of its batches, on threads."""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax

from jaxft.batch import BatchShape
from jaxft.devices import distributed


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


_tracing = threading.Lock()
"""Traces that take turns in Python are all ready late; one after the other the first is ready soon."""


class Compiled:
    """A jitted function compiled ahead for each batch shape, on threads.

    A batch of another shape, which is larger than all of them, is waited for until it is compiled too.
    """

    def __init__(
        self,
        function: Any,
        first: Any,
        abstract_batch: Callable[[BatchShape], Any],
        shapes: list[BatchShape],
        then: tuple[Any, Any] | None = None,
    ):
        """Begins to compile; the first shapes are ready first.

        Args:
          first: the abstract first argument; the batch is the second.
          then: a jitted function of the first argument and the results, whatever the shape, and its abstract arguments.
        """
        self._arguments = function, first
        self._pool = ThreadPoolExecutor(2)
        submit = partial(self._pool.submit, self._compile)

        def each(shapes: list[BatchShape]) -> dict[tuple[int, ...], Future]:
            return {(shape.rows, shape.length): submit(function, first, abstract_batch(shape)) for shape in shapes}

        self._compiled = each(shapes[:1])
        self._then = submit(then[0], *then[1]) if then else None
        self._compiled |= each(shapes[1:])
        self._pool.shutdown(wait=False)
        self._begun: set[tuple[int, ...]] = set()
        self.first_step: float | None = None

    def wait(self) -> None:
        """Returns once every shape is compiled."""
        for future in (*self._compiled.values(), *([self._then] if self._then else [])):
            future.result()

    @staticmethod
    def _compile(function: Any, *arguments: Any) -> Any:
        with _tracing:
            lowered = function.lower(*arguments)
        return lowered.compile()

    def __call__(self, first: Any, batch: Mapping[str, jax.Array]) -> Any:
        shape = batch["input_ids"].shape
        if shape not in self._compiled:
            self._compiled[shape] = Future()
            self._compiled[shape].set_result(self._compile(*self._arguments, jax.tree.map(_abstract, dict(batch))))
        program, then = self._compiled[shape].result(), self._then and self._then.result()
        if shape not in self._begun:
            # A process that compiles for longer would miss the others' first collective, which does not wait long.
            distributed.wait_for_all(f"compiled for {shape}")
            self._begun.add(shape)
        result = program(first, batch)
        if then:
            result = then(first, *result)
        if self.first_step is None:
            jax.block_until_ready(result)
            self.first_step = time.time()
        return result
