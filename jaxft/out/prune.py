"""A model made smaller: units of its feed-forward nets, or whole layers, taken out of parameters and config.json.

Matrices are found by the logical axes of the declared parameters: what has an axis "mlp" is as wide as the net, or,
where two halves of a gated net lie side by side, twice as wide.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapt.ia3 import Rescale
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.tasks import Task
from jaxft.types import Array, Batch, Params

INNER = "mlp"
"""The logical axis of a feed-forward net's units."""


class Sized(NamedTuple):
    """A model's sizes and parameters.

    Attributes:
      hf: the values of its config.json.
      params: arrays, of the body and of the head.
    """

    hf: dict[str, Any]
    params: Params


def outer_layers(model: Model) -> dict[str, str]:
    """Returns, for each layer's path, that of the dense layer which its feed-forward net ends with."""
    spec = nn.flatten(model.param_spec())
    ends = [path.removesuffix("/kernel") for path, leaf in spec.items() if leaf.axes[0] == INNER and len(leaf.axes) > 1]
    return {layer: next(end for end in ends if end.startswith(f"{layer}/")) for layer in model.facts.layers}


def width(model: Model) -> int:
    """Returns how many units each feed-forward net has."""
    end = next(iter(outer_layers(model).values()))
    return nn.flatten(model.param_spec())[f"{end}/kernel"].shape[0]


def importance(task: Task, model: Model, params: Params, batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Estimates how much the loss changes when a unit of a feed-forward net is taken out: `[units]`, for each layer.

    To first order that is |sum over tokens of activation x gradient| (Molchanov et al. 2019): the gradient of a mask of
    ones on what goes into the net's outer dense layer. The absolute value is taken of each batch's sum, and these are
    added up. A layer that is computed several times has one sum.
    """
    ends = outer_layers(model)

    def total(masks: Mapping[str, Array], params: Params, batch: Batch) -> Array:
        changes = {f"{end}/change": Rescale(masks[layer], True) for layer, end in ends.items()}
        changed = nn.unflatten(nn.flatten(params) | changes)
        return task.loss(task.forward(changed, model, batch, nn.Run()), batch)[0]

    ones = {layer: jnp.ones(width(model)) for layer in ends}
    gradient, found = jax.jit(jax.grad(total)), {layer: np.zeros(width(model)) for layer in ends}
    for batch in batches:
        for layer, values in jax.device_get(gradient(ones, params, batch)).items():
            found[layer] += np.abs(values)
    return found


def most_important(scores: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Returns the numbers of the `count` units of each layer with the highest scores, in their order in the model."""
    return {layer: np.sort(np.argsort(-values, kind="stable")[:count]) for layer, values in scores.items()}


def check_units(model: Model, count: int) -> None:
    """Makes sure that a feed-forward net can keep so many units.

    Raises:
      UserError: it has not so many.
    """
    if not 1 <= count <= (units := width(model)):
        raise UserError(
            f"--compress.inner={count}: a feed-forward net of the model has {units} units; keep 1 to {units}"
        )


def with_units(model: Model, sized: Sized, keep: Mapping[str, np.ndarray]) -> Sized:
    """Returns the model with some units of its feed-forward nets alone.

    Args:
      keep: layer -> the numbers of those that stay, `[units]`, as many in every layer.

    Raises:
      UserError: as many as that are not there.
    """
    count, units = len(next(iter(keep.values()))), width(model)
    check_units(model, count)
    spec, flat = nn.flatten(model.param_spec()), dict(nn.flatten(sized.params))
    for layer, kept in keep.items():
        for path in (path for path in spec if path.startswith(f"{layer}/") and INNER in spec[path].axes):
            axis = spec[path].axes.index(INNER)
            halves = range(0, spec[path].shape[axis], units)
            flat[path] = np.take(np.asarray(flat[path]), np.concatenate([kept + half for half in halves]), axis)
    return Sized(with_settings(model, sized.hf, {model.facts.inner_key: count}), nn.unflatten(flat))


def with_settings(model: Model, hf: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config.json with other values, also under the older names of their keys, where it has these."""
    older = {old: key for key, names in getattr(model.module, "OLD", {}).items() for old in names}
    return {**hf, **changed, **{old: changed[key] for old, key in older.items() if old in hf and key in changed}}


def depth(model: Model) -> int:
    """Returns how many layers there are, as config.json counts them."""
    return (model.facts.groups or len(model.facts.layers)) * model.facts.repeats


def check_layers(model: Model, count: int) -> None:
    """Makes sure that a model can keep so many layers.

    Raises:
      UserError: it has not so many, or they come in groups.
    """
    if not 1 <= count <= (there := depth(model)):
        raise UserError(f"--compress.layers={count}: the model has {there} layers; keep 1 to {there}")
    if (groups := model.facts.groups) and count % groups:
        raise UserError(f"--compress.layers={count}: must be a multiple of the model's {groups} groups of layers")


def with_layers(model: Model, sized: Sized, keep: Sequence[int]) -> Sized:
    """Returns the model with some of its layers alone, which keep their order and their kinds.

    Args:
      keep: the numbers of those that stay, counted as config.json counts layers. Of a model that computes each layer
        several times (ALBERT) it says how many, and parameters stay as they are.

    Raises:
      UserError: as `check_layers`, or the model cannot be computed without the others.
    """
    layers, facts = model.facts.layers, model.facts
    hf = with_settings(model, sized.hf, {facts.depth_key: len(keep)})
    check_layers(model, len(keep))
    if model.facts.groups:
        return Sized(hf, sized.params)
    flat = nn.flatten(sized.params)
    moved = {path: x for path, x in flat.items() if not any(path.startswith(f"{layer}/") for layer in layers)}
    within = lambda layer: {path[len(layer) :]: x for path, x in flat.items() if path.startswith(f"{layer}/")}  # noqa: E731
    for new, old in enumerate(keep):
        if within(layers[old]).keys() != within(layers[new]).keys():
            raise UserError(f"{model.cfg.hf_name} begins with a layer of its own; layer 0 must stay")
        moved |= {layers[new] + rest: x for rest, x in within(layers[old]).items()}
    if facts.per_layer:
        hf = {key: value for key, value in hf.items() if key != "global_attn_every_n_layers"}
        hf |= {key: [values[old] for old in keep] for key, values in facts.per_layer.items()}
    return Sized(hf, nn.unflatten(moved))


def least_needed(model: Model, sized: Sized, count: int, loss: Callable[[Sized], float]) -> list[int]:
    """Chooses which layers stay: those that are needed least go one by one (Peer et al. 2022, greedy layer pruning).

    Each time every layer is tried, and the one without which the loss is lowest goes. A first layer unlike the others
    stays; of a model whose layers share parameters the last ones go.

    Args:
      count: of layers that stay.
      loss: of a model, on validation data.

    Raises:
      UserError: the model has not so many layers.
    """
    check_layers(model, count)
    keep = list(range(depth(model)))
    if model.facts.groups:
        return keep[:count]
    spec, layers = nn.flatten(model.param_spec()), model.facts.layers
    names = [{path[len(layer) :] for path in spec if path.startswith(f"{layer}/")} for layer in layers]
    still = 1 if names[0] != names[-1] else 0
    while len(keep) > count:
        tried = {i: loss(with_layers(model, sized, [j for j in keep if j != i])) for i in keep[still:]}
        keep.remove(min(tried, key=lambda i: tried[i]))
    return keep
