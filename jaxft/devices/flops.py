"""How much arithmetic a step is, and how much a device can do: model FLOPs utilization (Chowdhery et al. 2022)."""

import math
import time
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxft.models import Model, nn
from jaxft.tasks import Task

PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 1153.5e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "A10": 125e12,
    "L40": 181e12,
    "L4": 121e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Dense matmul FLOP/s of a device, in bfloat16 (float16 for V100 and T4), from the vendors' data sheets. The first key
that the device's kind contains counts; TPU v2, v3 and TPU7x are per core, as JAX counts devices there."""


def train_flops(model: Model, task: Task, frozen: Collection[str] = ()) -> Callable[[np.ndarray], float]:
    """Multiplications and additions of one update on examples of given lengths: forward once, backward twice.

    Matmuls with weights cost 2 FLOPs a weight and token (of a head: a weight and place that a task applies it to), and
    attention 4 length^2 hidden a layer and example. Padding, recomputation and everything but matmuls count nothing
    (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B). What a step need not compute counts all the
    same: the last layer at positions that no output depends on, a decoder's scores of words at tokens of a conversation
    that are not learned, the gradients below the lowest weight that learns.

    Args:
      frozen: paths of weights that do not learn; they have no gradient of their own, a third of the work.
    """
    flat, tied = nn.flatten(task.param_spec(model)), task.tied(model)
    work = {
        path: (4 if path in frozen else 6) * math.prod(leaf.shape)
        for path, leaf in flat.items()
        if path.endswith("/kernel") or path in tied or (path.endswith("/embedding") and model.is_head(path))
    }
    heads = {path: n for path, n in work.items() if path in tied or model.is_head(path)}
    facts = model.facts
    in_layers = tuple(f"{layer}/" for layer in facts.layers)
    times = {path: facts.repeats if path.startswith(in_layers) else 1 for path in work}
    per_token = sum(n * times[path] for path, n in work.items() if path not in heads)
    attention = 12 * len(facts.layers) * facts.repeats * (facts.heads * facts.head_size or facts.width)

    def count(lengths: np.ndarray) -> float:
        n = np.asarray(lengths, np.float64)
        at_places = sum(each * np.sum(task.places(model, path, n)) for path, each in heads.items())
        return float(per_token * n.sum() + attention * np.square(n).sum() + at_places)

    return count


def peak_flops(mesh: Mesh) -> float | None:
    """FLOP/s of all its devices: by the table, on CPUs measured in float32, None where it is not known."""
    device = mesh.local_devices[0]
    if device.platform == "cpu":  # however many devices a machine's cores are made to look like
        return _measure(device) * jax.process_count()
    return next((peak * mesh.size for kind, peak in PEAKS.items() if kind in device.device_kind), None)


def _measure(device: Any, size: int = 1024, tries: int = 10) -> float:
    """The best of a few large matmuls, in a tenth of a second on two cores."""
    with jax.transfer_guard("allow"):
        x = jax.device_put(jnp.ones((size, size)), device)
        multiply = jax.jit(lambda x: x @ x)
        seconds = []
        for _ in range(tries + 1):
            started = time.perf_counter()
            multiply(x).block_until_ready()
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])
