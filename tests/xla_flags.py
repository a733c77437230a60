"""Which flags the installed XLA knows: it ends the process, without a word under pytest, at one that it does not."""

import importlib.util
import mmap
from pathlib import Path

QUICK = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")


def quick_compiles() -> str:
    """Returns the value of XLA_FLAGS that compiles small programs fastest, as far as the installed XLA knows it."""
    return " ".join(filter(understood, QUICK))


def understood(flag: str) -> bool:
    """Returns whether the installed jaxlib has a flag, `--NAME=VALUE`: whether its libraries hold the name."""
    name = flag.removeprefix("--").partition("=")[0].encode()
    return any(_holds(library, name) for library in _libraries())


def _libraries() -> list[Path]:
    spec = importlib.util.find_spec("jaxlib")
    assert spec is not None and spec.origin is not None, "jaxft needs jaxlib"
    return [file for file in Path(spec.origin).parent.rglob("*.so*") if file.stat().st_size > 0]


def _holds(library: Path, name: bytes) -> bool:
    """As a string by itself: names of flags that are gone are still listed as reserved."""
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"\0" + name + b"\0") >= 0
