"""--mode=compress: a smaller model, as a Hugging Face directory."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxft import models
from jaxft.data import formats, sources
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.modes import measured, plain
from jaxft.modes.plain import Source
from jaxft.out import prune, record, vocabulary
from jaxft.out.prune import Sized
from jaxft.predict.predictor import require_inputs
from jaxft.report.tables import grid
from jaxft.storage import paths
from jaxft.tables import Table
from jaxft.tasks import Task
from jaxft.trained import thresholds
from jaxft.types import Array, Batch, Params

RECORD = "compress.json"

EXAMPLES = 1024
"""Rows of validation, evenly over it, by which layers and units are chosen; all are measured on."""


class Data(NamedTuple):
    """What a model is made smaller by.

    Attributes:
      validation: labelled rows, as the table reads them; None: there are none.
      corpus: splits whose words are used.
    """

    validation: Split | None
    corpus: list[Split]


def compress(
    workdir: str, output: str, layers: int = 0, inner: int = 0, words: str = "", inputs: str = ""
) -> dict[str, Any]:
    """Writes a smaller model into a new folder, as a Hugging Face directory, and compress.json, what became of it.

    Layers go first, then units of feed-forward nets, then words; each step is measured on validation data.

    Args:
      workdir: of a finished run, or the directory of a trained model.
      output: the folder.
      layers: how many stay; 0: all.
      inner: how many units of each feed-forward net stay; 0: all.
      words: "used": those that the corpus uses stay; empty: all.
      inputs: a file, instead of the run's validation split and of its texts. It needs labels unless words alone go.

    Returns:
      What compress.json holds.

    Raises:
      UserError: nothing is to become smaller, the model cannot, or there are no data to choose by.
    """
    if not (layers or inner or words):
        raise UserError(
            "--mode=compress: nothing is to become smaller; give --compress.layers=N, --compress.inner=N or "
            "--compress.words=used"
        )
    if words not in ("", "used"):
        raise UserError(f"--compress.words is {words!r}; it must be used: the words that the corpus uses")
    if jax.process_count() > 1:
        raise UserError("--mode=compress is for one process; start it with --processes=1")
    target = plain.free(output)
    source = plain.opened(workdir)
    if layers:
        prune.check_layers(source.body.model, layers)
    if inner:
        prune.check_units(source.body.model, inner)
    if words:
        vocabulary.document(source.body.directory)
        vocabulary.generation(source.body.directory)
    data = _data(source, inputs, labelled=bool(layers or inner))
    with tempfile.TemporaryDirectory() as room:
        found, steps = _steps(source, data, (layers, inner, words), Path(room))
        values = {
            "from": source.path,
            "measured_on": data.validation.origin if data.validation else None,
            **found.kept,
            "steps": [step.values() for step in steps],
        }
        _write(target, source, found, steps, values)
    say(grid(record.rows(steps, source.table.metric)))
    say(f"smaller model: {target}")
    return values


class Found(NamedTuple):
    """A smaller model: its sizes and parameters, where its tokenizer is, and what was kept."""

    sized: Sized
    tokenizer: Path
    kept: dict[str, Any]


def _steps(source: Source, data: Data, wanted: tuple[int, int, str], room: Path) -> tuple[Found, list[record.Step]]:
    """Makes the model smaller, and measures it before and after each step."""
    (layers, inner, words), sized, kept = wanted, source.sized, {}
    folder = source.body.directory
    steps = [_measured(source, data, sized, folder, "as it was")]
    batches = _batches(source, data.validation) if data.validation and (layers or inner) else []
    if layers:
        model = source.body.model
        kept["layers"] = prune.least_needed(model, sized, layers, _loss(source.task, batches))
        sized = prune.with_layers(model, sized, kept["layers"])
        steps.append(_measured(source, data, sized, folder, f"{layers} layers"))
    if inner:
        model = models.build(sized.hf)
        scores = prune.importance(source.task, model, sized.params, batches)
        sized = prune.with_units(model, sized, prune.most_important(scores, inner))
        kept["inner"] = inner
        steps.append(_measured(source, data, sized, folder, f"{inner} units"))
    if words:
        model, whole = models.build(sized.hf), vocabulary.document(folder)
        ids = vocabulary.used(folder, _texts(source.table, data.corpus), source.table.words)
        keep = vocabulary.kept(model, [sized.hf, vocabulary.generation(folder)], whole, ids)
        vocabulary.write(folder, room, vocabulary.smaller(whole, keep), keep)
        sized, folder = vocabulary.with_words(model, sized, source.task.param_spec(model), keep), room
        kept["words"] = len(keep)
        steps.append(_measured(source, data, sized, folder, "words in use"))
    if chosen := thresholds(steps[-1].metrics):
        sized = sized._replace(hf=sized.hf | {"thresholds": chosen})
    return Found(sized, folder, kept), steps


def _data(source: Source, inputs: str, labelled: bool) -> Data:
    """What a file has, or else the run's own splits."""
    experiment, table = source.experiment, source.table
    if not inputs and not source.of_run:
        raise UserError(f"--input is missing: {source.path} is no run, whose data could be used; give a file")
    if not inputs:
        made = measured.of_run(experiment, table)
        validation = measured.validation(source.path, made) if labelled else made.get("validation")
        return Data(validation, [made[name] for name in ("train", "validation") if name in made])
    if labelled:
        split = measured.of_file(inputs, experiment, table)
        return Data(split, [split])
    file = str(paths.file_of("--input", inputs))
    if formats.suffix_of(Path(file)) == ".txt":
        encoding = sources.encoding_of(file, otherwise=experiment.data.encoding)
        split = sources.read_lines(file, table.inputs[0], encoding)
    else:
        split = sources.read_input(file, experiment.data)
        require_inputs(split, table)
    blank = sources.blank(split, table.inputs)
    if blank.all():
        raise UserError(f"{split.origin} is empty: its {len(blank):,} rows hold no {table.inputs[0]!r}")
    return Data(None, [table.read(split.take(np.flatnonzero(~blank)), labelled=False)])


def _texts(table: Table, corpus: list[Split]) -> Iterator[Any]:
    """The texts that a table reads of splits, or lists of words where it hands the tokenizer these."""

    def inside(value: Any) -> Iterator[Any]:
        if isinstance(value, str):
            yield [value] if table.words else value
        elif isinstance(value, list) and table.words and all(isinstance(one, str) for one in value):
            yield value
        elif isinstance(value, list):
            for one in value:
                yield from inside(one)

    for split in corpus:
        for column in table.inputs:
            for value in split.table[column].to_pylist():
                yield from inside(value)


def _measured(source: Source, data: Data, sized: Sized, folder: Path, what: str) -> record.Step:
    """The sizes of a model, and what validation says of it, which chooses thresholds too."""
    model = models.build(sized.hf, source.experiment.model.dropout)
    count = sum(x.size for x in nn.flatten(sized.params).values())
    sizes = what, prune.depth(model), prune.width(model), model.facts.vocabulary, count
    if data.validation is None:
        return record.Step(*sizes, {})
    return record.Step(*sizes, plain.measuring(source, data.validation, sized.hf, folder)(sized.params))


def _batches(source: Source, validation: Split) -> list[Batch]:
    """Those that layers and units are chosen by."""
    rows = validation.table.num_rows
    some = validation.take(np.unique(np.linspace(0, rows - 1, min(rows, EXAMPLES)).astype(np.int64)))
    features = plain.features(source, some, source.sized.hf, source.body.directory)
    composed = plain.composed(source.experiment, source.body.model, source.task)
    return [batch for _, batch in plain.feed(source, features, composed).all()]


def _loss(task: Task, batches: list[Batch]) -> Callable[[Sized], float]:
    """The mean loss of a model, compiled once for each of its sizes."""

    @partial(jax.jit, static_argnums=0)
    def sums(model: Model, params: Params, batch: Batch) -> tuple[Array, Array]:
        return task.loss(task.forward(params, model, batch, nn.Run()), batch)

    def loss(sized: Sized) -> float:
        model = models.build(sized.hf)
        total, weight = np.sum(jax.device_get([sums(model, sized.params, batch) for batch in batches]), axis=0)
        return float(total / weight)

    return loss


def _write(target: Path, source: Source, found: Found, steps: list[record.Step], values: Mapping[str, Any]) -> None:
    def card(about: record.About) -> str:
        return record.card(about, record.rows(steps, source.table.metric))

    plain.write(target, source, found.sized, found.tokenizer, {RECORD: dict(values)}, card)
