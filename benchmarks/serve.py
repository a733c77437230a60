"""How many requests a service answers, and how late: packed, and the same server without packing.

    python benchmarks/serve.py --workdir=/tmp/jaxft-quickstart --out=serve.json

Clients keep their connections and send one text after the other, of a ragged number of words, over loopback. Without
packing there is a text a row (`data.packing=off`, lengths in steps of 8). The two take turns, each in a server of its
own. That without packing has many more shapes to compile, which takes minutes on two cores.

    python benchmarks/serve.py --workdir=/tmp/jaxft-quickstart --requests=50000 --out=memory.json

Whether the memory of a service grows: what the server holds after each tenth of so many requests.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parents[1]


def start(run: Path, packing: str, folder: Path) -> tuple[subprocess.Popen, str]:
    """Returns a server of a copy of the run that packs or does not, and its address, once it is ready."""
    copy = folder / packing
    if not copy.exists():
        shutil.copytree(run / "export", copy / "export")
        settings = json.loads((run / "config.json").read_text())
        settings["data"]["packing"] = packing
        (copy / "config.json").write_text(json.dumps(settings))
    command = [sys.executable, str(ROOT / "run.py"), "--mode=serve", f"--workdir={copy}", "--port=0"]
    with open(folder / "log", "w") as log:
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
    while server.poll() is None:
        for line in (folder / "log").read_text().splitlines():
            if line.startswith("serving "):
                return server, line.split()[-1]
        time.sleep(0.1)
    raise SystemExit((folder / "log").read_text())


def asked(url: str, clients: int, words: int, seed: int, more: Callable[[int], bool]) -> np.ndarray:
    """Returns the seconds of each request; a client goes on as long as `more`, of how many it has sent, says so."""

    def client(number: int) -> list[float]:
        rng, found = np.random.default_rng([seed, number]), []
        with httpx.Client(timeout=120) as connection:
            while more(len(found)):
                text = " ".join(["word"] * int(rng.integers(1, words + 1)))
                began = time.monotonic()
                connection.post(f"{url}/v1/predict", json={"texts": [text]}).raise_for_status()
                found.append(time.monotonic() - began)
        return found

    with ThreadPoolExecutor(clients) as pool:
        return np.concatenate(list(pool.map(client, range(clients))))


def measure(url: str, clients: int, seconds: float, words: int) -> dict[str, float]:
    """Returns requests a second and their latencies, in milliseconds."""
    end = time.monotonic() + seconds
    times = asked(url, clients, words, seed=0, more=lambda _: time.monotonic() < end) * 1e3
    return {
        "requests_per_second": len(times) / seconds,
        "p50_ms": float(np.percentile(times, 50)),
        "p99_ms": float(np.percentile(times, 99)),
        "requests": len(times),
    }


def growth(run: Path, clients: int, requests: int, words: int) -> list[dict[str, float]]:
    """Returns what a server holds in memory, in MB, before and after each tenth of so many requests."""
    each, found = -(-requests // (10 * clients)), []
    with tempfile.TemporaryDirectory() as folder:
        server, url = start(run, "auto", Path(folder))
        try:
            for part in range(11):
                if part:
                    asked(url, clients, words, seed=part, more=lambda sent: sent < each)
                status = Path(f"/proc/{server.pid}/status").read_text()
                held = int(status.split("VmRSS:")[1].split()[0]) / 1024
                found.append({"requests": part * each * clients, "memory_mb": held})
                print(json.dumps(found[-1]), flush=True)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    return found


def main() -> None:
    """Measures both, in turns, or the memory of one, and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="a finished run")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, default=100, help="of the longest text")
    parser.add_argument("--requests", type=int, default=0, help="instead: so many requests, and the server's memory")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.requests:
        held = growth(given.workdir, given.clients, given.requests, given.words)
        if given.out:
            given.out.write_text(json.dumps(held, indent=1) + "\n")
        return
    found: dict[str, list[dict[str, float]]] = {"auto": [], "off": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.rounds):
            for packing, rounds in found.items():
                server, url = start(given.workdir, packing, Path(folder))
                try:
                    measure(url, given.clients, min(2.0, given.seconds), given.words)
                    rounds.append(measure(url, given.clients, given.seconds, given.words))
                finally:
                    server.send_signal(signal.SIGTERM)
                    server.wait()
                print(packing, json.dumps(rounds[-1]), flush=True)
    rates = {packing: np.median([one["requests_per_second"] for one in rounds]) for packing, rounds in found.items()}
    result = {"clients": given.clients, "words": given.words, "packed_gain": rates["auto"] / rates["off"], **found}
    text = json.dumps(result, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
