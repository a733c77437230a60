"""Which training examples taught an answer: TracIn over the checkpoints of a run (Pruthi et al. 2020, section 3.2).

A step of gradient descent on a training example z, at the learning rate a, changes f, the log probability of a label of
a row, of a word's tag or of an answer's end (of a score, the score), by

  -a df/dw . dloss(z)/dw

to first order. The influence of z is the sum of that over the checkpoints, of all parameters that learn, with the mean
learning rate of the steps from the checkpoint before. It takes no gradient of each example: df/dw . dloss(z)/dw is the
derivative of the loss of z along df/dw, which one pass in forward mode has for all examples that share a row. A row of
the table that is read in windows has the sum of theirs.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config, program
from jaxft.batch import Target
from jaxft.data.batches import Feed
from jaxft.data.features import Features
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.explain.targets import ENDS, Aim
from jaxft.explain.units import Reading
from jaxft.job import Job, prepare
from jaxft.models import nn
from jaxft.predict.ensemble import EnsembleEngine
from jaxft.predict.predictor import Predictor
from jaxft.predict.shapes import shape_for
from jaxft.storage.workdir import Workdir
from jaxft.sure.groups import said, truths
from jaxft.tasks import Task
from jaxft.tasks.question_answering import position_loss
from jaxft.train.evaluate import collect
from jaxft.train.optimizer import make_schedule
from jaxft.trained import kept_weights
from jaxft.types import Array, Batch, Float, Outputs, Params

AIM = {"aim": Target("example", np.int32), "token": Target("example", np.int32)}
"""What is read of a batch of rows that are explained, beside tokens: which logits are asked for, and of which token."""

Options = config.SequenceClassification | config.TokenClassification | config.QuestionAnswering
"""Options of the tasks whose answers are told what taught them."""

Weights = tuple[Params, Params]

Asked = Sequence[tuple[Reading, Aim]]


@dataclasses.dataclass(frozen=True)
class Example:
    """A row that was learned from.

    Attributes:
      where: its file and number.
      row: its texts by column.
      label: what is true of it, in words.
      influence: by how much steps on it, at the rates of the run, raise the log probability of what is explained.
    """

    where: str
    row: dict[str, str]
    label: str
    influence: float


@dataclasses.dataclass(frozen=True)
class Taught:
    """The training rows that speak most for a target, the strongest first, then those against it, the strongest last.

    Attributes:
      checkpoints: how many there were.
    """

    examples: list[Example]
    checkpoints: int


def make_direction(composed: program.Program) -> Callable[[Weights, Batch], Params]:
    """Returns the jitted function `(weights, batch of one row with AIM) -> df/dw`."""

    def direction(weights: Weights, batch: Batch) -> Params:
        inputs = {name: x for name, x in batch.items() if name not in AIM}

        def asked(trainable: Params) -> Array:
            outputs = composed.forward((trainable, weights[1]), inputs, program.unchanged)
            return asked_of(outputs, batch, composed.task.options)

        return jax.grad(asked)(weights[0])

    places = jax.tree.map(lambda x: x.sharding, (composed.state.trainable, composed.state.frozen))
    return jax.jit(direction, in_shardings=(places, composed.batch_sharding), out_shardings=places[0])


def asked_of(outputs: Outputs, batch: Batch, options: Options) -> Array:
    """Returns what is explained of a batch of one row with AIM, `[]`: log probabilities, or the score."""
    if isinstance(options, config.QuestionAnswering):
        ends = [-position_loss(outputs[f"{end}_logits"], batch["token"], batch)[0] for end in ENDS]
        return (jnp.stack(ends) * (batch["aim"].sum() == jnp.arange(len(ENDS)))).sum()
    logits = outputs["logits"]
    if isinstance(options, config.TokenClassification):
        logits = nn.pick(logits, batch["starts"] + batch["token"])
    chances = log_probabilities(logits, options)
    return (jnp.take_along_axis(chances, batch["aim"][..., None], -1)[..., 0] * batch["weights"]).sum()


def log_probabilities(logits: Array, options: config.SequenceClassification | config.TokenClassification) -> Array:
    """Returns the log probability of each label, `[..., labels]`; of a score, the score itself."""
    if options.problem == "multi_label":
        return jax.nn.log_sigmoid(logits)
    return jax.nn.log_softmax(logits) if options.labels else logits


def make_gains(composed: program.Program) -> Callable[[tuple[Weights, Params], Batch], dict[str, Array]]:
    """Returns the jitted function `((weights, df/dw), batch) -> {"gain": -df/dw . dloss/dw of each example}`."""

    def gains(given: tuple[Weights, Params], batch: Batch) -> dict[str, Array]:
        (trainable, frozen), along = given

        def losses(trainable: Params) -> Array:
            return losses_of(composed.task, composed.forward((trainable, frozen), batch, program.unchanged), batch)

        return {"gain": -jax.jvp(losses, (trainable,), (along,))[1]}

    places = jax.tree.map(lambda x: x.sharding, (composed.state.trainable, composed.state.frozen))
    given = (places, places[0]), composed.batch_sharding
    return jax.jit(gains, in_shardings=given)


def losses_of(task: Task, outputs: Outputs, batch: Batch) -> Float[Array, "rows slots"]:
    """Returns the loss of each example of a batch, 0 in empty slots: that of the batch where no other one counts."""
    per_token = {name: target.fill for name, target in task.targets.items() if target.per == "token"}

    def of_slot(outputs: Outputs, row: Batch, slot: Array) -> Array:
        own = row["segment_ids"] == slot + 1
        alone = {name: jnp.where(own, row[name], fill) for name, fill in per_token.items()}
        alone["weights"] = row["weights"] * (jnp.arange(len(row["weights"])) == slot)
        of_one = lambda parts: {name: x[None] for name, x in parts.items()}  # noqa: E731
        return task.loss(of_one(outputs), of_one({**row, **alone}))[0]

    slots = jnp.arange(batch["weights"].shape[1])
    of_row = jax.vmap(of_slot, in_axes=(None, None, 0))
    return jax.vmap(of_row, in_axes=(0, 0, None))(dict(outputs), dict(batch), slots)


def of_rows(job: Job, checkpoints: Iterator[tuple[int, Weights]], asked: Asked) -> tuple[np.ndarray, int]:
    """Returns the influence of each training row on each target, `[targets, rows]`, and the number of checkpoints.

    Args:
      checkpoints: their steps, ascending, and weights.
    """
    composed, feed = job.program, job.feed("train")
    row_of, rows = feed.features.examples.get("row", np.arange(len(feed.features))), job.splits["train"].table.num_rows
    direction, gains = make_direction(composed), make_gains(composed)
    schedule = make_schedule(job.experiment.optimizer.schedule, job.experiment.optimizer)
    found, before, count = np.zeros((len(asked), rows)), 0, 0
    for step, weights in checkpoints:
        rate = float(np.mean(schedule(jnp.arange(before, step), composed.numbers)))
        for number, (reading, aim) in enumerate(asked):
            along = direction(weights, _alone(job, reading, aim))
            step_of = lambda weights, batch, along=along: (gains((weights, along), batch), None)  # noqa: E731
            gain = collect(step_of, weights, feed, {"gain": "example"})[0]["gain"].astype(np.float64)
            found[number] += rate * np.bincount(row_of, gain, minlength=rows)
        before, count = step, count + 1
    return found, count


def _alone(job: Job, reading: Reading, aim: Aim) -> Batch:
    """A batch of one row, and which logits are asked for."""
    tokens = {"input_ids": reading.ids, "token_type_ids": reading.types}
    asked = {"aim": np.asarray([aim.entry], np.int32), "token": np.asarray([aim.token], np.int32)}
    features = Features(np.asarray([0, len(reading.ids)]), tokens, asked)
    shape = shape_for(features.items(False), job.experiment, job.program.row_shards)
    return next(Feed(features, AIM, [shape], job.program.batch_sharding).all())[1]


def strongest(influence: np.ndarray, count: int) -> np.ndarray:
    """Returns so many rows of the largest influence above zero, and so many of the smallest below, the largest first.

    Args:
      influence: `[rows]`.
    """
    order = np.argsort(-influence, kind="stable")
    above, below = order[influence[order] > 0][:count], order[influence[order] < 0][-count:]
    return np.concatenate([above, below])


def taught(
    predictor: Predictor, readings: Sequence[Reading], aims: Sequence[Sequence[Aim]], count: int
) -> list[list[Taught]]:
    """Returns of each row and target the training rows that speak most for it and against it, so many of each.

    Raises:
      UserError: as `run_of`; the data are not there any more, or are others; or there is no checkpoint.
    """
    run = run_of(predictor)
    job = _job(run)
    asked = [(reading, aim) for reading, wanted in zip(readings, aims, strict=True) for aim in wanted]
    rows = job.splits["train"].table.num_rows
    say(f"training rows that taught {len(asked):,} answers: each reads all {rows:,} a checkpoint")
    influence, checkpoints = of_rows(job, _checkpoints(run, job), asked)
    if not checkpoints:
        raise UserError(
            f"explain.examples: {run} holds no checkpoint, which tells what an example taught; leave it out"
        )
    each = iter(influence)
    return [[Taught(_shown(job, next(each), count), checkpoints) for _ in wanted] for wanted in aims]


def _checkpoints(run: Workdir, job: Job) -> Iterator[tuple[int, Weights]]:
    """Those of the run, as `of_rows` takes them, which has to have learned from the rows of the job."""
    told = job.experiment.objective.teacher  # then what teachers said is part of the data's fingerprint
    origin = {} if told else {"data": job.origin["data"]}
    return kept_weights(run, job.program, job.body.directory, origin)


def _shown(job: Job, influence: np.ndarray, count: int) -> list[Example]:
    """The rows of the strongest influence, `[rows]`, as `Taught` has them."""
    chosen = strongest(influence, count)
    rows = job.splits["train"].take(chosen)
    texts = rows.table.select(list(job.table.inputs)).to_pylist()
    texts = [{name: said(text, " ") for name, text in row.items()} for row in texts]
    each = zip(texts, truths(job.table.options, rows), influence[chosen], strict=True)
    return [Example(rows.where(n), row, label, float(x)) for n, (row, label, x) in enumerate(each)]


def run_of(predictor: Predictor) -> Workdir:
    """Returns the run whose checkpoints say what an example taught.

    Raises:
      UserError: there is none, or its loss is no sum over texts.
    """
    options = predictor.table.options
    if not isinstance(options, Options):
        raise UserError(
            f"explain.examples: the model's task is {type(options).__name__}; which training rows taught an answer is "
            "told of SequenceClassification, TokenClassification and QuestionAnswering; leave it out"
        )
    if predictor.run is None or isinstance(predictor.engine, EnsembleEngine):
        raise UserError("explain.examples needs the checkpoints and the data of one run; give its --workdir alone")
    if jax.process_count() > 1:
        raise UserError("explain.examples is for one process; start it with --processes=1")
    return predictor.run


def _job(run: Workdir) -> Job:
    """The run as it was trained, but computed by operations that forward mode goes through, on a plain mesh.

    Raises:
      UserError: its parameters that do not learn are kept as codes, which it does not go through.
    """
    experiment = run.experiment()
    if experiment.compute.frozen in ("int8", "nf4"):
        raise UserError(
            f"explain.examples: the run keeps what does not learn as {experiment.compute.frozen}, of which there are "
            "no derivatives in forward mode; leave it out"
        )
    compute = dataclasses.replace(experiment.compute, attention="xla")
    return prepare(dataclasses.replace(experiment, mesh=config.Mesh(), compute=compute))
