"""On CPU a process starts itself over, once, with memory that is kept."""

import os
import subprocess
import sys

from runs import ROOT

SCRIPT = """
import ctypes, os, resource, sys
from jaxft.devices import memory
memory.keep()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def touch():
    block = libc.malloc(ctypes.c_size_t(2**26))
    ctypes.memset(ctypes.c_void_p(block), 1, 2**26)
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(os.getpid(), sys.argv[1:], resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(**env: str) -> tuple[bool, str, int]:
    """Whether it is the process that was started, its arguments, and page faults of 64 MiB used a second time."""
    clean = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | {"PYTHONPATH": str(ROOT), **env}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "a b"], stdout=subprocess.PIPE, text=True, env=clean)
    pid, rest = process.communicate()[0].split(" ", 1)
    arguments, faults = rest.rsplit(" ", 1)
    return int(pid) == process.pid, arguments, int(faults)


def test_memory_is_kept():
    same, arguments, faults = run(JAX_PLATFORMS="cpu")
    assert same and arguments == "['a b']"
    assert faults < 100  # of 16,384 small pages


def test_settings_of_ones_own_stay():
    assert run(JAX_PLATFORMS="cpu", GLIBC_TUNABLES="glibc.malloc.mmap_threshold=4096")[2] > 10_000
