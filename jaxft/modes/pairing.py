"""--mode=setfit: a classifier from few rows: pairs of them train the body, then a head on it (Tunstall et al. 2022)."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxft import config, tables
from jaxft.data import rows, sources, splits
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.job import Body
from jaxft.modes.shared import claim, of_classes
from jaxft.modes.training import train
from jaxft.tables.labels import ids

CLAIM = "setfit.json"
"""File that says of which rows a folder is."""

POOLING = {"first": "cls", "last": "last", "mean": "mean", "late": "mean"}
"""What a head is applied to -> the vector of a text that pairs are compared by."""

WITHOUT_EXPORT = ("adapter", "prefix", "prompt")
"""Methods whose run leaves no model that another could begin with."""


@dataclasses.dataclass(frozen=True)
class Options:
    """How pairs are made, and how the head is trained.

    Attributes:
      pairs: of each text with one of its class, and as many with one of another.
      head_epochs: passes over the rows in which the head alone learns.
      head_rate: its learning rate.
    """

    pairs: int = 20
    head_epochs: float = 50.0
    head_rate: float = 1e-3

    def check(self) -> "Options":
        """Raises UserError where there would be no pairs, or nothing would be learned."""
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise UserError(f"--setfit.{name} is {value}; it must be above 0")
        return self


def setfit(
    experiment: config.Experiment,
    workdir: str,
    options: Options = Options(),
    data: Mapping[str, rows.Rows] | None = None,
) -> dict[str, float]:
    """Trains a body on pairs of training rows, and then a head on it, which stands still.

    Cut off, the same call goes on where it was: both are runs of `jaxft.modes.train`, in the folders `pairs` and `head`
    of the workdir.

    Args:
      workdir: a new folder, or that of the same call.
      data: rows in memory instead of what `data.source` has; see `jaxft.modes.train`.

    Returns:
      What head/results.json holds.

    Raises:
      UserError, TrainingError, Preempted: as `jaxft.modes.train`; or the task has no classes, or the workdir is of
        other rows.
    """
    options.check()
    if jax.process_count() > 1:
        raise UserError("--mode=setfit is for one process; start it with --processes=1")
    if "://" in workdir:
        raise UserError(f"--workdir {workdir}: both runs are written to a folder of this machine; give one")
    experiment, task, made = _read(*rows.given(experiment, data))
    texts = made["train"].table.column(task.text).to_pylist()
    pairs = pairs_of(texts, ids(task, made["train"]), options.pairs, experiment.seed)
    folder = Path(workdir).expanduser()
    there = {name: splits.fingerprint(split.table) for name, split in made.items()}
    claim(folder, CLAIM, {**dataclasses.asdict(options), "seed": experiment.seed, "data": there}, "runs")
    say(f"{len(pairs):,} pairs of {len(texts):,} texts")
    train(of_pairs(experiment), str(folder / "pairs"), data={"train": pairs})
    head = of_head(experiment, folder / "pairs" / "export", options)
    columns = [task.text, task.label, *([task.weight] if task.weight else [])]
    return train(
        head,
        str(folder / "head"),
        data={name: split.table.select(columns).to_pylist() for name, split in made.items()},
    )


def _read(
    experiment: config.Experiment, given: Mapping[str, Split] | None
) -> tuple[config.Experiment, config.SequenceClassification, dict[str, Split]]:
    """The splits that a run would have, and the options of its task, resolved.

    Raises:
      UserError: they cannot be used, the task has no classes of single texts, or the method leaves no whole model.
    """
    experiment = config.check(experiment)
    if experiment.adapt in WITHOUT_EXPORT:
        raise UserError(
            f"--mode=setfit puts a head on the model that pairs have trained, but adapt={experiment.adapt} leaves none "
            "that is whole; use full or lora"
        )
    unresolved = tables.build(experiment.task)
    raw = {name: unresolved.read(split) for name, split in (given or sources.read(experiment.data)).items()}
    task = of_classes(unresolved.resolve(raw), "setfit", without="text_pair")
    made, notes = splits.prepare(raw, experiment.data, experiment.seed, unresolved.inputs, splits.carving(task))
    for line in [*(line for split in raw.values() for line in split.notes), *notes]:
        say(line)
    return experiment, task, made


def pairs_of(texts: Sequence[str], labels: np.ndarray, count: int, seed: int) -> list[dict[str, Any]]:
    """Returns pairs of each text with `count` drawn ones of its class, score 1, and as many of others, score 0.

    Raises:
      UserError: no class has two texts.
    """
    rng = np.random.default_rng([seed, splits.STREAMS["pairs"]])
    found = []
    for at, (text, label) in enumerate(zip(texts, labels, strict=True)):
        alike = np.flatnonzero((labels == label) & (np.arange(len(labels)) != at))
        for others, score in ((alike, 1.0), (np.flatnonzero(labels != label), 0.0)):
            drawn = rng.choice(others, count) if len(others) else []
            found += [{"text": text, "other": texts[one], "score": score} for one in drawn]
    if not any(pair["score"] for pair in found):
        raise UserError("--mode=setfit pairs texts of a class, but no class has two; give more rows")
    return found


def of_pairs(experiment: config.Experiment) -> config.Experiment:
    """Returns the experiment of the run that trains the body: cosines are to be 1 within a class, and 0 across."""
    head = Body.of(experiment.model, experiment.data.max_length).model.head("text")
    task = config.SentenceEmbedding(texts=("text", "other"), score="score", pooling=POOLING[head.pooling])
    data = dataclasses.replace(_whole(experiment.data), validation_fraction=0.0, augment=0)
    name = f"{experiment.name or 'setfit'}, pairs"
    train = dataclasses.replace(experiment.train, metric="", patience=0)
    return dataclasses.replace(experiment, name=name, task=task, data=data, train=train, objective=config.Objective())


def of_head(experiment: config.Experiment, body: Path, options: Options) -> config.Experiment:
    """Returns the experiment of the run that trains the head on the body, which is in the folder `body`."""
    train = dataclasses.replace(experiment.train, epochs=options.head_epochs, steps=0)
    return dataclasses.replace(
        experiment,
        name=f"{experiment.name or 'setfit'}, head",
        model=dataclasses.replace(experiment.model, path=str(body), revision="main", adapter="", head="new", reinit=0),
        adapt="freeze",
        freeze=config.Freeze(last_layers=0),
        data=_whole(experiment.data),
        objective=config.Objective(),
        optimizer=dataclasses.replace(experiment.optimizer, learning_rate=options.head_rate, l2_sp=0.0),
        train=train,
    )


def _whole(data: config.Data) -> config.Data:
    """The section of a run whose rows are given to it, cut already."""
    return dataclasses.replace(data, source="", unlabelled="", train_examples=0, validation_examples=0, test_examples=0)
