"""The quickstart's model made smaller: size, speed and metric, as it is, step by step, and fine-tuned again.

  pip install -e '.[bench]' && make quickstart
  python benchmarks/compress.py --workdir=/tmp/jaxft-quickstart --out=/tmp/compress

Each row of the table is a directory that `--mode=compress` writes into --out, or the export itself; the last one is the
smallest, trained on the run's own data as the run was. Metrics are those of the run's test split, which chooses
nothing. Speed is that of a `Predictor` on the texts of that split, real tokens a second: every directory answers all of
them once to compile, then they take turns, and the best of `--rounds` counts. Tokens are those of the whole vocabulary,
so that speeds of different vocabularies are of the same texts.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jaxft
from jaxft import config, hub, modes
from jaxft.data.sources import Split
from jaxft.modes.measured import of_run
from jaxft.storage.workdir import Workdir
from jaxft.tables import build

HALF: dict[str, dict[str, Any]] = {
    "units halved": {"inner": 2},
    "layers halved": {"layers": 2},
    "words in use": {"words": "used"},
    "all three": {"inner": 2, "layers": 2, "words": "used"},
}
"""A row of the table -> what is done; of a number, by what it is divided."""


def smaller(workdir: Path, out: Path) -> dict[str, Path]:
    """The directories of the table, made where they are not there."""
    sizes = hub.read_config(workdir / "export")
    whole = {"layers": sizes["num_hidden_layers"], "inner": sizes["intermediate_size"]}
    found = {"as it is": workdir / "export"}
    for row, how in HALF.items():
        found[row] = out / row.replace(" ", "-")
        if not found[row].exists():
            made: dict[str, Any] = {key: x if isinstance(x, str) else whole[key] // x for key, x in how.items()}
            modes.compress(str(workdir), str(found[row]), **made)
    return found


def trained_again(experiment: config.Experiment, start: Path, folder: Path) -> Path:
    """The export of a run that begins where `start` is."""
    again = dataclasses.replace(experiment, model=config.Model(path=str(start)))
    modes.train(again, str(folder))
    return folder / "export"


def measured(directory: Path, experiment: config.Experiment, test: Split) -> tuple[jaxft.Predictor, dict[str, Any]]:
    """A predictor that cuts texts as the run does, and what is in the table of it but its speed."""
    whole = jaxft.Predictor.open(directory, task=experiment.task)
    # A directory reads as far as its positions go; the run's texts end earlier.
    whole.experiment = dataclasses.replace(experiment, task=whole.experiment.task)
    bytes_ = (directory / "model.safetensors").stat().st_size
    accuracy = whole.evaluate(test).metrics["accuracy"]
    return whole, {"MB": bytes_ / 1e6, "parameters": bytes_ / 4e6, "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="/tmp/jaxft-quickstart", help="of the quickstart")
    parser.add_argument("--out", default="/tmp/compress", help="folder for the smaller models")
    parser.add_argument("--rounds", type=int, default=5, help="of the speed")
    options = parser.parse_args()
    workdir, out = Path(options.workdir), Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    experiment = Workdir(workdir).experiment()
    directories = smaller(workdir, out)
    directories["all three, fine-tuned again"] = trained_again(experiment, directories["all three"], out / "again")
    test = of_run(experiment, build(experiment.task))["test"]
    texts = test.table[build(experiment.task).inputs[0]].to_pylist()
    limit = experiment.data.max_length
    encoded = hub.load_tokenizer(workdir / "export")(texts, truncation=True, max_length=limit)
    tokens = sum(map(len, encoded["input_ids"]))
    found = {row: measured(directory, experiment, test) for row, directory in directories.items()}
    best = dict.fromkeys(found, float("inf"))
    for _ in range(options.rounds + 1):  # the first round compiles
        for row, (predictor, _) in found.items():
            began = time.perf_counter()
            predictor(texts)
            best[row] = min(best[row], time.perf_counter() - began)
    print("| | parameters | MB | tokens/s | test accuracy |\n|---|---:|---:|---:|---:|")
    for row, (_, values) in found.items():
        values["tokens_per_second"] = tokens / best[row]
        sizes = f"{values['parameters']:.1f}M | {values['MB']:.1f} | {values['tokens_per_second']:,.0f}"
        print(f"| {row} | {sizes} | {100 * values['accuracy']:.1f}% |")
    (out / "table.json").write_text(json.dumps({row: values for row, (_, values) in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
