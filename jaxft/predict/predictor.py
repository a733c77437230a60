"""A trained model that answers in memory."""

import copy
import dataclasses
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jaxft import config, hub, program, sharding, tables, tasks
from jaxft.batch import BatchShape
from jaxft.data import rows, truncation
from jaxft.data.features import Features, tokenize
from jaxft.data.sources import INPUT, Split
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError, nearest
from jaxft.hub import adapter_config, adapters
from jaxft.job import Body, check_features, check_length, with_trusted_attention
from jaxft.out.files import GRAPHS
from jaxft.predict import directory, ensemble, graph, reference
from jaxft.predict.base import as_trained, base_weights
from jaxft.predict.engine import CompiledEngine, Engine
from jaxft.predict.vectors import with_distance
from jaxft.storage import paths
from jaxft.storage.workdir import Workdir
from jaxft.sure import bootstrap
from jaxft.sure.groups import of_groups
from jaxft.tables import census
from jaxft.train.evaluate import Evaluated
from jaxft.trained import as_computed, best_weights, calibrated, model_of, with_frozen

JAX = "jax"
"""Name of the engine that computes with the parameters of a run or directory themselves."""

UNCUT = 1 << 20
"""Tokens that no text has."""


class Evaluation(NamedTuple):
    """What labelled rows say of a model.

    Attributes:
      metrics: the loss and the task's metrics, by name.
      rows: how many were measured on.
      read: how many there were.
      classes: names for a table of metrics per class.
      notes: what there is to say of the rows, a line each: what was left out, moved or cut, what is unknown.
      groups: of each value of the column that was asked for, see `jaxft.sure.groups.of_groups`.
    """

    metrics: dict[str, float]
    rows: int
    read: int
    classes: Sequence[str]
    notes: list[str]
    groups: Mapping[str, Mapping[str, float]] = {}


class Inputs(NamedTuple):
    """Texts or rows that the model is to answer: as its table has read them, and their tokens."""

    split: Split
    features: Features


class Predictor:
    """A trained model: `predictor(texts)` or `predictor(rows)` is a list of answers, one for each, in their order.

    An answer is what `--mode=predict` adds to a row. How inputs are computed says the engine.

    A service calls the three steps of that apart: `tokenized` and `answers_of`, on any threads, and `compute` on one.
    After `warm` nothing is compiled any more.

    Attributes:
      experiment, table: how inputs are read, and answers made.
      engine: what computes.
      directory: of the tokenizer.
      run: that the model is of, where it was opened from one with its own adapter.

    Example:
      predictor = jaxft.Predictor.open("/tmp/reviews")
      predictor(["I liked it.", "Never again."])[0]["prediction"]
    """

    def __init__(self, experiment: config.Experiment, body: Body, table: tables.Table, engine: Engine):
        """Of parts that are there already; `open` makes them from a folder.

        Args:
          experiment: `data.max_length` and `data.truncate` are what is read of it.
          body: the tokenizer is that of its directory.
          table: with the thresholds that it decides by.
        """
        self.experiment, self.table, self.engine = experiment, table, engine
        self.directory = body.directory
        self.run: Workdir | None = None
        tokenizer = body.tokenizer(table.words)
        self._tokenizers: queue.LifoQueue[Any] = queue.LifoQueue()
        self._tokenizers.put(truncation.keeping(tokenizer, table.options, experiment.data.truncate))

    @classmethod
    def open(
        cls,
        path: str | Path,
        adapter: str | Path = "",
        task: config.Task | None = None,
        engine: str = JAX,
        runs: Sequence[str | Path] = (),
    ) -> "Predictor":
        """Returns a predictor for the best parameters of a run, or for the model of a Hugging Face directory.

        Args:
          path: the workdir of a run; the directory of a trained model, such as a run's export, or its name on the Hub.
          adapter: the directory of an adapter, see `jaxft.hub.adapters`, put on the base model in place of its own. Its
            task is the one that is answered, where it says one.
          task: for a directory: the columns that are read, where they are not those of `jaxft.config`'s defaults.
          engine: what computes: "jax"; "onnx" or "int8", the graph of that format which is in the export, by
            onnxruntime on the CPU.
          runs: others, or directories, that answer with it: with the mean of what each says; see
            `jaxft.predict.ensemble`.

        Raises:
          UserError: there is no such run or model, it cannot be used, or the adapter or one of the runs does not fit.
        """
        if runs:
            return cls._of_several([path, *runs], adapter, task, engine)
        folder, chosen = run_in(str(path)), Path(adapter).expanduser() if adapter else None
        if folder and task:
            raise UserError(f"{folder} is the folder of a run, whose config.json says its task; leave `task` out")
        if engine != JAX:
            return cls._of_graph(folder, str(path), chosen, task, engine)
        of_run = as_computed(folder) if folder else None
        meaning = adapters.meaning(chosen) if chosen else None
        if meaning and task:
            raise UserError(f"{chosen} says its task; leave `task` out")
        if meaning:
            experiment = as_trained(of_run or config.Experiment(model=config.Model(path=str(path))), meaning)
        else:
            experiment = of_run or directory.experiment(str(path), task)
        if chosen:
            experiment = dataclasses.replace(experiment, **adapters.options(chosen))
            experiment = with_frozen(experiment, meaning.frozen if meaning else "float32")
            adapter_config.check_task(chosen, experiment.task)
        length = experiment.data.max_length
        body = Body.of(model_of(folder, experiment) if folder and not chosen else experiment.model, length)
        mesh = sharding.make_mesh(experiment.mesh)
        experiment, doubts = with_trusted_attention(experiment, mesh, body.model, length)
        for line in doubts:
            say(line)
        computed = tasks.build(experiment.task)
        composed = program.compose(experiment, body.model, computed, steps=10**9, mesh=mesh, longest=length)
        check_length(experiment, composed)
        distributed.wait_for_all("prepared")
        if folder and not chosen:
            weights, thresholds = best_weights(folder, composed, body.directory)
        else:
            weights = base_weights(body, composed, chosen)
            thresholds = {} if chosen else body.hf.get("thresholds", {})
            thresholds = meaning.thresholds if meaning else thresholds
        table = tables.build(experiment.task).decide(thresholds)
        computing = CompiledEngine(experiment, composed, weights)
        made = cls(experiment, body, table, computing)
        if not chosen and (not folder or folder.exported()):
            table = calibrated(table, body.directory, engine)
            made.table, made.engine = with_distance(table, computing, body.directory)
        made.run = None if chosen else folder
        return made

    @classmethod
    def _of_graph(
        cls, folder: Workdir | None, path: str, adapter: Path | None, task: config.Task | None, engine: str
    ) -> "Predictor":
        if engine not in GRAPHS:
            raise UserError(f"--engine {engine}: there is no such engine; {nearest(engine, [JAX, *GRAPHS])}")
        if adapter:
            raise UserError(f"--engine={engine} computes a graph, on which {adapter} cannot be put; use --engine={JAX}")
        experiment, body, made = graph.opened(folder, path, task, engine)
        table = tables.build(experiment.task).decide(body.hf.get("thresholds", {}))
        answering = cls(experiment, body, calibrated(table, body.directory, engine), made)
        answering.run = folder
        return answering

    @classmethod
    def _of_several(
        cls, paths: Sequence[str | Path], adapter: str | Path, task: config.Task | None, engine: str
    ) -> "Predictor":
        ensemble.check_runs(paths)
        if adapter:
            raise UserError(f"--runs has models that answer together, on which {adapter} cannot be put; leave one out")
        each = [cls.open(path, task=task, engine=engine) for path in paths]
        bare = [one.table.calibrated(None) for one in each]
        if bare != [one.table for one in each]:
            say("--runs: calibrations are left out, each being of what one model answers by itself")
        members = [
            ensemble.Member(str(path), one.experiment, table, one.engine, one.directory)
            for path, one, table in zip(paths, each, bare, strict=True)
        ]
        first = each[0]
        first.engine, thresholds = ensemble.joined(members)
        first.table = bare[0].decide(thresholds)
        return first

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""
        return self.engine.model.facts.width

    def __call__(self, data: Sequence[str] | rows.Rows) -> list[dict[str, Any]]:
        """Returns an answer for each text, or for each row: a dict of the columns that the model reads.

        Raises:
          UserError: a text or a row that the model cannot read; names it.
        """
        split = self.split_of(data)
        return list(self.answers(split)) if split else []

    def answers(self, split: Split) -> Iterator[dict[str, Any]]:
        """Yields an answer for each row of a table.

        Raises:
          UserError: it lacks a column, or a row cannot be read.
        """
        inputs = self.tokenized(split)
        distributed.wait_for_all("tokenized")  # nobody is still at it when the first collective runs
        return self.answers_of(inputs, self.compute(inputs.features))

    def tokenized(self, data: Split | Sequence[str] | rows.Rows) -> Inputs:
        """Returns one or more texts or rows as `compute` takes them. Several threads may call it at once.

        Raises:
          UserError: there are none, a column is lacking, or a row cannot be read or has no room; names it.
        """
        split = data if isinstance(data, Split) else self.split_of(data)
        if not split:
            raise UserError("there is no text and no row to answer; give one or more")
        require_inputs(split, self.table)
        split = self.table.read(split, labelled=False)
        features = self._features(split, labelled=False)
        self.engine.check(features, split.origin)
        return Inputs(split, features)

    def cut(self, inputs: Inputs) -> np.ndarray:
        """Returns for each row whether a part of its text was cut off, `[rows]` of bool. Any thread may call it."""
        split, features = inputs
        length = self.experiment.data.max_length
        found = np.zeros(split.table.num_rows, bool)
        if not truncation.cuts(self.table.options):
            return found
        owners = np.repeat(np.arange(len(found)), np.diff(features.bounds))
        full = np.unique(owners[features.lengths >= length])  # these have been cut, or are just so long
        if len(full):
            with self.tokenizer() as tokenizer:
                whole = self.table.features(split.take(full), tokenizer, UNCUT, False)
            within = full[whole["row"]] if "row" in whole else full
            found[within[[len(ids) > length for ids in whole["input_ids"]]]] = True
        return found

    def compute(self, features: Features) -> Mapping[str, np.ndarray]:
        """Returns the outputs of the model for examples as `tokenized` makes them. One thread at a time may call it.

        Returns:
          By name, `[examples, ...]` or, per token, `[tokens, ...]`, in the order of the examples.
        """
        return self.engine.compute(features)

    def compute_each(self, several: Sequence[Features]) -> list[Mapping[str, np.ndarray]]:
        """Returns the same of several examples' features, computed together. One thread at a time may call it."""
        outputs, kinds = self.compute(Features.joined(several)), self.engine.task.outputs
        sizes = {"example": [len(one) for one in several], "token": [int(one.offsets[-1]) for one in several]}
        ends = {kind: np.cumsum(of)[:-1] for kind, of in sizes.items()}
        parts = {name: np.split(array, ends[kind]) for name, kind in kinds.items() for array in [outputs[name]]}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(several))]

    def answers_of(self, inputs: Inputs, outputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        """Yields an answer for each row of the inputs, from their outputs. Any thread may call it."""
        return self.table.predictions(outputs, inputs.features, inputs.split)

    def warm(self, tokens: int, threads: int = 1) -> list[BatchShape]:
        """Makes the engine ready for a service: nothing is compiled from then on.

        Args:
          tokens: of the largest batch, about.
          threads: so many may tokenize at once, each with a tokenizer of its own.

        Returns:
          The shapes that are compiled; see `jaxft.predict.engine`.
        """
        shapes = self.engine.warm(tokens)
        pa.array([""])  # imports pandas, for which the first request would wait a quarter of a second
        with self.tokenizer() as first:
            for tokenizer in [copy.deepcopy(first) for _ in range(threads - self._tokenizers.qsize() - 1)]:
                self._tokenizers.put(tokenizer)
        return shapes

    def evaluate(self, data: Split | rows.Rows, intervals: float = 0.0, groups: str = "") -> Evaluation:
        """Measures the model on labelled rows, which are read as those of training were, or on a table of them.

        Thresholds are those of the validation split, or, where there was none, those that answers are made with.

        Args:
          intervals: the level of confidence intervals of the metrics, see `jaxft.sure.bootstrap.of_metrics`; 0: none.
          groups: a column, of whose values each is measured by itself too; empty: none.

        Raises:
          UserError: a column, a row or a label that the model cannot be measured on, and where.
        """
        given = data if isinstance(data, Split) else rows.split_of(data, "rows")._replace(key=INPUT)
        split, options = self.table.read(given), self.table.options
        if not split.table.num_rows:
            raise UserError(f"{given.origin}: none of its {given.table.num_rows:,} rows is left to measure on")
        self.table.check_labels(split)
        features, found = self.measured(split)
        notes = [*split.notes, *census.of_classes(options, {split.origin: split})]
        notes += census.of_tokens(options, {split.origin: features}, self.experiment.data.max_length)
        if undecided := self.table.undecided():
            notes.append(
                f"no validation split has chosen thresholds: {next(iter(undecided.values()))} for each, as in answers"
            )
        table = self.table.decide(undecided)
        # By one process, as rounding may differ on their machines.
        metrics = distributed.once(lambda: {"loss": found.loss} | table.metrics(found.outputs, features, split))
        labelled = bootstrap.Labelled(split, features, self.engine.task.outputs, found.outputs)
        if intervals:
            metrics |= distributed.once(lambda: bootstrap.of_metrics(table, labelled, intervals))
        parts = distributed.once(lambda: of_groups(table, labelled, groups, intervals)) if groups else {}
        classes = table.plots(found.outputs, features, split).get("names", ())
        return Evaluation(metrics, split.table.num_rows, given.table.num_rows, classes, notes, parts)

    def measured(self, split: Split) -> tuple[Features, Evaluated]:
        """Returns the tokens of labelled rows, as the table has read them, and what the model makes of them."""
        features = reference.of_rows(self._features(split, labelled=True), self.engine.task, self.run)
        distributed.wait_for_all("tokenized")  # nobody is still at it when the first collective runs
        return features, self.engine.evaluate(features)

    def split_of(self, data: Sequence[str] | rows.Rows) -> Split | None:
        """Texts or rows as a table; None where there are none."""
        if isinstance(data, str | bytes | Mapping):
            raise UserError(f"a {type(data).__name__} is one input; give a list of them")
        if not len(data):
            return None
        if isinstance(data[0], str):
            return rows.texts_of(data, self._column())
        return rows.split_of(data, "rows")

    @contextmanager
    def tokenizer(self) -> Iterator[Any]:
        """Lends a tokenizer that nobody else uses meanwhile: one that cuts texts does not stand two threads at once."""
        tokenizer = self._tokenizers.get()
        try:
            yield tokenizer
        finally:
            self._tokenizers.put(tokenizer)

    def _features(self, split: Split, labelled: bool) -> Features:
        """The tokens of rows that the table has read."""
        length = self.experiment.data.max_length
        with self.tokenizer() as tokenizer:
            features = tokenize(
                split.table.num_rows,
                lambda start, stop: self.table.features(split.slice(start, stop), tokenizer, length, labelled),
                path=None,
                about=(lambda made: census.of_features(made, tokenizer)) if labelled else None,
            )
        check_features(features, self.engine.model, length)
        return features

    def _column(self) -> str:
        """The column that texts are of."""
        if len(self.table.inputs) > 1:
            row = ", ".join(f"{name!r}: ..." for name in self.table.inputs)
            raise UserError(f"the model reads {len(self.table.inputs)} columns; give rows, {{{row}}}, instead of texts")
        return self.table.inputs[0]


def require_inputs(split: Split, table: tables.Table) -> None:
    """Makes sure that a split has the columns that a model reads.

    Raises:
      UserError: it lacks one.
    """
    have = split.table.column_names
    for column in table.inputs:
        if column not in have:
            listed = ", ".join(repr(name[:40]) for name in have[:20])
            raise UserError(f"{split.origin} has no column {column!r}, which the run reads; it has {listed}")


def run_in(path: str) -> Workdir | None:
    """Returns the run that a folder holds, or was meant to; None: it is a model's directory, or a name on the Hub."""
    folder = Path(path).expanduser()
    if path.startswith("pkg:") or (path.count("/") == 1 and not folder.exists() and not paths.looks_local(path)):
        return None
    if "://" not in path and (folder / "config.json").is_file():
        try:
            values = hub.read_json(folder / "config.json")
        except UserError:
            return Workdir(path)
        return None if "model_type" in values else Workdir(path)
    return Workdir(path)
