"""Steps compiled ahead of the batches that they are for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.batch import BatchShape
from jaxft.train.compiled import Compiled

TOKENS = {"input_ids": jnp.int32}


def abstract(shape: BatchShape) -> dict[str, Any]:
    return {name: jax.ShapeDtypeStruct((shape.rows, shape.length), dtype) for name, dtype in TOKENS.items()}


def test_a_batch_of_another_shape_is_compiled_for_once_it_comes():
    traced = []

    def total(first: Any, batch: Any) -> Any:
        traced.append(batch["input_ids"].shape)
        return first + batch["input_ids"].sum()

    step = Compiled(jax.jit(total), jax.ShapeDtypeStruct((), jnp.int32), abstract, [BatchShape(2, 8, 1)])
    step.wait()
    assert traced == [(2, 8)] and step.first_step is None
    for rows, length in ((2, 8), (4, 8), (2, 8), (4, 8)):
        assert step(jnp.int32(1), {"input_ids": jnp.asarray(np.full((rows, length), 3))}) == 1 + 3 * rows * length
    assert traced == [(2, 8), (4, 8)] and step.first_step


def test_what_goes_on_with_the_results_is_compiled_once():
    traced = []

    def total(first: Any, batch: Any) -> tuple[Any, Any]:
        traced.append(batch["input_ids"].shape)
        return batch["input_ids"].sum(), batch["input_ids"].max()

    def then(first: Any, summed: Any, highest: Any) -> Any:
        traced.append(summed.shape)
        return first + 10 * summed + highest

    number = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = [BatchShape(2, 8, 1), BatchShape(4, 8, 1)]
    step = Compiled(jax.jit(total), number, abstract, shapes, then=(jax.jit(then), (number, number, number)))
    step.wait()
    assert sorted(traced) == [(), (2, 8), (4, 8)]
    for rows in (2, 4, 6):
        assert step(jnp.int32(1), {"input_ids": jnp.full((rows, 8), 3)}) == 1 + 10 * 3 * rows * 8 + 3
    assert traced[3:] == [(6, 8)], "a batch of another shape compiles the first half alone"
