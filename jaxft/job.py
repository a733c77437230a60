"""An experiment made ready to run: data read and tokenized, model and task built, shapes chosen, program composed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxft import adapt, config, hub, kernels, models, objectives, program, sharding, tables, tasks
from jaxft.batch import BatchShape
from jaxft.data import augment, packing, sources, splits, truncation, unlabelled
from jaxft.data.batches import Feed, HostBatch, fitting
from jaxft.data.features import Features, Items, cache_key, tokenize
from jaxft.data.order import Order
from jaxft.data.sources import Split
from jaxft.data.unlabelled import Unlabelled
from jaxft.devices import distributed, flops
from jaxft.errors import UserError, nearest
from jaxft.models import Model, nn
from jaxft.objectives.distill import PREFIX
from jaxft.program import Program
from jaxft.storage import fingerprint
from jaxft.tables import Table, census
from jaxft.tasks import Task
from jaxft.tasks.preference import REFERENCE
from jaxft.train.compiled import Compiled

COMPILATION = 4e8
"""Positions x hidden size^2 that a batch shape has to save, at least, to be worth compiling.

A CPU core compiles a layer of MiniLM in 0.9 s, and computes 1.2e9 of them meanwhile. A third of that is charged: later
runs read the program from disk.
"""


EXACT = 1000
"""Steps of the longest run of which every batch is packed to choose the shapes; of a longer one about so many are."""

WEIGHED = 20_000
"""Batches of which the tokens are counted, to find the heaviest: a tenth of a second."""


@dataclass(frozen=True)
class Body:
    """A pretrained model: where it is, its config.json, what it computes."""

    directory: Path
    hf: dict[str, Any]
    model: Model

    @classmethod
    def of(cls, options: config.Model, max_length: int) -> "Body":
        """Raises UserError where the model cannot be used, or is too short for `max_length`."""
        directory = hub.locate(options.path, options.revision)
        hf = hub.read_config(directory)
        try:
            model = models.build(hf, options.dropout)
        except UserError as error:  # it names the file only
            raise UserError(f"{directory}/{error}") from error
        if max_length > model.facts.longest:
            raise UserError(
                f"config.data.max_length is {max_length}, but {options.path} has only {model.facts.longest} positions"
            )
        return cls(directory, hf, model)

    def features(self, split: Split, table: Table, data: config.Data, labelled: bool = True) -> Features:
        """The tokenized split, from the cache where it has been made before."""
        parts = {
            "table": splits.fingerprint(split.table),
            "tokenizer": hub.tokenizer_fingerprint(self.directory),
            "task": config.to_dict(table.options),
            # What the tokenizer is held against, so that one that does not fit is not excused by an earlier model.
            "rest": [
                data.max_length,
                data.truncate,
                self.model.facts.vocabulary,
                self.hf.get("pad_token_id"),
                labelled,
            ],
        }
        path = Path(data.cache).expanduser() / "features" / f"{cache_key(parts)}.arrow" if data.cache else None
        tokenizer: list[Any] = []

        def make(start: int, stop: int) -> dict[str, Any]:
            if not tokenizer:
                tokenizer.append(truncation.keeping(self.tokenizer(table.words), table.options, data.truncate))
            return table.features(split.slice(start, stop), tokenizer[0], data.max_length, labelled)

        return tokenize(split.table.num_rows, make, path, lambda made: census.of_features(made, tokenizer[0]))

    def tokenizer(self, words: bool = False) -> Any:
        """Loads the tokenizer that belongs to the model, for texts or for lists of words.

        Raises:
          UserError: it has more entries than the model's embedding, or another id for padding than config.json says.
        """
        tokenizer = hub.load_tokenizer(self.directory, words)
        pads, own = self.hf.get("pad_token_id"), tokenizer.pad_token_id
        if pads is not None and own is not None and pads != own:
            raise UserError(
                f"{self.directory}: the tokenizer is of another family than the model: its padding "
                f"({tokenizer.pad_token!r}) is id {own}, but config.json says pad_token_id {pads}; take the tokenizer "
                "that belongs to the weights"
            )
        if len(tokenizer) > self.model.facts.vocabulary:
            raise UserError(
                f"{self.directory}: the tokenizer has {len(tokenizer)} entries, more than the model's embedding "
                f"({self.model.facts.vocabulary}); take the tokenizer that belongs to the weights"
            )
        return tokenizer


@dataclass(frozen=True)
class Job:
    """All of a run but its state and its folder.

    `teachers` are fingerprints of the models that what `features` have of a teacher comes from; `unlabelled` texts are
    in no split, but among the features of training.
    """

    experiment: config.Experiment
    body: Body
    task: Task
    table: Table
    splits: Mapping[str, Split]
    features: Mapping[str, Features]
    order: Order
    steps: int
    shapes: list[BatchShape]
    program: Program
    notes: list[str] = field(default_factory=list)
    teachers: tuple[str, ...] = ()
    unlabelled: Unlabelled | None = None

    @property
    def eval_every(self) -> int:
        """Steps between two evaluations; 0: there is nothing to evaluate on."""
        if "validation" not in self.features:
            return 0
        return self.experiment.train.eval_every or self.order.batches_per_epoch

    @property
    def metric(self) -> str:
        """The metric of validation that selects the best checkpoint."""
        return self.experiment.train.metric or self.table.metric

    def score(self, validated: Mapping[str, float]) -> float:
        """How good a checkpoint is, by what validation found: the larger the better; NaN where that is not known."""
        return self.table.score(self.metric, validated.get(self.metric, math.nan))

    @property
    def origin(self) -> dict[str, str]:
        """Fingerprints of the experiment and of the data that it sees; see `jaxft.train.checkpoint.ORIGINS`.

        What models say of the data (teachers, the run's start) has the rounding of a mesh: the models count, not that.
        """
        columns = {
            f"{split}/{name}": column
            for split, part in self.features.items()
            for name, column in {"offsets": part.offsets, **part.tokens, **part.examples}.items()
            if name != REFERENCE and not name.startswith(PREFIX)
        }
        taught = {"teachers": fingerprint.of_values(self.teachers)} if self.teachers else {}
        settings = fingerprint.of_values(config.defining(self.experiment))
        return {"experiment": settings, "data": fingerprint.of_columns(columns), **taught}

    @property
    def parts(self) -> int:
        """So many devices and parts of a step share the rows of a batch."""
        return self.program.row_shards * self.experiment.train.accumulate

    @property
    def together(self) -> bool:
        """Whether the examples of a row of the table, or a text and its copy, lie side by side in a row of a batch."""
        return self.task.together or objectives.copied(self.experiment)

    def batch_shapes(self, parts: int) -> list[BatchShape]:
        """The batch shapes that the run would have, were its rows split into so many parts."""
        items = _items(self.features, self.together)
        return _shapes(items, self.order, self.steps, parts, self.experiment.data, self.body.model)

    def work(self) -> Callable[[HostBatch], float]:
        """FLOPs of a training batch, all passes of its step counted."""
        frozen, passes = nn.flatten(self.program.state.frozen), objectives.passes(self.experiment)
        count = flops.train_flops(self.body.model, self.task, frozen)
        return lambda host: passes * count(self.features["train"].lengths[host.examples])

    def first_shapes(self) -> list[BatchShape]:
        """Those of the first 50 batches of the run."""
        first = [self.order.lengths[self.order[i]] for i in range(min(50, self.steps))]
        most = self.features["train"].items(self.together).most
        length, slots = self.shapes[-1].length, self.shapes[-1].slots // most
        parts = self.parts
        return [fitting(self.shapes, packing.pack(n, length, slots).count, int(n.max()), parts) for n in first]

    def padding(self) -> float:
        """The share of computed positions that hold no token, over the first batches."""
        shapes = self.first_shapes()
        tokens = sum(int(self.order.lengths[self.order[i]].sum()) for i in range(len(shapes)))
        return 1 - tokens / sum(shape.rows * shape.length for shape in shapes)

    def train_step(self) -> Compiled:
        """The training step, compiled for each shape, those first that the run needs first."""
        shapes = list(dict.fromkeys([*self.first_shapes(), *self.shapes]))
        composed = self.program
        if composed.mesh.devices.flat[0].platform != "cpu":
            return Compiled(composed.train_step, composed.state, composed.abstract_batch, shapes)
        # On CPU a third of the time that compiling a step takes is the update's, which is the same for all shapes.
        update = composed.update_step, (composed.state, *composed.abstract_gradient())
        return Compiled(composed.gradient_step, composed.state, composed.abstract_batch, shapes, update)

    def feed(self, split: str) -> Feed:
        data, vary, seed = self.experiment.data, self.table.vary, self.experiment.seed
        varied = vary and (lambda features, examples, epoch: vary(features, examples, seed, epoch))
        place, targets, workers = self.program.batch_sharding, self.program.targets, data.workers
        return Feed(self.features[split], targets, self.shapes, place, workers, varied, self.together, self.parts)


def prepare(
    experiment: config.Experiment,
    loss: program.Loss | None = None,
    mesh: Mesh | None = None,
    given: Mapping[str, Split] | None = None,
) -> Job:
    """Reads, checks and composes, for the experiment's mesh over all devices or for another one.

    Args:
      loss: instead of the task's own.
      given: the splits, instead of what `data.source` has.

    Raises:
      UserError: anything in the experiment, the model or the data that cannot be used.
    """
    data = experiment.data
    mesh = mesh or sharding.make_mesh(experiment.mesh)
    row_shards = sharding.row_shards(mesh, sharding.read_rules(experiment.mesh.rules))
    parts = row_shards * experiment.train.accumulate
    body = Body.of(experiment.model, data.max_length)
    unresolved = tables.build(experiment.task)
    raw = {name: unresolved.read(split) for name, split in (given or sources.read(data)).items()}
    experiment = config.check(replace(experiment, task=unresolved.resolve(raw)))
    experiment = adapt.resolved(experiment, body.model)
    task, table = tasks.build(experiment.task), tables.build(experiment.task)
    prepared, carved = splits.prepare(raw, data, experiment.seed, table.inputs, splits.carving(experiment.task))
    if data.augment and not isinstance(experiment.task, config.SequenceClassification):
        raise UserError(
            "config.data.augment changes the words of texts, and is for SequenceClassification; this is "
            f"{type(experiment.task).__name__}, so unset it"
        )
    prepared["train"], made = augment.augmented(prepared, table.inputs, data, experiment.seed)
    notes = [line for split in raw.values() for line in split.notes] + carved + made
    features = {name: body.features(split, table, data) for name, split in prepared.items()}
    for part in features.values():
        check_features(part, body.model, data.max_length)
    texts, weights = None, table.sampling(features["train"])
    if data.unlabelled:
        objectives.check_unlabelled(experiment)
        texts, said = unlabelled.read(data, table, prepared, experiment.seed, objectives.copied(experiment))
        weights = unlabelled.drawn(weights, len(features["train"]), texts.texts.table.num_rows, data.unlabelled_share)
        more = [body.features(part, table, data, labelled=False) for part in texts.parts]
        features["train"], notes = unlabelled.joined(features["train"], more), notes + said
    notes += census.of_classes(experiment.task, prepared) + census.of_tokens(experiment.task, features, data.max_length)
    train, items = experiment.train, _items(features, task.together or objectives.copied(experiment))
    order = Order(items["train"].lengths, train.batch_size, experiment.seed, data.group_by_length, weights)
    steps = steps_of(train, order)
    if train.batch_size % parts and data.packing == "off":
        raise UserError(
            f"config.train.batch_size is {train.batch_size}; with packing=off it must be a multiple of {parts} "
            f"({row_shards} devices that share rows x accumulate {train.accumulate})"
        )
    shapes = _shapes(items, order, steps, parts, data, body.model)
    experiment, doubts = with_trusted_attention(experiment, mesh, body.model, shapes[-1].length)
    composed = program.compose(experiment, body.model, task, steps, mesh=mesh, loss=loss, longest=data.max_length)
    check_length(experiment, composed)
    objectives.check(experiment, task, {**body.model.rates(), **composed.adaptation.rates})
    distributed.wait_for_all("prepared")  # nobody is still tokenizing when the first collective runs
    return Job(
        experiment, body, task, table, prepared, features, order, steps, shapes, composed, notes + doubts, (), texts
    )


def steps_of(train: config.Train, order: Order) -> int:
    """Returns the number of steps of a run."""
    return train.steps or max(round(train.epochs * order.batches_per_epoch), 1)


def with_trusted_attention(
    experiment: config.Experiment, mesh: Mesh, model: Model, length: int
) -> tuple[config.Experiment, list[str]]:
    """The experiment with plain attention where the platform's kernel fails its trial on rows of this length.

    Also a line that says so, or that the kernel does not compute such a model's. All processes decide alike.
    """
    facts = model.facts
    if facts.distances and kernels.serve(experiment.compute, mesh):
        why = f"scores of {model.cfg.hf_name} depend on distances, which the kernel for this device does not compute"
        return experiment, [f"attention by plain operations: {why}"]
    size = facts.head_size or facts.width // facts.heads
    wrong = kernels.trial(experiment.compute, mesh, facts.heads, size, length, facts.causal)
    if distributed.every(not wrong):
        return experiment, []
    compute = replace(experiment.compute, attention="xla")
    note = f"attention by plain operations, not by the kernel for this device: {wrong or 'another process says so'}"
    return config.check(replace(experiment, compute=compute)), [note]


def _items(features: Mapping[str, Features], together: bool) -> dict[str, Items]:
    return {name: part.items(together) for name, part in features.items()}


def _typical(order: Order, steps: int) -> list[int]:
    """Which batches the shapes are chosen by: all of a short run; of a long one some evenly over it, and the heaviest.

    Those with most tokens are looked for among `WEIGHED` batches. One that still needs more rows than the largest shape
    has gets a shape of its own; see `jaxft.data.batches.fitting`.
    """
    if steps <= EXACT:
        return list(range(steps))
    weighed = np.unique(np.linspace(0, steps - 1, min(steps, WEIGHED)).astype(np.int64)).tolist()
    heaviest = sorted(weighed, key=lambda i: -int(order.lengths[order[i]].sum()))[: EXACT // 10]
    evenly = weighed[:: -(-len(weighed) // EXACT)]
    return sorted({*evenly, *heaviest})


def _shapes(
    items: Mapping[str, Items], order: Order, steps: int, parts: int, data: config.Data, model: Model
) -> list[BatchShape]:
    """The batch shapes of the run: those that its batches need, wide enough for the longest item of any split."""
    longest = max(int(part.lengths.max()) for part in items.values())
    batches = [order.lengths[order[i]] for i in _typical(order, steps)]
    width = model.facts.width
    compiling = COMPILATION / width**2 * len(batches) / steps
    cost = packing.Cost(lambda rows, length: rows * length * (1 + length / (6 * width)), compiling)
    return packing.plan(
        batches,
        longest=longest,
        packing=data.packing != "off",
        rows_multiple=parts,
        count=data.shapes,
        cost=cost,
        most=max(part.most for part in items.values()),
    )


def check_length(experiment: config.Experiment, composed: Program) -> None:
    """Makes sure that the model has positions for an example and for what a method puts before it.

    Raises:
      UserError: it has not.
    """
    before, length = composed.adaptation.positions, experiment.data.max_length
    if before + length > (there := composed.model.facts.longest):
        raise UserError(
            f"config.{experiment.adapt}.length is {before} and config.data.max_length {length}, together more than the "
            f"model's {there} positions; make one of them smaller"
        )


def check_features(features: Features, model: Model, max_length: int) -> None:
    """Makes sure that the step can take examples as a table makes them.

    Raises:
      UserError: one has no tokens, as the tokenizer of a decoder may make none; or more than `max_length`, which the
        step counts on; or a type of token, as that of a second text, that the model has no row for: the lookup would
        give another's, and PyTorch's would fail.
    """
    longest = int(features.lengths.max(initial=0))
    if longest > max_length:
        raise UserError(
            f"features: an example has {longest} tokens, more than config.data.max_length {max_length}; the task's "
            "`features` must cut it, or make it several"
        )
    if not features.lengths.all():
        row = features.bounds.searchsorted(np.argmin(features.lengths), "right") - 1
        raise UserError(
            f"features: row {row} (from 0) has no tokens: the tokenizer makes none of its text, and puts none around "
            "it; leave it out"
        )
    highest = int(features.tokens["token_type_ids"].max(initial=0))
    there = model.facts.segment_types
    if there and highest >= there:
        raise UserError(
            f"the tokenizer gives the token type {highest}, as to the second text of a pair, but the model has only "
            f"{there} (type_vocab_size in its config.json); take the tokenizer that belongs to the weights, or join "
            "the texts in one column"
        )


def check_metric(job: Job) -> None:
    """Makes sure, before the first step, that validation has the metric that is to select the best checkpoint.

    Which metrics there are depends on the data (F1 needs two classes): random outputs tell.

    Raises:
      UserError: it has not.
    """
    metric = job.experiment.train.metric
    if metric in ("", "loss", job.table.metric) or "validation" not in job.features:
        return
    features, shape = job.features["validation"], job.shapes[-1]
    weights = program.weights(job.program.state)
    abstract = jax.eval_shape(job.program.eval_step, weights, job.program.abstract_batch(shape)).outputs
    sizes = {"example": len(features), "token": int(features.offsets[-1])}
    rng = np.random.default_rng(0)
    outputs = {
        name: rng.normal(size=(sizes[kind], *abstract[name].shape[2:])).astype(abstract[name].dtype)
        for name, kind in job.task.outputs.items()
    }
    known = job.table.metrics(outputs, features, job.splits["validation"])
    if metric not in known:
        hint = nearest(metric, ["loss", *(name for name in known if "/" not in name)])
        raise UserError(f"config.train.metric is {metric!r}, but validation has no such metric; {hint}")
