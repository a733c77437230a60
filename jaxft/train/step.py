"""The training step: `state, metrics = train_step(state, batch)`, and the evaluation step.

Both are pure and know no model, task or method by name: objective | gradient | update. They are handed the gradient of
an objective, which transforms of `jaxft.train.objective` and `jaxft.train.gradient` may have changed, and an optimizer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.train.gradient import Gradient
from jaxft.train.numbers import Numbers
from jaxft.train.objective import Objective
from jaxft.train.optimizer import Schedule
from jaxft.train.state import State
from jaxft.types import Array, Batch, Outputs, Params

TrainStep = Callable[[State, Batch], tuple[State, dict[str, Array]]]

GradientStep = Callable[[State, Batch], tuple[Array, Params]]
"""`(state, batch) -> loss, gradient`: of the batch's mean loss, by what learns."""

UpdateStep = Callable[[State, Array, Params], tuple[State, dict[str, Array]]]
"""`(state, loss, gradient) -> state, metrics`."""


class Evaluated(NamedTuple):
    """One batch, evaluated: the task's outputs by name, the sum of the losses and the sum of their weights."""

    outputs: Outputs
    total: Array
    weight: Array


EvalStep = Callable[[tuple[Params, Params], Batch], Evaluated]


def make_gradient_step(gradient: Callable[[Numbers], Gradient]) -> GradientStep:
    """Returns the first half of a training step: the gradient of total / weight on one batch.

    Args:
      gradient: what computes the gradient, by the numbers of the state.
    """

    def gradient_step(state: State, batch: Batch) -> tuple[Array, Params]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        total, weight, sums = gradient(state.numbers)(state.trainable, state.frozen, batch, key)
        return total / weight, jax.tree.map(lambda g: g / weight, sums)

    return gradient_step


def make_update_step(optimizer: optax.GradientTransformation, schedule: Schedule) -> UpdateStep:
    """Returns the second half, which does not depend on the shape of the batch: the update.

    Where the loss or the gradient is not finite the update is left out and counted.

    Args:
      optimizer: its update takes the numbers of the state as an extra argument, `numbers`, where it takes any.
      schedule: the learning rate that is reported.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def update_step(state: State, loss: Array, grads: Params) -> tuple[State, dict[str, Array]]:
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable, numbers=state.numbers)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        new_state = state.replace(
            step=state.step + 1,
            trainable=jax.tree.map(keep, optax.apply_updates(state.trainable, updates), state.trainable),
            opt_state=jax.tree.map(keep, opt_state, state.opt_state),
            skipped=state.skipped + ~finite,
            skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
        )
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": schedule(state.step - state.skipped, state.numbers),
            "skipped": new_state.skipped,
            "skipped_in_a_row": new_state.skipped_in_a_row,
        }
        return new_state, metrics

    return update_step


def make_train_step(gradient_step: GradientStep, update_step: UpdateStep) -> TrainStep:
    """Returns the step that makes one update on one batch."""

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        return update_step(state, *gradient_step(state, batch))

    return train_step


def make_eval_step(objective: Objective, join: Callable[[Params, Params], Params]) -> EvalStep:
    """Returns the step that evaluates one batch, without dropout."""

    def eval_step(weights: tuple[Params, Params], batch: Batch) -> Evaluated:
        (total, weight), outputs = objective(join(*weights), batch, None)
        return Evaluated(outputs, total, weight)

    return eval_step
