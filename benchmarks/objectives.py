"""What each transform of docs/objectives.md does to a run: accuracy on the test split, beside the plain run.

  pip install -e '.[bench]'
  python benchmarks/objectives.py --out=objectives.jsonl --folder=/tmp/objectives
  python benchmarks/objectives.py --out=objectives.jsonl --only="plain,r_drop" --seeds=0

The quickstart's model, data and steps; another seed is other data order, dropout and head. "three layers" is the plain
run of that seed without the three layers that its validation split misses least, trained again; "distilled" has that
run as its teacher too. A run adds its line to the file and is not made again where the file holds it: the command goes
on where it was cut off. At the end comes a table: means over the seeds, and their spread. Times are of whole steps, one
run after the other; only those of one sitting on a quiet machine can be compared.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft import config, modes
from jaxft.config import files
from jaxft.storage.workdir import Workdir

LAYERS = 3

ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ema": {"optimizer.ema": 0.98},
    "r_drop": {"objective.r_drop": 1.0},
    "freelb": {"objective.adversarial": "freelb"},
    "fgm": {"objective.adversarial": "fgm"},
    "neftune": {"objective.neftune": 5.0},
    "label_smoothing": {"task.label_smoothing": 0.1},
    "three layers": {},
    "three layers distilled": {"objective.distill": 0.9},
}
"""A row of the table -> keys of the experiment."""


def experiment(row: str, seed: int, folder: Path) -> config.Experiment:
    """The experiment of a row; of "three layers" it makes the model that the run begins with."""
    e = dataclasses.replace(config.load(files.find("quickstart")), seed=seed)
    for key, value in ROWS[row].items():
        section, name = key.split(".")
        setattr(e, section, dataclasses.replace(getattr(e, section), **{name: value}))
    if row.startswith("three layers"):
        teacher, start = folder / f"plain {seed}", folder / f"start {seed}"
        if not start.exists():
            modes.compress(str(teacher), str(start), layers=LAYERS)
        e.model = dataclasses.replace(e.model, path=str(start))
        if row.endswith("distilled"):
            e.objective = dataclasses.replace(e.objective, teacher=(str(teacher),))
    return e


def run(row: str, seed: int, folder: Path) -> dict[str, Any]:
    """Makes a run, or finds it finished, and returns its line."""
    workdir = folder / f"{row} {seed}"
    results: Mapping[str, float] = modes.train(experiment(row, seed, folder), str(workdir))
    steps = [line for line in Workdir(workdir).history() if line["split"] == "train"]
    tokens = statistics.median(line["real_tokens_per_second"] for line in steps[1:])
    kept = {name: results[f"test/{name}"] for name in ("accuracy", "loss", "f1_macro")}
    return {"row": row, "seed": seed, **kept, "tokens_per_second": tokens}


def table(lines: list[dict[str, Any]]) -> str:
    """The means over seeds, and their spread."""
    found = [f"{'':26}{'accuracy':>18}{'loss':>10}{'tokens/s':>12}{'seeds':>7}"]
    for row in ROWS:
        of = [line for line in lines if line["row"] == row]
        if of:
            accuracy, loss, speed = ([line[name] for line in of] for name in ("accuracy", "loss", "tokens_per_second"))
            spread = f"({statistics.stdev(accuracy):.4f})" if len(of) > 1 else ""
            found.append(
                f"{row:26}{statistics.mean(accuracy):>9.4f} {spread:>8}{statistics.mean(loss):>10.4f}"
                f"{statistics.median(speed):>12,.0f}{len(of):>7}"
            )
    return "\n".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a line a run, JSON")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/objectives"), help="of the runs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default=",".join(ROWS))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    held = options.out.read_text().splitlines() if options.out.exists() else []
    lines = [json.loads(line) for line in held]
    for seed in map(int, options.seeds.split(",")):
        for row in ROWS:
            known = any((line["row"], line["seed"]) == (row, seed) for line in lines)
            if known or row not in options.only.split(","):
                continue
            lines.append(run(row, seed, options.folder))
            with options.out.open("a") as out:
                out.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))


if __name__ == "__main__":
    main()
