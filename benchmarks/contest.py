"""What benchmarks against the Trainer share: contestants take turns, once a seed, each run a process of its own.

jaxft runs twice a seed: first without any compiled program on disk, then with those that the first run has left.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import machine

FIRST, LATER = "jaxft, first run", "jaxft"

SPEED = "real_tokens_per_second"


def in_turns(
    names: Collection[str],
    seeds: Iterable[int],
    command: Callable[[str, int, str], list[str]],
    out: str,
    averages: Mapping[str, Callable[[list[float]], float]],
) -> None:
    """Runs each contestant with each seed; prints each run to standard error, and writes the JSON of all and of sums.

    Args:
      command: `(name, seed, folder for compiled programs of this seed) -> arguments` of Python, which print the
        figures of the run as JSON in their last line.
      out: the file.
      averages: of what figure what average is told of a contestant.
    """
    runs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as cache:
            for name in names:
                runs.append({"contestant": name, "seed": seed} | _one_run(name, seed, command(name, seed, cache)))
                print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    summary = summarize(runs, averages)
    Path(out).write_text(json.dumps(machine.described() | {"runs": runs, "summary": summary}, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


def _one_run(name: str, seed: int, arguments: list[str]) -> dict[str, Any]:
    env = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{name}, seed {seed}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summarize(
    runs: list[dict[str, Any]], averages: Mapping[str, Callable[[list[float]], float]]
) -> dict[str, dict[str, float]]:
    """Returns of each contestant the averages, and the median ratios of jaxft's speed to its own, seed by seed."""
    speed = {(run["contestant"], run["seed"]): run[SPEED] for run in runs}
    summary = {}
    for name in dict.fromkeys(run["contestant"] for run in runs):
        own = [run for run in runs if run["contestant"] == name]
        ratios = {
            ours: statistics.median(speed[ours, run["seed"]] / run[SPEED] for run in own) for ours in (FIRST, LATER)
        }
        summary[name] = {
            **{figure: average([run[figure] for run in own]) for figure, average in averages.items()},
            "jaxft_is_faster_by": ratios[LATER],
            "jaxft_is_faster_in_its_first_run_by": ratios[FIRST],
        }
    return summary
