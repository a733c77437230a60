"""AdamW with warmup and decay, from optax parts; and rates that differ from layer to layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxft import config
from jaxft.train.numbers import Numbers
from jaxft.types import Array, Float, Int

NOT_DECAYED = ("bias", "scale", "magnitude")
"""Names of parameters without weight decay: biases, the scales of LayerNorm and of (IA)^3, the lengths of DoRA."""


Schedule = Callable[[Int[Array, "*counts"], Numbers], Float[Array, "*counts"]]
"""`(updates so far, numbers) -> learning rate`."""

Depth = Callable[[str], int]
"""Path of a parameter -> how far below the head it lies."""

DECAYS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: 0.5 * (1 + jnp.cos(jnp.pi * done)),
    "constant": jnp.ones_like,
}
"""Name of a schedule -> the share of the peak that is left once a share of the steps after warmup is done."""


def make_schedule(name: str) -> Schedule:
    """Returns linear warmup from 0 to the peak, then linear or cosine decay to 0 at the last step, or no decay.

    As get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup of transformers/optimization.py.
    """

    def schedule(count: Array, numbers: Numbers) -> Array:
        warm = count / jnp.maximum(numbers.warmup, 1)
        done = (count - numbers.warmup) / jnp.maximum(numbers.steps - numbers.warmup, 1)
        left = DECAYS[name](jnp.clip(done, 0, 1))
        return numbers.learning_rate * jnp.where(count < numbers.warmup, warm, left)

    return schedule


def scale_by_rate(schedule: Schedule) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that multiplies updates by the negative learning rate, by the numbers it is given.

    optax.scale_by_learning_rate, whose state it has, bakes the rate into the compiled step.
    """

    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, *, numbers: Numbers, **_: Any) -> tuple[Any, Any]:
        rate = -schedule(state.count, numbers)
        scaled = jax.tree.map(lambda g: rate.astype(g.dtype) * g, updates)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def add_decayed_weights(mask: Callable[[Any], Any]) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that adds the weight decay of the numbers it is given times the parameters.

    As optax.add_decayed_weights, whose state it has.

    Args:
      mask: updates -> a tree like them, True where it applies.
    """

    def update(updates: Any, state: Any, params: Any = None, *, numbers: Numbers, **_: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda g, p: g + numbers.weight_decay * p, updates, params), state

    plain = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)  # pyright: ignore
    return optax.masked(plain, mask)  # pyright: ignore[reportReturnType]


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


def make_optimizer(options: config.Optimizer, schedule: Schedule, depth: Depth) -> optax.GradientTransformation:
    """Returns clipping by global norm, then AdamW (Loshchilov and Hutter 2019).

    Its update needs the extra argument `numbers`. Of the options it reads what is no number of these, and whether the
    weight decay is zero.

    Args:
      depth: as `by_depth` takes it.
    """
    decay = add_decayed_weights(decayed) if options.weight_decay else optax.masked(optax.identity(), decayed)
    adamw = optax.chain(optax.scale_by_adam(options.b1, options.b2, options.eps), decay, scale_by_rate(schedule))
    clip = clip_by_global_norm(options.clip_norm) if options.clip_norm > 0 else optax.identity()
    if options.layer_decay == 1 and options.unfreeze_every == 0:
        return optax.chain(clip, adamw)
    return optax.chain(clip, adamw, by_depth(options.layer_decay, options.unfreeze_every, depth))


def by_depth(decay: float, every: int, depth: Depth) -> optax.GradientTransformation:
    """Multiplies the updates of what lies `depth` below the head by decay^depth (Clark et al. 2020, section 3.2).

    With `every` > 0 they are zero before step every * depth (gradual unfreezing, Howard and Ruder 2018, section 3.3).
    The optimizer's moments are kept up meanwhile, so that a layer's first updates are not too large.

    Args:
      depth: path of a parameter -> how far below the head it lies; see `jaxft.models.Model.depth`.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scale(path: tuple, update: Any) -> Any:
            below = depth("/".join(entry.key for entry in path))
            return jnp.where(state.count >= every * below, update * decay**below, 0)

        scaled = jax.tree_util.tree_map_with_path(scale, updates)
        return scaled, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)
