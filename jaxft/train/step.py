"""The training step: `state, metrics = train_step(state, batch)`, and the evaluation step.

Both are pure and know no model, task or method by name: they are handed an objective and a way to join parameters.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft.train.state import State
from jaxft.types import Array, Batch, Key, Outputs, Params

Objective = Callable[[Params, Batch, Key[Array, ""] | None], tuple[tuple[Array, Array], Outputs]]
"""`(params, batch, dropout key or None) -> (sum of losses, sum of weights), outputs`."""

TrainStep = Callable[[State, Batch], tuple[State, dict[str, Array]]]


class Evaluated(NamedTuple):
    """One batch, evaluated: the task's outputs by name, the sum of the losses and the sum of their weights."""

    outputs: Outputs
    total: Array
    weight: Array


EvalStep = Callable[[tuple[Params, Params], Batch], Evaluated]


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    join: Callable[[Params, Params], Params],
    accumulate: int = 1,
) -> TrainStep:
    """One update on one batch.

    The batch is split by rows into `accumulate` parts computed one after the other. The gradient is that of the whole
    batch's loss, sum of losses / sum of weights, however it is split. Where the loss or the gradient is not finite the
    update is left out and counted.
    """

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

        def loss_sum(trainable: Params, part: Batch) -> tuple[Array, Array]:
            (total, weight), _ = objective(join(trainable, state.frozen), part, key)
            return total, weight

        def mean(trainable: Params) -> tuple[Array, Array]:
            total, weight = loss_sum(trainable, batch)
            return total / weight, weight

        def add(sums, part):
            (total, weight), grads = jax.value_and_grad(loss_sum, has_aux=True)(state.trainable, part)
            return jax.tree.map(jnp.add, sums, (total, weight, grads)), None

        if accumulate == 1:
            (loss, _), grads = jax.value_and_grad(mean, has_aux=True)(state.trainable)
        else:
            # Part i takes every accumulate-th row, so that each part is spread over all devices. They share a key:
            # dropout masks are a function of the example, which only one part holds.
            parts = {k: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1) for k, x in batch.items()}
            zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.trainable))
            (total, weight, grads), _ = jax.lax.scan(add, zeros, parts)
            loss, grads = total / weight, jax.tree.map(lambda g: g / weight, grads)

        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
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
            "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
            "skipped": new_state.skipped,
            "skipped_in_a_row": new_state.skipped_in_a_row,
        }
        return new_state, metrics

    return train_step


def make_eval_step(objective: Objective, join: Callable[[Params, Params], Params]) -> EvalStep:
    """Returns the step that evaluates one batch, without dropout."""

    def eval_step(weights: tuple[Params, Params], batch: Batch) -> Evaluated:
        (total, weight), outputs = objective(join(*weights), batch, None)
        return Evaluated(outputs, total, weight)

    return eval_step
