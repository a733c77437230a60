"""AdaLoRA: corrections W + P L Q whose ranks share one budget (Zhang et al. 2023).

L is diagonal, a value a rank; P and Q are kept near orthogonal by a penalty. During training the values of the least
important ranks of all layers are set to zero, until `target` a layer are left on average. In a layer's own terms, as in
`jaxft.adapt.lora`: x W + ((x a) * value) b, a = Q^T, b = P^T.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxft import config
from jaxft.adapt.base import Adaptation, dense_layers, dropout_site
from jaxft.adapt.lora import LowRank
from jaxft.models import Model, nn
from jaxft.train.numbers import Numbers
from jaxft.train.objective import penalised
from jaxft.types import Array, Params


class Ranked(NamedTuple):
    """State of the optimizer: the smoothed importance of each number, how much it varies, which ranks are kept."""

    inner: Any
    step: Array
    importance: dict[str, Array]
    variation: dict[str, Array]
    kept: dict[str, Array]


def budget(options: config.AdaLora, layers: int, steps: Array | int, step: Array | int) -> Array:
    """How many ranks all layers together keep after `step` (from 0), of rank * layers at first: eq. 12.

    The cubic decay starts at the full budget, as in the authors' code; the equation as printed has a jump there.
    """
    first, last = _phases(options, steps)
    done = jnp.clip((step - first) / jnp.maximum(last - first, 1), 0, 1)
    left = options.target + (options.rank - options.target) * (1 - done) ** 3
    return jnp.floor(layers * left + 1e-3).astype(jnp.int32)


def _phases(options: config.AdaLora, steps: Array | int) -> tuple[Array, Array]:
    """The steps at which the budget begins and ends to fall."""
    first, last = options.start * jnp.asarray(steps), (1 - options.end) * jnp.asarray(steps)
    return jnp.round(first).astype(jnp.int32), jnp.round(last).astype(jnp.int32)


def build(experiment: config.Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    options, flat = experiment.adalora, nn.flatten(spec)
    paths = dense_layers(flat, model, "adalora.targets", options.targets)
    new = {}
    for path in paths:
        (inputs, outputs), axes, *_ = flat[f"{path}/kernel"]
        a, value, b = _names(path)
        new[a] = nn.Leaf((inputs, options.rank), (axes[0], None))
        new[value] = nn.Leaf((options.rank,), (None,), "zeros")
        new[b] = nn.Leaf((options.rank, outputs), (None, axes[1]))

    def parts(flat: dict[str, Array], path: str) -> tuple[Array, Array]:
        a, value, b = (flat[name] for name in _names(path))
        return a, value[:, None] * b

    def apply(params: Params) -> Params:
        flat = nn.flatten(params)
        sites = {path: dropout_site(path) for path in paths}
        changes = {
            f"{path}/change": LowRank(*parts(flat, path), None, options.dropout > 0, site)
            for path, site in sites.items()
        }
        return nn.unflatten({path: x for path, x in flat.items() if path not in new} | changes)

    def merge(params: Params) -> Params:
        flat = nn.flatten(params)
        kernels = {f"{path}/kernel": flat[f"{path}/kernel"] + jnp.matmul(*parts(flat, path)) for path in paths}
        return nn.unflatten({path: x for path, x in (flat | kernels).items() if path not in new})

    def penalty(params: Params) -> Array:
        """gamma * the sum over layers of |P^T P - I|^2 + |Q Q^T - I|^2: eq. 4."""
        flat, identity = nn.flatten(params), jnp.eye(options.rank)
        squares = [
            jnp.square(product - identity).sum()
            for path in paths
            for a, _, b in [_names(path)]
            for product in (flat[a].T @ flat[a], flat[b] @ flat[b].T)
        ]
        return options.orthogonality * jnp.sum(jnp.stack(squares))

    def optimizer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
        return _pruned(optax.with_extra_args_support(inner), options, paths)

    def learns(path: str) -> bool:
        return path in new or model.is_head(path)

    return Adaptation(
        learns,
        nn.unflatten(new),
        apply=apply,
        merge=merge,
        optimizer=optimizer,
        objective=penalised(penalty),
        rates={"adapt": options.dropout} if options.dropout > 0 else {},
    )


def _names(path: str) -> tuple[str, str, str]:
    """Of the a, value and b of the dense layer at `path`."""
    return f"adalora/{path}/a", f"adalora/{path}/value", f"adalora/{path}/b"


def _pruned(
    inner: optax.GradientTransformationExtraArgs, options: config.AdaLora, paths: list[str]
) -> optax.GradientTransformation:
    """`inner`, after whose update the values of ranks that the budget of a step leaves out are zero."""
    each = [_names(path) for path in paths]

    def init(params: Params) -> Ranked:
        flat = nn.flatten(params)
        zeros = {name: jnp.zeros_like(flat[name]) for names in each for name in names}
        ones = {value: jnp.ones_like(flat[value]) for _, value, _ in each}
        return Ranked(inner.init(params), jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.copy, zeros), ones)

    def smoothed(grads: Params, state: Ranked, params: Params) -> tuple[dict[str, Array], dict[str, Array]]:
        """Importance and variation of each number: eqs. 8 to 10."""
        importance, variation = {}, {}
        for name, before in state.importance.items():
            now = jnp.abs(params[name] * grads[name])
            importance[name] = options.beta1 * before + (1 - options.beta1) * now
            far = jnp.abs(now - importance[name])
            variation[name] = options.beta2 * state.variation[name] + (1 - options.beta2) * far
        return importance, variation

    def update(updates: Params, state: Ranked, params: Params, *, numbers: Numbers, **rest: Any) -> Any:
        first, last = _phases(options, numbers.steps)
        old = nn.flatten(params)
        importance, variation = smoothed(nn.flatten(updates), state, old)
        scores = {name: x * variation[name] for name, x in importance.items()}  # eq. 11
        ranks = {value: scores[value] + scores[a].mean(0) + scores[b].mean(1) for a, value, b in each}  # eq. 7
        left = budget(options, len(paths), numbers.steps, state.step)
        ordered = jnp.sort(jnp.concatenate(list(ranks.values())), descending=True)
        chosen = (state.step >= first) & (state.step <= last)
        chosen &= (state.step % options.every == 0) | (state.step == last)
        kept = {
            value: jnp.where(chosen, (score >= ordered[left - 1]).astype(jnp.float32), state.kept[value])
            for value, score in ranks.items()
        }
        changes: Any
        changes, inner_state = inner.update(updates, state.inner, params, numbers=numbers, **rest)
        flat = nn.flatten(changes)
        cut = chosen | (state.step > last)
        for value, keep in kept.items():  # eq. 6; between two choices, what was cut may grow back
            flat[value] = jnp.where(cut & (keep == 0), -old[value], flat[value])
        return nn.unflatten(flat), Ranked(inner_state, state.step + 1, importance, variation, kept)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
