"""How much arithmetic a step is, and how much a device can do: model FLOPs utilization (Chowdhery et al. 2022)."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models import Model, nn

PEAKS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "TPU7x": 2307e12,
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
that the device's kind contains counts; TPU v2 and v3 are per core, as JAX counts devices there."""


def train_flops(model: Model, spec: nn.Spec, lengths: np.ndarray) -> float:
    """Multiplications and additions of one update on examples of these lengths: forward once, backward twice.

    Matmuls with weights cost 2 FLOPs a weight and token (a weight of the pooler or a head: a weight and example), and
    attention 4 length^2 hidden a layer and example. Padding, recomputation and everything but matmuls count nothing
    (Kaplan et al. 2020, section 2.1; Chowdhery et al. 2022, appendix B).
    """
    weights = {path: leaf for path, leaf in nn.flatten(spec).items() if path.endswith("/kernel")}
    layers = [path for path in weights if path.startswith(f"{model.prefix}/encoder/")]
    per_token = sum(int(np.prod(weights[path].shape)) for path in layers)
    per_example = sum(int(np.prod(leaf.shape)) for path, leaf in weights.items() if path not in layers)
    lengths = np.asarray(lengths, np.float64)
    attention = 4 * model.cfg.num_hidden_layers * model.cfg.hidden_size * np.square(lengths).sum()
    return float(3 * (2 * per_token * lengths.sum() + 2 * per_example * len(lengths) + attention))


def peak_flops(device: Any) -> float | None:
    """FLOP/s of a device: from the table, on a CPU (all cores) measured in float32, None where it is not known."""
    if device.platform == "cpu":
        return _measure(device)
    return next((peak for kind, peak in PEAKS.items() if kind in device.device_kind), None)


def _measure(device: Any, size: int = 2048, tries: int = 3) -> float:
    """The best of a few large matmuls."""
    with jax.transfer_guard("allow"):
        x = jax.device_put(jnp.ones((size, size)), device)
        multiply = jax.jit(lambda x: x @ x)
        seconds = []
        for _ in range(tries + 1):
            started = time.perf_counter()
            multiply(x).block_until_ready()
            seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])
