"""Plans made in processes of their own: where the compiler crashes, it takes none but its own with it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxft import config
from jaxft.batch import BatchShape
from jaxft.errors import UserError
from jaxft.plan import planned, topology


def plan(
    experiment: config.Experiment,
    topology: str,
    shape: BatchShape,
    lengths: Sequence[int] | np.ndarray,
    exact: bool = False,
) -> dict[str, Any]:
    """What `jaxft.plan.mode.one` returns, made elsewhere; where it fails, no more than `memory` and a `message`.

    Args:
      experiment: checked and resolved, with a task of this package.
      topology: of TPUs.
    """
    values = config.to_dict(experiment)
    asked = {"experiment": values, "topology": topology, "shape": shape, "lengths": [*map(int, lengths)]}
    root = str(Path(__file__).parents[2])  # where this package was found may not be known there
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-m", "jaxft.plan.apart"]
    text = json.dumps(asked | {"exact": exact})
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=os.environ | paths)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        return failed(f"the compiler crashed ({signal.Signals(-done.returncode).name})")
    return failed((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])


def failed(message: str) -> dict[str, Any]:
    """A plan of what has not been compiled."""
    return {"memory": {"needed": 0, "limit": 0, "short": 0, "fits": False}, "message": message}


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    topology.start(asked["topology"])
    experiment = config.check(config.from_dict(asked["experiment"]), data=False)
    devices, shape = topology.devices(asked["topology"]), BatchShape(*asked["shape"])
    try:
        return planned.one(experiment, devices, shape, asked["lengths"], asked["exact"])
    except UserError as error:
        return failed(str(error))


if __name__ == "__main__":
    print("\n" + json.dumps(_answer(json.load(sys.stdin))))
