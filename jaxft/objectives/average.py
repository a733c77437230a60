"""Averages of the parameters over steps: what a run evaluates and exports in place of the last ones.

The average is in the optimizer's state, one copy of what learns; training itself does not read it. It composes with
every optimizer, method and transform. Steps that are left out (see `jaxft.train.step`) are in no average.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxft.train.numbers import Numbers
from jaxft.train.state import State
from jaxft.train.step import UpdateStep
from jaxft.types import Array, Float, Int, Params

Share = Callable[[Int[Array, ""], Numbers], Float[Array, ""]]
"""`(updates so far, this one included, numbers) -> share of the newest parameters in the mean`, 0 to 1."""


class Averaged(NamedTuple):
    """State of the optimizer: that of the one within, the updates so far, and the mean of the parameters."""

    inner: Any
    count: Array
    mean: Params


def exponential(count: Int[Array, ""], numbers: Numbers) -> Float[Array, ""]:
    """Returns the share of the newest in an exponential moving average with decay d: (1 - d) / (1 - d^count).

    The average that these shares make is free of a bias towards the start (Kingma and Ba 2015, section 3), as that of
    optax.ema(d, debias=True). The decay is `numbers.strengths["ema"]`.
    """
    log = jnp.log(numbers.strengths["ema"])
    return jnp.expm1(log) / jnp.expm1(count * log)


def uniform(count: Int[Array, ""], numbers: Numbers) -> Float[Array, ""]:
    """Returns the share of the newest in the mean of the last steps (SWA, Izmailov et al. 2018, algorithm 1): 1 / n.

    Before these steps begin it is 1. `numbers.strengths["swa"]` is their share of all steps.
    """
    last = jnp.maximum(jnp.round(numbers.strengths["swa"] * numbers.steps).astype(jnp.int32), 1)
    return 1 / jnp.maximum(count - (numbers.steps - last), 1).astype(jnp.float32)


def begun(state: State) -> State:
    """Returns the state before the first step, with a mean that begins as what learns."""
    mean = jax.tree.map(jnp.copy, state.trainable)
    return state.replace(opt_state=Averaged(state.opt_state, jnp.zeros((), jnp.int32), mean))


def averaged(update: UpdateStep, share: Share) -> UpdateStep:
    """Returns the update that makes the same parameters, and keeps mean + share * (parameters - mean) of them."""

    def update_step(state: State, loss: Array, grads: Params) -> tuple[State, dict[str, Array]]:
        inner, count, mean = state.opt_state
        new, metrics = update(state.replace(opt_state=inner), loss, grads)
        made = new.skipped == state.skipped
        count = count + made
        part = jnp.where(made, share(count, state.numbers), 0.0)
        # Of the parameters as they leave the step: made of the optimizer's change, which XLA would write and read once
        # more, the mean costs 2.5 times as much.
        mean = jax.tree.map(lambda m, x: jnp.where(part < 1, m + part * (x - m), x), mean, new.trainable)
        return new.replace(opt_state=Averaged(new.opt_state, count, mean)), metrics

    return update_step
