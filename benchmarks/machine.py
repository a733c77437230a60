"""What a benchmark ran on."""

import os
import platform
from pathlib import Path

VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""What decides how fast products of matrices are, the fastest first, as Linux calls it."""


def cpu() -> str:
    """Returns the processor's name, what tells its generation, and the widest vectors that it has."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    widest = next((name for name in VECTORS if name in facts.get("flags", "").split()), "none of " + ", ".join(VECTORS))
    return f"{facts['model name']}, family {facts.get('cpu family')}, model {facts.get('model')}, {widest}"


def described() -> dict[str, object]:
    """Returns what a benchmark's JSON says of the machine."""
    return {"processor": cpu(), "cores": len(os.sched_getaffinity(0))}
