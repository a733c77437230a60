"""--mode=crossfit: each row answered by a model that has not seen it, and which labels that makes doubtful."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft import config, tables
from jaxft.data import folds as folding
from jaxft.data import rows, sources, splits
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.metrics import classification, confident
from jaxft.modes.predicting import beside, opened
from jaxft.modes.shared import claim, of_classes
from jaxft.modes.training import train
from jaxft.predict.predictor import Predictor
from jaxft.report import page
from jaxft.report.tables import metrics_table, number
from jaxft.tables.labels import ids

CLAIM = "folds.json"
"""File that says of which rows, and how many folds, a folder is."""

SHOWN = 200
"""Doubtful rows on the page, at most."""


class Pool(NamedTuple):
    """The rows that are parted into folds.

    Attributes:
      experiment: whose task is `task`.
      task: its options, with the labels in the order of their ids.
      split: the rows.
      validation: what every fold's best checkpoint is chosen on; None: each run carves its own off.
      labels: their class ids, `[n]`.
      fold_of: the fold of each, `[n]`.
    """

    experiment: config.Experiment
    task: config.SequenceClassification
    split: Split
    validation: Split | None
    labels: np.ndarray
    fold_of: np.ndarray


def crossfit(
    experiment: config.Experiment, workdir: str, folds: int = 5, data: Mapping[str, rows.Rows] | None = None
) -> dict[str, Any]:
    """Trains a model a fold on the rows of all others, lets it answer its own, and writes what all of them say.

    Cut off, the same call goes on where it was: a fold's run is one of `jaxft.modes.train`, in the folder fold-0,
    fold-1, ... of the workdir.

    Args:
      workdir: a new folder, or that of the same call.
      folds: how many.
      data: rows in memory instead of what `data.source` has; see `jaxft.modes.train`.

    Returns:
      What crossfit.json holds.

    Raises:
      UserError, TrainingError, Preempted: as `jaxft.modes.train`; or the task has no classes, or the workdir is of
        other rows.
    """
    if folds < 2:
        raise UserError(f"--crossfit.folds is {folds}; it must be at least 2")
    if jax.process_count() > 1:
        raise UserError("--mode=crossfit is for one process; start it with --processes=1")
    if "://" in workdir:
        raise UserError(f"--workdir {workdir}: folds are written to a folder of this machine; give one")
    pool = _pool(*rows.given(experiment, data), folds)
    folder = Path(workdir).expanduser()
    _claim(folder, pool, folds)
    probabilities = np.zeros((len(pool.labels), len(pool.task.labels)))
    for fold in range(folds):
        held = np.flatnonzero(pool.fold_of == fold)
        say(f"fold {fold + 1} of {folds}: {len(held):,} rows held out")
        run = str(folder / f"fold-{fold}")
        train(_of_fold(pool.experiment, fold, folds), run, data=_data(pool, fold))
        answers = Predictor.open(run).answers(pool.split.take(held))
        probabilities[held] = [[*answer["probabilities"].values()] for answer in answers]
    return _write(folder, pool, probabilities)


def _pool(experiment: config.Experiment, given: Mapping[str, Split] | None, folds: int) -> Pool:
    """The rows that a run would train on, none of them carved off.

    Raises:
      UserError: they cannot be used, or the task has no classes.
    """
    experiment = config.check(experiment)
    unresolved = tables.build(experiment.task)
    raw = {name: unresolved.read(split) for name, split in (given or sources.read(experiment.data)).items()}
    raw.pop("test", None)
    resolved = of_classes(unresolved.resolve(raw), "crossfit")
    # Weights of classes are each run's to find.
    task = dataclasses.replace(resolved, class_weights=getattr(experiment.task, "class_weights", ()))
    experiment = dataclasses.replace(experiment, task=task)
    whole = dataclasses.replace(experiment.data, validation_examples=0, validation_fraction=0.0, test_examples=0)
    inputs = unresolved.inputs
    made, notes = splits.prepare(raw, whole, experiment.seed, inputs, splits.carving(task))
    for line in [*made["train"].notes, *notes]:
        say(line)
    labels = ids(task, made["train"]).astype(np.int64)
    groups = splits.input_ids([made["train"].table], inputs)[0]
    fold_of = folding.assigned(groups, labels, folds, experiment.seed)
    return Pool(experiment, task, made["train"], made.get("validation"), labels, fold_of)


def _claim(folder: Path, pool: Pool, folds: int) -> None:
    """Makes the folder that of these folds, or finds that it is.

    Raises:
      UserError: it is of others, holds something else, or cannot be written.
    """
    there = {"train": pool.split, **({"validation": pool.validation} if pool.validation else {})}
    mine = {
        "folds": folds,
        "seed": pool.experiment.seed,
        "rows": len(pool.labels),
        "data": {name: splits.fingerprint(split.table) for name, split in there.items()},
    }
    claim(folder, CLAIM, mine, "folds")


def _of_fold(experiment: config.Experiment, fold: int, folds: int) -> config.Experiment:
    """The experiment of a fold's run, whose rows are given to it."""
    data = dataclasses.replace(experiment.data, source="", train_examples=0, test_examples=0)
    name = f"{experiment.name or 'crossfit'}, fold {fold + 1} of {folds}"
    return dataclasses.replace(experiment, name=name, data=data)


def _data(pool: Pool, fold: int) -> dict[str, list[dict[str, Any]]]:
    """The rows that a fold's run learns from and is chosen on: the columns that it reads."""
    columns = [*tables.build(pool.task).inputs, pool.task.label]
    others = pool.split.take(np.flatnonzero(pool.fold_of != fold))
    held = {"train": others, **({"validation": pool.validation} if pool.validation else {})}
    return {name: split.table.select(columns).to_pylist() for name, split in held.items()}


def _write(folder: Path, pool: Pool, probabilities: np.ndarray) -> dict[str, Any]:
    """Writes what the folds say: arrays, a line a row, those whose label is doubtful, the page and, last, the sums."""
    labels, names = pool.labels, pool.task.labels
    found = confident.classes(labels, probabilities)
    margins = confident.normalized_margin(labels, probabilities)
    metrics = classification.single_label(labels, probabilities, names)
    joint = confident.joint(labels, found, len(names))
    lines = list(_lines(pool, probabilities, found, margins))
    doubtful = [lines[row] for row in np.argsort(margins, kind="stable") if found[row] not in (-1, labels[row])]
    limits = confident.thresholds(labels, probabilities)
    results = {
        "rows": len(labels),
        "labels": list(names),
        "metrics": metrics,
        "thresholds": {name: float(x) if np.isfinite(x) else None for name, x in zip(names, limits, strict=True)},
        "confident_joint": joint.tolist(),
        "doubtful": len(doubtful),
    }
    np.save(folder / "pred_probs.npy", probabilities)
    np.save(folder / "labels.npy", labels)
    for name, chosen in (("rows.jsonl", lines), ("doubtful.jsonl", doubtful)):
        with opened(str(folder / name)) as out:
            out.writelines(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in chosen)
    title, about = f"Doubtful labels of {pool.split.origin}", f"{len(doubtful):,} of {len(labels):,} rows"
    page.write_sections(folder / "index.html", title, about, _sections(pool, results, doubtful))
    with opened(str(folder / "crossfit.json")) as out:
        out.write(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    say(metrics_table({f"held_out/{name}": value for name, value in metrics.items()}, "held_out", names))
    say(f"{about} have a doubtful label: {folder}/index.html")
    return results


def _lines(pool: Pool, probabilities: np.ndarray, found: np.ndarray, margins: np.ndarray) -> list[dict[str, Any]]:
    """Of each row the row, and beside it what the fold that has not seen it says."""
    names = pool.task.labels
    each = zip(pool.split.table.to_pylist(), pool.labels, pool.fold_of, probabilities, found, margins, strict=True)
    return [
        beside(
            row,
            {
                "where": pool.split.where(at),
                "fold": int(fold),
                "given": names[label],
                "confidently": names[sure] if sure >= 0 else None,
                "self_confidence": float(said[label]),
                "normalized_margin": float(margin),
                "probabilities": dict(zip(names, map(float, said), strict=True)),
            },
        )
        for at, (row, label, fold, said, sure, margin) in enumerate(each)
    ]


def _sections(pool: Pool, results: Mapping[str, Any], doubtful: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The tables of the page."""
    names, inputs = results["labels"], tables.build(pool.task).inputs
    counted = zip(names, results["confident_joint"], strict=True)
    joint = [[name, *(f"{n:,}" for n in counts)] for name, counts in counted]
    heading = ["row", *inputs, "given", "confidently", "probability of the given", "margin"]
    listed = [
        [
            str(line["where"]),
            *(str(line.get(f"input.{name}", line[name])) for name in inputs),  # as `beside` names it
            line["given"],
            line["confidently"],
            number(line["self_confidence"]),
            number(line["normalized_margin"]),
        ]
        for line in doubtful[:SHOWN]
    ]
    most = f"The most doubtful labels ({len(listed):,} of {len(doubtful):,}; all are in doubtful.jsonl)"
    metrics = [[name, number(value)] for name, value in results["metrics"].items() if "/" not in name]
    return [
        (
            "Rows with each label that confidently are of each class",
            page.table(["given \\ confidently", *names], joint),
        ),
        (most, page.table(heading, listed, names=len(heading) - 2)),
        ("Rows held out", page.table((), metrics)),
    ]
