"""Bytes and time of BERT's step against the number of chips, as the compiler sees them: the figure of docs/plan.md.

  python benchmarks/scaling.py --out=scaling.json --figure=docs/scaling.png

bert-base in bfloat16, its layers a loop and recomputed, rows of 128 tokens, on TPU v5e from 1 to 256 chips,
data-parallel and FSDP: weak scaling with 256 rows a chip, strong scaling with 256 rows in all. Needs libtpu and no TPU.
--out is written after each plan; what is there is not planned again.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import matplotlib

sys.path.insert(0, str(Path(__file__).parents[1]))

from matplotlib.figure import Figure

from jaxft import config, models, program, sharding, tasks
from jaxft.batch import BatchShape
from jaxft.plan import planned, topology

SIZES = ("1x1", "2x2", "4x4", "8x8", "16x16")
LENGTH, ROWS = 128, 256
COMPUTE = config.Compute(dtype="bfloat16", remat=True, scan=True)
COLORS = {"data": "#1f6feb", "fsdp": "#d1481a"}
NAMES = {"data": "data-parallel", "fsdp": "FSDP"}


def plan(size: str, way: str, rows: int) -> dict[str, Any]:
    """GiB a chip and seconds a step."""
    options = config.SequenceClassification(labels=("0", "1"), problem="single_label")
    devices = topology.devices(f"v5e:{size}")
    mesh = config.Mesh() if way == "data" else config.Mesh(data=1, fsdp=len(devices))
    experiment = config.Experiment(task=options, compute=COMPUTE, mesh=mesh)
    places = sharding.make_mesh(experiment.mesh, devices)
    composed = program.compose(
        experiment, models.build({"model_type": "bert"}), tasks.build(options), 1000, mesh=places
    )
    facts = planned.plan(experiment, composed, BatchShape(rows, LENGTH, 1), [LENGTH] * rows)
    held, speed = facts["memory"], facts["estimate"]
    return {
        "chips": len(devices),
        "state": (held["parameters"] + held["optimizer"]) / 2**30,
        "needed": held["needed"] / 2**30,
        "step": speed["step_seconds"],
        "communication": speed["exposed_seconds"],
        "utilization": speed["utilization"],
    }


def draw(found: dict[str, dict[str, Any]], file: Path) -> None:
    """Memory and time, weak and strong."""
    counts = [math.prod(map(int, size.split("x"))) for size in SIZES]
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(9, 6), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True)
        for row, (kind, rows) in enumerate({"weak": f"{ROWS} rows a chip", "strong": f"{ROWS} rows in all"}.items()):
            memory, time = axes[row]
            for way, color in COLORS.items():
                column = lambda name, kind=kind, way=way: [found[f"{kind} {way} {size}"][name] for size in SIZES]  # noqa: E731
                part = {"color": color, "ls": ":", "marker": ".", "lw": 1}
                memory.plot(counts, column("needed"), "o-", color=color, label=NAMES[way])
                memory.plot(counts, column("state"), **part, label=f"{NAMES[way]}: parameters and optimizer")
                time.plot(counts, [1e3 * t for t in column("step")], "o-", color=color, label=NAMES[way])
                sent = [1e3 * t or math.nan for t in column("communication")]
                time.plot(counts, sent, **part, label=f"{NAMES[way]}: communication")
            memory.set(title=f"{kind} scaling, {rows}: memory a chip", ylabel="GiB", ylim=(0, None))
            time.set(title=f"{kind} scaling, {rows}: a step", ylabel="ms (roofline estimate)")
        ideal = [1e3 * found["strong data 1x1"]["step"] / n for n in counts]
        axes[1, 1].plot(counts, ideal, color="0.6", lw=1, label="ideal")
        axes[1, 1].set(yscale="log")
        axes[0, 1].set(ylim=(0, None))
        axes[0, 0].set(ylim=(0, 1.5 * found["weak data 1x1"]["needed"]))  # room for the legend
        for axis in axes.flat:
            axis.set_xscale("log", base=2)
            axis.set_xticks(counts, list(map(str, counts)))
            axis.grid(alpha=0.25)
            axis.legend(frameon=False, fontsize=7)
        for axis in axes[1]:
            axis.set_xlabel("TPU v5e chips")
        figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    chosen = parser.parse_args()
    found = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    for way in COLORS:
        for size in SIZES:
            for kind in ("weak", "strong"):
                key, rows = f"{kind} {way} {size}", ROWS
                if kind == "weak":
                    rows *= math.prod(map(int, size.split("x")))
                if key not in found:
                    alone = found.get(f"weak data {size}") if size == "1x1" else None  # one chip: all is the same
                    found[key] = alone or plan(size, way, rows)
                    chosen.out.write_text(json.dumps(found, indent=1))
                    print(key, json.dumps(found[key]), flush=True)
    if chosen.figure:
        draw(found, chosen.figure)


if __name__ == "__main__":
    topology.start("v5e:1x1")
    main()
