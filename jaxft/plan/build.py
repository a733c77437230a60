"""Ahead-of-time compilation for described devices, kept on disk: the same program is never compiled twice."""

import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

QUICK = {"exec_time_optimization_effort": -1.0}
"""For TPUs: without the search for the best tiles of each matrix product, which takes most of the time. What is
computed, what is communicated and the memory's peak stay; collectives may be wider and fewer of them are hidden."""


@dataclass(frozen=True)
class Built:
    """What the compiler gave.

    Attributes:
      text: the optimized program; empty where there is none.
      arguments, outputs, aliased, temporaries, code: bytes a device; outputs that take the place of arguments are
        `aliased`.
      flops: XLA's own count, which sees a loop's body once.
      needed, limit: bytes that temporaries, or with them all of the program, would take, and that are there; 0 where it
        fits, or is not compiled for another reason.
      message: what the compiler said where it gave no program.
      seconds: of compilation.
    """

    text: str = ""
    arguments: int = 0
    outputs: int = 0
    aliased: int = 0
    temporaries: int = 0
    code: int = 0
    flops: float = 0.0
    needed: int = 0
    limit: int = 0
    message: str = ""
    seconds: float = 0.0
    cached: bool = False

    @property
    def compiled(self) -> bool:
        return not self.message


def versions() -> dict[str, str]:
    """Of everything that decides what is compiled."""
    found = {}
    for package in ("jax", "jaxlib", "libtpu"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def build(lowered: jax.stages.Lowered, mesh: Mesh, cache: str, exact: bool = False) -> Built:
    """Compiles, or reads what an earlier call compiled.

    Args:
      cache: a folder; empty: none.
      exact: as a run compiles, rather than in a fraction of the time; see `QUICK`.
    """
    options = {} if exact or mesh.devices.flat[0].platform != "tpu" else QUICK
    places = [[d.id, d.device_kind, list(getattr(d, "coords", ()))] for d in mesh.devices.flat]
    parts = [lowered.as_text(), json.dumps([places, versions(), options]), os.environ.get("XLA_FLAGS", "")]
    key = hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
    file = Path(cache).expanduser() / "plans" / f"{key}.json.gz" if cache else None
    if file and file.exists():
        return Built(**(json.loads(gzip.decompress(file.read_bytes())) | {"cached": True}))
    built = _compile(lowered, options)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_bytes(gzip.compress(json.dumps(asdict(built)).encode(), 3))
        os.replace(temporary, file)
    return built


def _compile(lowered: jax.stages.Lowered, options: Mapping[str, Any]) -> Built:
    started = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        needed, limit = exhausted(str(error))
        return Built(needed=needed, limit=limit, message=str(error), seconds=time.perf_counter() - started)
    seconds = time.perf_counter() - started
    memory: Any = compiled.memory_analysis()
    costs: Any = compiled.cost_analysis() or {}
    return Built(
        text=compiled.as_text() or "",
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=float(costs.get("flops", 0.0)),
        seconds=seconds,
    )


def exhausted(message: str) -> tuple[int, int]:
    """Bytes asked for and bytes there, from what XLA says where a program does not fit; zeros where it says neither."""
    size = r"(\d+(?:\.\d+)?)([KMGT]?)i?B?"
    patterns = (
        rf"Used {size} of {size} hbm",
        rf"\({size}\) exceeds available HBM \({size}\)",
        rf"allocating {size}.*?\blimit(?: of)? {size}",
    )
    for pattern in patterns:
        if found := re.search(pattern, message):
            return _bytes(found[1], found[2]), _bytes(found[3], found[4])
    return 0, 0


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * 1024 ** ("KMGT".index(unit) + 1 if unit else 0))
