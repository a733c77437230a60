"""Optimizers by name, from optax parts, with warmup and decay; and rates that differ from layer to layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from jaxft import config
from jaxft.train.numbers import Numbers
from jaxft.types import Array, Float, Int

NOT_DECAYED = ("bias", "scale", "magnitude")
"""Names of parameters without weight decay: biases, the scales of LayerNorm and of (IA)^3, the lengths of DoRA."""


Schedule = Callable[[Int[Array, "*counts"], Numbers], Float[Array, "*counts"]]
"""`(updates so far, numbers) -> learning rate`."""

Depth = Callable[[str], int]
"""Path of a parameter -> how far below the head it lies."""

Decay = Callable[[Float[Array, "*counts"], config.Optimizer], Float[Array, "*counts"]]
"""`(share of the steps after warmup that is done, options) -> share of the peak that is left`."""

DECAYS: dict[str, Decay] = {
    "linear": lambda done, _: 1 - done,
    "cosine": lambda done, _: 0.5 * (1 + jnp.cos(jnp.pi * done)),
    "constant": lambda done, _: jnp.ones_like(done),
    "wsd": lambda done, options: jnp.clip((1 - done) / max(options.wsd_decay, 1e-9), 0, 1),
    "polynomial": lambda done, options: (1 - done) ** options.power,
    "restarts": lambda done, options: jnp.where(done < 1, 0.5 * (1 + jnp.cos(jnp.pi * (options.cycles * done % 1))), 0),
}
"""Of the schedules that end with the run, by name. inverse_sqrt does not know where that is."""

TIMESCALE = 10_000
"""Steps after which inverse_sqrt without warmup is at 1 / sqrt(2) of the peak, as in transformers."""


def make_schedule(name: str, options: config.Optimizer | None = None) -> Schedule:
    """Returns linear warmup from 0 to the peak, then what is called `name`.

    As the schedules of transformers/optimization.py: get_NAME_schedule_with_warmup of linear, cosine, constant;
    get_wsd_schedule with linear decay (Hu et al. 2024, MiniCPM, eq. 1); get_inverse_sqrt_schedule, rate *
    sqrt(warmup / step) (Vaswani et al. 2017, section 5.3); get_polynomial_decay_schedule_with_warmup down to 0;
    get_cosine_with_hard_restarts_schedule_with_warmup (Loshchilov and Hutter 2017).

    Args:
      options: their `wsd_decay`, `power` and `cycles`; None: the defaults.
    """
    shape = options or config.Optimizer()

    def schedule(count: Array, numbers: Numbers) -> Array:
        warm = count / jnp.maximum(numbers.warmup, 1)
        if name == "inverse_sqrt":
            scale = jnp.where(numbers.warmup > 0, numbers.warmup, TIMESCALE)
            left = jax.lax.rsqrt(jnp.maximum(count - numbers.warmup + scale, 1) / scale)
        else:
            done = (count - numbers.warmup) / jnp.maximum(numbers.steps - numbers.warmup, 1)
            left = DECAYS[name](jnp.clip(done, 0, 1), shape)
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


class Start(NamedTuple):
    """State of the optimizer: parameters as they were before the first step."""

    start: Any


def decay_towards_start(mask: Callable[[Any], Any]) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that adds a strength times (parameters - where they began) to the updates.

    L2-SP (Li et al. 2018, eq. 3), decoupled from the gradient as AdamW's weight decay is; the strength is that of the
    numbers it is given. It costs one copy of the parameters that it applies to.

    Args:
      mask: updates -> a tree like them, True where it applies.
    """

    def init(params: Any) -> Start:
        return Start(jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Any, params: Any = None, *, numbers: Numbers, **_: Any) -> tuple[Any, Any]:
        strength = numbers.strengths["l2_sp"]
        return jax.tree.map(lambda g, p, s: g + strength * (p - s), updates, params, state.start), state

    plain = optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
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


Scaling = Callable[[config.Optimizer, Depth], optax.GradientTransformation]
"""`(options, depth of a path) -> what makes of gradients the updates that decay and learning rate are put on`."""


def adam(options: config.Optimizer, depth: Depth) -> optax.GradientTransformation:
    return optax.scale_by_adam(options.b1, options.b2, options.eps)


def adafactor(options: config.Optimizer, depth: Depth) -> optax.GradientTransformation:
    """Second moments by their rows and columns, updates of at most 1 in the root mean square.

    The learning rate is absolute, as transformers' Trainer has it, not relative to the parameters' size.
    """
    return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))


def lion(options: config.Optimizer, depth: Depth) -> optax.GradientTransformation:
    return optax.scale_by_lion(options.b1, options.b2)


def sgd(options: config.Optimizer, depth: Depth) -> optax.GradientTransformation:
    return optax.trace(options.b1)


def muon(options: config.Optimizer, depth: Depth) -> optax.GradientTransformation:
    """Orthogonalized momentum for matrices of the layers; Adam for the rest: vectors, embeddings, the head.

    Updates are scaled to the size of AdamW's, 0.2 sqrt(max(rows, columns)) (Liu et al. 2025, Muon is Scalable, eq. 4),
    so that one learning rate serves both.
    """

    def kind(path: tuple, x: Any) -> str:
        names = [entry.key for entry in path]
        return "muon" if x.ndim == 2 and names[-1] != "embedding" and depth("/".join(names)) > 0 else "adam"

    whole = lambda updates: jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), updates)  # noqa: E731
    sized = optax.stateless_with_tree_map(lambda g, _: 0.2 * max(jnp.shape(g)) ** 0.5 * g)
    matrices = optax.chain(optax.contrib.scale_by_muon(weight_dimension_numbers=whole), sized)
    kinds = lambda params: jax.tree_util.tree_map_with_path(kind, params)  # noqa: E731
    return optax.partition({"muon": matrices, "adam": adam(options, depth)}, kinds)


OPTIMIZERS: dict[str, Scaling] = {
    "adamw": adam,  # Loshchilov and Hutter 2019
    "adafactor": adafactor,  # Shazeer and Stern 2018
    "lion": lion,  # Chen et al. 2023
    "lamb": adam,  # You et al. 2020, with the trust ratio behind the decay
    "muon": muon,  # Jordan et al. 2024
    "sgd": sgd,
}
"""`config.optimizer.name` -> how it scales gradients."""


def make_optimizer(options: config.Optimizer, schedule: Schedule, depth: Depth) -> optax.GradientTransformation:
    """Returns clipping by global norm, then the optimizer of that name with decoupled weight decay.

    Its update needs the extra argument `numbers`. Of the options it reads what is no number of these, and whether the
    weight decay is zero.

    Args:
      depth: as `by_depth` takes it.
    """
    decay = add_decayed_weights(decayed) if options.weight_decay else optax.masked(optax.identity(), decayed)
    if options.l2_sp:
        body, head = _part(depth, True), _part(depth, False)
        rest = (add_decayed_weights(head),) if options.weight_decay else ()
        decay = optax.chain(decay_towards_start(body), *rest)
    trust = (optax.scale_by_trust_ratio(),) if options.name == "lamb" else ()
    scaled = optax.chain(OPTIMIZERS[options.name](options, depth), decay, *trust, scale_by_rate(schedule))
    clip = clip_by_global_norm(options.clip_norm) if options.clip_norm > 0 else optax.identity()
    if options.layer_decay == 1 and options.unfreeze_every == 0:
        return optax.chain(clip, scaled)
    return optax.chain(clip, scaled, by_depth(options.layer_decay, options.unfreeze_every, depth))


def _part(depth: Depth, body: bool) -> Callable[[Any], Any]:
    """Of the parameters that weight decay applies to those of the body, or those of the head."""

    def mask(params: Any) -> Any:
        lies = lambda path, on: on and (depth("/".join(entry.key for entry in path)) > 0) == body  # noqa: E731
        return jax.tree_util.tree_map_with_path(lies, decayed(params))

    return mask


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
