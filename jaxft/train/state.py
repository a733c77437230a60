"""Everything that a training step reads and changes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxft.train.numbers import Numbers
from jaxft.types import Array, Int, Params, UInt32


class State(struct.PyTreeNode):
    """A point of a run; equal states and equal batches give equal futures.

    Attributes:
      step: batches consumed so far, which is also the position in the data.
      trainable: parameters that learn.
      frozen: parameters that do not.
      opt_state: the optimizer's, for `trainable` alone.
      key: raw PRNG key; the dropout masks of a step are a function of it and `step`.
      skipped: updates left out so far because the loss or a gradient was not finite.
      skipped_in_a_row: how many of them were the last ones.
      numbers: settings of the run, the same at each step and in no checkpoint.
    """

    step: Int[Array, ""]
    trainable: Params
    frozen: Params
    opt_state: Any
    key: UInt32[Array, " words"]
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]
    numbers: Numbers


def init(
    trainable: Params, frozen: Params, optimizer: optax.GradientTransformation, numbers: Numbers, seed: int
) -> State:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    key = jax.random.key_data(jax.random.key(seed))
    return State(
        step=zero,
        trainable=trainable,
        frozen=frozen,
        opt_state=optimizer.init(trainable),
        key=key,
        skipped=zero,
        skipped_in_a_row=zero,
        numbers=numbers,
    )
