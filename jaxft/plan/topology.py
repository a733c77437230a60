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

from jaxft import flops
from jaxft.errors import UserError

GIB = 2**30


class Chip(NamedTuple):
    """What one device can do, as JAX counts devices: a core of TPU v4 and TPU7x, a whole chip of the others.

    Attributes:
      kind: JAX's name of it, the key of `jaxft.flops.PEAKS`.
      memory: bytes that programs may use.
      bandwidth: of that memory, bytes/s.
      link: bytes/s of one link between neighbours, in one direction.
      sides: dimensions of the torus that links make.
      cores: devices a chip, between which it shares its links.
      joined: a run sees the cores of a chip as one device, and so does `jaxft.flops.PEAKS`; the compiler does not.
      closed: a side is closed to a ring where its length is a multiple of this.
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
    "v4": Chip("TPU v4", 15.25 * GIB, 614e9, 50e9, sides=3, cores=2, joined=True, closed=4),
    "v5e": Chip("TPU v5 lite", 15.75 * GIB, 819e9, 50e9, sides=2, closed=16),
    "v5p": Chip("TPU v5", 95.74 * GIB, 2765e9, 100e9, sides=3, closed=4),
    "v6e": Chip("TPU v6", 31.25 * GIB, 1640e9, 100e9, sides=2, closed=16),
    "tpu7x": Chip("TPU7x", 94.75 * GIB, 3690e9, 100e9, sides=3, cores=2, closed=4),
}
"""Memory is what libtpu's compiler says is available; the rest is from Google Cloud's pages of the TPU versions."""

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
    # Without these libtpu asks the cloud's metadata server what machine this is, and refuses a second process.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
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
    links = sum(
        2 if int(np.ptp(whole[:, side]) + 1) % chip.closed == 0 else 1
        for side in range(at.shape[1])
        if np.ptp(at[:, side]) > 0
    )
    return chip.link * max(links, 1) / chip.cores
