"""AdamW with warmup and decay, from optax parts; and rates that differ from layer to layer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxft import config
from jaxft.errors import UserError

NOT_DECAYED = ("bias", "scale", "magnitude")
"""Names of parameters without weight decay: biases, the scales of LayerNorm and of (IA)^3, the lengths of DoRA."""


def make_schedule(options: config.Optimizer, steps: int) -> optax.Schedule:
    """Linear warmup from 0 to the peak, then linear or cosine decay to 0 at `steps`, or no decay.

    As get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup of transformers/optimization.py.

    Raises:
      UserError: warmup is longer than the run.
    """
    warmup = round(options.warmup * steps) if options.warmup < 1 else round(options.warmup)
    if warmup > steps:
        raise UserError(f"config.optimizer.warmup is {warmup} steps, but the run has only {steps}")
    peak, rest = options.learning_rate, max(steps - warmup, 1)
    decay = {
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
    }[options.schedule]
    if warmup == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def decayed(params: Any) -> Any:
    """True for each parameter that weight decay applies to, a tree like `params`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, params)


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scales gradients of a larger global norm down to it (Pascanu et al. 2013).

    As optax.clip_by_global_norm, which divides each entry; one factor for all is a pass less over the gradients.
    """

    def update(updates: optax.Updates, state: optax.OptState, params: Any = None) -> tuple[Any, optax.OptState]:
        factor = jnp.minimum(1, limit / optax.tree.norm(updates))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_optimizer(options: config.Optimizer, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW (Loshchilov and Hutter 2019)."""
    adamw = optax.adamw(schedule, options.b1, options.b2, options.eps, weight_decay=options.weight_decay, mask=decayed)
    clip = clip_by_global_norm(options.clip_norm) if options.clip_norm > 0 else optax.identity()
    layers = options.layer_decay < 1 or options.unfreeze_every > 0
    return optax.chain(clip, adamw, *[by_depth(options.layer_decay, options.unfreeze_every)] * layers)


def depths(params: Any) -> Any:
    """How far below the head each parameter lies: 0 the head, 1 the last layer, ..., the embeddings; like `params`."""
    names = lambda path: [str(entry.key) for entry in path]  # noqa: E731
    numbers = [int(n) for path, _ in jax.tree_util.tree_leaves_with_path(params) for n in names(path) if n.isdigit()]
    layers = max(numbers, default=-1) + 1

    def depth(path: tuple, _: Any) -> int:
        number = next((int(name) for name in names(path) if name.isdigit()), None)
        if number is not None:
            return layers - number
        return layers + 1 if "embeddings" in names(path) else 0

    return jax.tree_util.tree_map_with_path(depth, params)


def by_depth(decay: float, every: int) -> optax.GradientTransformation:
    """Multiplies the updates of what lies `depth` below the head by decay^depth (Clark et al. 2020, section 3.2).

    With `every` > 0 they are zero before step every * depth (gradual unfreezing, Howard and Ruder 2018, section 3.3).
    The optimizer's moments are kept up meanwhile, so that a layer's first updates are not too large.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scale(update: Any, depth: int) -> Any:
            begun = state.count >= every * depth
            return jnp.where(begun, update * decay**depth, 0)

        scaled = jax.tree.map(scale, updates, depths(updates))
        return scaled, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)
