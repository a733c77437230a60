"""A trained model that answers in memory."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxft import config, hub, program, sharding, tables, tasks
from jaxft.batch import BatchShape, Target
from jaxft.data import rows, truncation
from jaxft.data.batches import Feed
from jaxft.data.features import Features, Items, tokenize
from jaxft.data.packing import MULTIPLE, pack
from jaxft.data.sources import INPUT, Split
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.hub import adapter_config, adapters
from jaxft.job import Body, check_features, check_length, load, load_adapter, with_trusted_attention
from jaxft.predict import directory
from jaxft.storage import paths
from jaxft.storage.workdir import Workdir
from jaxft.tables import census
from jaxft.train.compiled import Compiled
from jaxft.train.evaluate import collect, evaluate
from jaxft.trained import best_weights, model_of, on_these_devices
from jaxft.types import Params


class Evaluation(NamedTuple):
    """What labelled rows say of a model.

    Attributes:
      metrics: the loss and the task's metrics, by name.
      rows: how many were measured on.
      read: how many there were.
      classes: names for a table of metrics per class.
      notes: what there is to say of the rows, a line each: what was left out, moved or cut, what is unknown.
    """

    metrics: dict[str, float]
    rows: int
    read: int
    classes: Sequence[str]
    notes: list[str]


class Predictor:
    """A trained model: `predictor(texts)` or `predictor(rows)` is a list of answers, one for each, in their order.

    An answer is what `--mode=predict` adds to a row. Inputs share rows of a batch, and batches have a few shapes (see
    `shape_for`); each is compiled when it is first needed, and kept.

    Example:
      predictor = jaxft.Predictor.open("/tmp/reviews")
      predictor(["I liked it.", "Never again."])[0]["prediction"]
    """

    def __init__(
        self,
        experiment: config.Experiment,
        body: Body,
        table: tables.Table,
        composed: program.Program,
        weights: tuple[Params, Params],
    ):
        """Of parts that are there already; `open` makes them from a folder.

        Args:
          experiment: `data.max_length`, `data.packing` and `train.batch_size` are what is read of it.
          body: the tokenizer is that of its directory.
          table: with the thresholds that it decides by.
          weights: the trainable and the frozen parameters, where `composed` has them.
        """
        self.experiment, self.table = experiment, table
        tokenizer = body.tokenizer(table.words)
        self._tokenizer = truncation.keeping(tokenizer, table.options, experiment.data.truncate)
        self._program, self._weights = composed, weights
        self._steps: dict[BatchShape, Compiled] = {}

    @classmethod
    def open(cls, path: str | Path, adapter: str | Path = "", task: config.Task | None = None) -> "Predictor":
        """Returns a predictor for the best parameters of a run, or for the model of a Hugging Face directory.

        Args:
          path: the workdir of a run; the directory of a trained model, such as a run's export, or its name on the Hub.
          adapter: the directory of an adapter, see `jaxft.hub.adapters`, put on the base model in place of its own. Its
            task is the one that is answered, where it says one.
          task: for a directory: the columns that are read, where they are not those of `jaxft.config`'s defaults.

        Raises:
          UserError: there is no such run or model, it cannot be used, or the adapter does not fit.
        """
        folder, chosen = run_in(str(path)), Path(adapter).expanduser() if adapter else None
        if folder and task:
            raise UserError(f"{folder} is the folder of a run, whose config.json says its task; leave `task` out")
        of_run = on_these_devices(folder.experiment()) if folder else None
        meaning = adapters.meaning(chosen) if chosen else None
        if meaning and task:
            raise UserError(f"{chosen} says its task; leave `task` out")
        if meaning:
            experiment = _as_trained(of_run or config.Experiment(model=config.Model(path=str(path))), meaning)
        else:
            experiment = of_run or directory.experiment(str(path), task)
        if chosen:
            experiment = dataclasses.replace(experiment, **adapters.options(chosen))
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
            weights = _base_weights(body, composed, chosen)
            thresholds = {} if chosen else body.hf.get("thresholds", {})
            thresholds = meaning.thresholds if meaning else thresholds
        return cls(experiment, body, tables.build(experiment.task).decide(thresholds), composed, weights)

    def __call__(self, data: Sequence[str] | rows.Rows) -> list[dict[str, Any]]:
        """Returns an answer for each text, or for each row: a dict of the columns that the model reads.

        Raises:
          UserError: a text or a row that the model cannot read; names it.
        """
        if isinstance(data, str | bytes | Mapping):
            raise UserError(f"a {type(data).__name__} is one input; give a list of them")
        if not len(data):
            return []
        if isinstance(data[0], str):
            return list(self.answers(rows.texts_of(data, self._column())))
        return list(self.answers(rows.split_of(data, "rows")))

    def answers(self, split: Split) -> Iterator[dict[str, Any]]:
        """Yields an answer for each row of a table.

        Raises:
          UserError: it lacks a column, or a row cannot be read.
        """
        have = split.table.column_names
        for column in self.table.inputs:
            if column not in have:
                listed = ", ".join(repr(name[:40]) for name in have[:20])
                raise UserError(f"{split.origin} has no column {column!r}, which the run reads; it has {listed}")
        split = self.table.read(split, labelled=False)
        features = self._features(split, labelled=False)
        return self.table.predictions(self._outputs(features), features, split)

    def evaluate(self, data: Split | rows.Rows) -> Evaluation:
        """Measures the model on labelled rows, which are read as those of training were, or on a table of them.

        Thresholds are those of the validation split, or, where there was none, those that answers are made with.

        Raises:
          UserError: a column, a row or a label that the model cannot be measured on, and where.
        """
        given = data if isinstance(data, Split) else rows.split_of(data, "rows")._replace(key=INPUT)
        split, options = self.table.read(given), self.table.options
        if not split.table.num_rows:
            raise UserError(f"{given.origin}: none of its {given.table.num_rows:,} rows is left to measure on")
        self.table.check_labels(split)
        features = self._features(split, labelled=True)
        notes = [*split.notes, *census.of_classes(options, {split.origin: split})]
        notes += census.of_tokens(options, {split.origin: features}, self.experiment.data.max_length)
        if undecided := self.table.undecided():
            notes.append(
                f"no validation split has chosen thresholds: {next(iter(undecided.values()))} for each, as in answers"
            )
        table, composed = self.table.decide(undecided), self._program
        feed, shape = self._feed(features, composed.task.targets)
        step = Compiled(composed.eval_step, program.weights(composed.state), composed.abstract_batch, [shape])
        found = evaluate(step, self._weights, feed, composed.task.outputs)
        # By one process, as rounding may differ on their machines.
        metrics = distributed.once(lambda: {"loss": found.loss} | table.metrics(found.outputs, features, split))
        classes = table.plots(found.outputs, features, split).get("names", ())
        return Evaluation(metrics, split.table.num_rows, given.table.num_rows, classes, notes)

    def _features(self, split: Split, labelled: bool) -> Features:
        """The tokens of rows that the table has read."""
        length = self.experiment.data.max_length
        features = tokenize(
            split.table.num_rows,
            lambda start, stop: self.table.features(split.slice(start, stop), self._tokenizer, length, labelled),
            path=None,
            about=lambda made: census.of_features(made, self._tokenizer),
        )
        check_features(features, self._program.model, length)
        distributed.wait_for_all("tokenized")  # nobody is still at it when the first collective runs
        return features

    def _column(self) -> str:
        """The column that texts are of."""
        if len(self.table.inputs) > 1:
            row = ", ".join(f"{name!r}: ..." for name in self.table.inputs)
            raise UserError(f"the model reads {len(self.table.inputs)} columns; give rows, {{{row}}}, instead of texts")
        return self.table.inputs[0]

    def _outputs(self, features: Features) -> Mapping[str, Any]:
        composed, task = self._program, self._program.task
        feed, shape = self._feed(features, {name: task.targets[name] for name in task.reads})
        if shape not in self._steps:
            abstract = program.weights(composed.state)
            self._steps[shape] = Compiled(composed.outputs, abstract, composed.abstract_inputs, [shape])
        step = self._steps[shape]
        return collect(lambda *given: (step(*given), None), self._weights, feed, task.outputs)[0]

    def _feed(self, features: Features, targets: Mapping[str, Target]) -> tuple[Feed, BatchShape]:
        """The batches of all examples, and their one shape."""
        composed, together = self._program, self._program.task.together
        shape = shape_for(features.items(together), self.experiment, composed.row_shards)
        return Feed(features, targets, [shape], composed.batch_sharding, together=together), shape


def shape_for(items: Items, experiment: config.Experiment, parts: int) -> BatchShape:
    """Returns the shape of the batches for these inputs: one of a few, whatever they are.

    Row lengths are `data.max_length`, a quarter of it and, for inputs of several examples side by side, twice, four
    times, ... as much; there is one row a device where that holds all inputs, else about `train.batch_size` examples.

    Args:
      parts: rows are split over so many devices.
    """
    longest, most = int(items.lengths.max()), 1 << (items.most - 1).bit_length()
    packing, size = experiment.data.packing != "off", experiment.train.batch_size
    quarter = _up(experiment.data.max_length / 4, MULTIPLE)
    lengths = [quarter, _up(experiment.data.max_length, MULTIPLE)]
    while lengths[-1] < longest:
        lengths.append(2 * lengths[-1])
    lengths = [length for length in lengths if length >= longest]

    def shape(rows: float, length: int) -> BatchShape:
        return BatchShape(_up(rows, parts), length, max(length // 16 if packing else 1, most))

    for small in (shape(1, length) for length in lengths):
        if pack(items.lengths, small.length, small.slots // items.most).count <= small.rows:
            return small
    return shape(size * quarter / lengths[0] if packing else size, lengths[0])


def _up(n: float, multiple: int) -> int:
    """The smallest multiple that is not below n."""
    return int(-(-n // multiple)) * multiple


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


def _as_trained(experiment: config.Experiment, meaning: adapters.Meaning) -> config.Experiment:
    """The experiment, which reads and answers as an adapter was trained to."""
    data = dataclasses.replace(experiment.data, max_length=meaning.max_length, truncate=meaning.truncate)
    return dataclasses.replace(experiment, task=meaning.task, data=data)


def _base_weights(body: Body, composed: program.Program, adapter: Path | None) -> tuple[Params, Params]:
    """Those of the model's directory, which has the head as well, or is what the adapter is put on."""
    params, accounting = load(body.directory, composed)
    trainable, frozen = composed.split(params)
    if adapter:
        there = adapters.held(adapter, composed)
        if new := [path for path in accounting.new if path not in there]:
            raise UserError(
                f"neither the adapter {adapter} nor its base {body.directory} has {', '.join(new[:3])}: what is not "
                "trained answers nothing; save the head with the adapter (peft: modules_to_save)"
            )
        trainable, notes = load_adapter(adapter, composed, trainable)
        for line in notes:
            say(line)
        return trainable, frozen
    if new := accounting.new:
        raise UserError(
            f"{body.directory}: the weights have no {', '.join(new[:3])} of the shape that config.json says; "
            "what is not trained answers nothing"
        )
    return trainable, frozen
