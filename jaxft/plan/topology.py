"""Devices to plan for: their names, what they can do, and their abstract selves, which compile and compute nothing."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies

from jaxft.devices import flops
from jaxft.errors import UserError

GIB = 2**30


class Chip(NamedTuple):
    """What one device can do, as JAX counts devices: a core of TPU v4 and TPU7x, a whole chip of the others.

    Attributes:
      kind: JAX's name of it, the key of `jaxft.devices.flops.PEAKS`.
      memory: bytes that programs may use.
      bandwidth: of that memory, bytes/s.
      link: bytes/s of one link between neighbours, in one direction.
      sides: dimensions of the torus that links make.
      cores: devices a chip, between which it shares its links.
      joined: a run sees the cores of a chip as one device, as `jaxft.devices.flops.PEAKS` does; the compiler does not.
      closed: a side is closed to a ring where its length, and in three dimensions that of every side, is a multiple of
        this.
    """

    kind: str
    memory: float
    bandwidth: float
    link: float
    sides: int = 1
    cores: int = 1
    joined: bool = False
    closed: int = 1

    @property
    def peak(self) -> float:
        """Dense bf16 FLOP/s."""
        return flops.PEAKS[self.kind] / (self.cores if self.joined else 1)


TPUS = {
    "v4": Chip("TPU v4", 15.25 * GIB, 600e9, 45e9, sides=3, cores=2, joined=True, closed=4),
    "v5e": Chip("TPU v5 lite", 15.75 * GIB, 819e9, 50e9, sides=2, closed=16),
    "v5p": Chip("TPU v5", 95.74 * GIB, 2765e9, 100e9, sides=3, closed=4),
    "v6e": Chip("TPU v6", 31.25 * GIB, 1638e9, 100e9, sides=2, closed=16),
    "tpu7x": Chip("TPU7x", 94.75 * GIB, 3690e9, 100e9, sides=3, cores=2, closed=4),
}
"""Memory is what libtpu's compiler says is available.

The rest is from docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, as of 2026: 275, 197, 459, 918 and 2307 TFLOP/s,
1200, 819, 2765, 1638 and 7380 GB/s of memory and, of all links in both directions, 400 (v5e), 1200, 800 and 1200 GB/s a
chip, which has two links a side. The page of v4 has 1.1 PB/s for the all-reduce of a pod, 45 GB/s of 6 links; so has
Austin et al. 2025 (jax-ml.github.io/scaling-book/tpus), which also says that v5e and v6e close sides of 16. Slices of
cubes of 4 x 4 x 4 chips are tori, smaller ones are not (the pages of v4 and v5p).
"""

GPUS = {
    "A100": Chip("A100", 80e9, 2039e9, 300e9),
    "H100": Chip("H100", 80e9, 3350e9, 450e9),
    "H200": Chip("H200", 141e9, 4800e9, 450e9),
    "B200": Chip("B200", 180e9, 8000e9, 900e9),
}
"""From NVIDIA's data sheets: SXM modules, joined by NVLink."""

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SOLID = (
    *("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x4x16", "4x8x8", "8x8x8", "8x8x12"),
    *("8x8x16", "8x16x16", "16x16x16"),
)
"""Slices that Google Cloud offers: of two-dimensional tori and of three-dimensional ones."""

MISSING = "planning for TPUs needs their compiler, libtpu, which needs no TPU: pip install 'jaxft[tpu]'"


def names() -> list[str]:
    """Every TPU topology."""
    return [f"{name}:{size}" for name, chip in TPUS.items() for size in (FLAT if chip.sides == 2 else SOLID)]


def check(name: str) -> None:
    """Verifies the name of a topology, without JAX's backends.

    Raises:
      UserError: there is none of that name, or the compiler for it is not installed.
    """
    if name == "gpu" or re.fullmatch(r"cpu:[1-9]\d{0,3}", name):
        return
    kind = name.partition(":")[0]
    if name not in names():
        sizes = [known.partition(":")[2] for known in names() if known.startswith(f"{kind}:")]
        if sizes:
            raise UserError(f"--topology={name}: {kind} comes in {', '.join(sizes)}")
        asked = f"--topology={name}: there is no such topology" if name else "--topology is missing"
        raise UserError(f"{asked}; give {', '.join(TPUS)} with a size, such as v5e:4x4; cpu:8; or gpu")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={name}: {MISSING}")


def start(name: str) -> None:
    """Keeps JAX, which must not have started yet, off accelerators unless the topology is one, and simulates CPUs.

    Raises:
      UserError: as `check`.
    """
    check(name)
    if name != "gpu":
        jax.config.update("jax_platforms", "cpu")
    if name.startswith("cpu:"):
        jax.config.update("jax_num_cpu_devices", int(name.partition(":")[2]))


def devices(name: str) -> list[Any]:
    """The devices of a topology; those of TPUs can be compiled for and not computed with.

    Raises:
      UserError: as `check`, or fewer devices are here than asked for.
    """
    check(name)
    kind, _, size = name.partition(":")
    if kind in ("cpu", "gpu"):
        try:
            here = jax.devices(kind)
        except RuntimeError as error:
            raise UserError(f"--topology={name}: there is no {kind.upper()} here that JAX can use") from error
        if kind == "cpu" and len(here) < int(size):
            raise UserError(f"--topology={name}: JAX has been started with {len(here)} CPU devices only")
        return here[: int(size)] if kind == "cpu" else here
    # Without these libtpu asks the cloud's metadata server what machine this is, complains of what it is not told, and
    # refuses a second process.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    os.environ |= {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-1"}
    alone = {"chips_per_host_bounds": (1, 1, 1)} if math.prod(map(int, size.split("x"))) == 1 else {}
    return topologies.get_topology_desc(name, "tpu", **alone).devices


def chip(device: Any) -> Chip | None:
    """What a device can do; None where that is not known (a CPU)."""
    known = [*TPUS.values(), *GPUS.values()]
    fitting = [chip for chip in known if device.device_kind.endswith(chip.kind) or chip.kind in device.device_kind]
    return max(fitting, key=lambda chip: len(chip.kind), default=None)


def bandwidth(chip: Chip, members: Sequence[Any], devices: Sequence[Any]) -> float:
    """Bytes/s that a device can send while these devices make a ring: of all links along which they differ.

    A closed side gives two links, an open one its one direction; see `Chip.closed`.
    """
    if not hasattr(members[0], "coords"):
        return chip.link
    at, whole = (np.asarray([device.coords for device in some]) for some in (members, devices))
    rings = (np.ptp(whole, axis=0) + 1)[: chip.sides] % chip.closed == 0
    rings = rings if chip.sides == 2 else np.full(3, rings.all())
    links = sum(2 if ring else 1 for side, ring in enumerate(rings) if np.ptp(at[:, side]) > 0)
    return chip.link * max(links, 1) / chip.cores
