"""--mode=evaluate: of a run that is there."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jaxft.data import rows, sources
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.generate import rows as generated
from jaxft.generate.options import check_bounds
from jaxft.generate.settings import settled
from jaxft.job import prepare
from jaxft.metrics import own, texts
from jaxft.metrics.own import Metric
from jaxft.modes.shared import compiled_evaluation, measure
from jaxft.predict.predictor import JAX, Predictor
from jaxft.predict.reference import referred
from jaxft.storage import paths
from jaxft.storage.workdir import Workdir
from jaxft.sure import bootstrap
from jaxft.sure.groups import of_groups, rows_of
from jaxft.trained import as_computed, best_weights, calibrated, thresholds


def evaluate(
    workdir: str | Path,
    data: Mapping[str, rows.Rows] | None = None,
    inputs: str | Path = "",
    engine: str = JAX,
    runs: Sequence[str | Path] = (),
    intervals: float = 0.0,
    groups: str = "",
    writing: Mapping[str, Any] | None = None,
    reference: str = "",
    metric: str | Metric = "",
) -> dict[str, float]:
    """Measures the best parameters of a finished or interrupted run on its validation and test splits, or on a file.

    Args:
      data: the rows in memory that it was trained on, where it was; see `jaxft.modes.train`.
      inputs: a labelled file of any format that the run's task reads, instead of the run's own splits. Its metrics are
        also written into `evaluations/` of the workdir.
      engine, runs: what computes the answers to a file, and what answers with it; see `Predictor.open`.
      intervals: the level of confidence intervals, of the test split's metrics or of the file's; 0: there are none.
      groups: a column of the test split or of the file; each of its values is measured by itself too, see
        `jaxft.sure.groups`.
      writing, reference: of a language model and a file: how its texts are continued, as in `jaxft.modes.predict`, and
        the column of what they should be continued with; see `jaxft.metrics.texts.measured`.
      metric: of the user's own, of such texts, or its name, MODULE:FUNCTION; see `jaxft.metrics.own`.

    Returns:
      `SPLIT/METRIC` -> value, of a file `input/METRIC`; and `METRIC_low` and `METRIC_high`, see
      `jaxft.sure.bootstrap.of_metrics`. Of a group `SPLIT[COLUMN=VALUE]/METRIC`.

    Raises:
      UserError: there is no such run, file, level or column, or a row or a label of it cannot be used.
    """
    from jaxft.report import tables as shown

    bootstrap.check(intervals)
    check_writing(inputs, writing, reference, metric)
    measuring = None if not metric else own.load(metric) if isinstance(metric, str) else metric
    if inputs:
        if data is not None:
            raise UserError("data and inputs are both given; leave one of them out")
        continued = None if writing is None else Continued(writing, reference, measuring)
        return _evaluate_file(Workdir(workdir), str(inputs), engine, runs, intervals, groups, continued)
    if engine != JAX:
        raise UserError(f"--engine={engine} measures a file; give one by --input")
    if runs:
        raise UserError("--runs measures a file; give one by --input")
    folder = Workdir(workdir)
    experiment, given = rows.given(as_computed(folder), data)
    job = prepare(experiment, given=given)
    if (intervals or groups) and "test" not in job.features:
        flag = "groups" if groups else "intervals"
        raise UserError(f"--evaluate.{flag} is of a test split, and {folder} has none; give a labelled file by --input")
    if groups:
        rows_of(job.splits["test"], groups)  # before anything is computed
    job = referred(job, folder.experiment().compute.frozen)
    weights, _ = best_weights(folder, job.program, job.body.directory)
    if export := folder.exported():
        job = dataclasses.replace(job, table=calibrated(job.table, export, JAX))
    step = compiled_evaluation(job)
    results = {}
    for split in (name for name in ("validation", "test") if name in job.features):
        values, found = measure(job, step, split, weights)
        job = dataclasses.replace(job, table=job.table.decide(thresholds(values)))
        parts = {}
        if split == "test":
            labelled = bootstrap.Labelled(job.splits[split], job.features[split], job.task.outputs, found.outputs)
            if intervals:
                values |= distributed.once(partial(bootstrap.of_metrics, job.table, labelled, intervals))
            if groups:
                parts = distributed.once(partial(of_groups, job.table, labelled, groups, intervals))
        results |= {f"{split}/{k}": v for k, v in values.items()}
        names = job.table.plots(found.outputs, job.features[split], job.splits[split]).get("names", ())
        say(shown.metrics_table(results, split, names))
        results |= _of_groups(parts, split, groups, job.table.metric)
    return results


def _of_groups(parts: Mapping[str, Mapping[str, float]], split: str, column: str, metric: str) -> dict[str, float]:
    """Says how each group of a split does by the main metric, and returns all metrics as results have them."""
    from jaxft.report import tables as shown

    if parts:
        say(shown.groups_table(parts, column, metric))
    return {f"{split}[{column}={value}]/{k}": v for value, found in parts.items() for k, v in found.items()}


class Continued(NamedTuple):
    """How texts of a file are continued and measured; see `evaluate`."""

    writing: Mapping[str, Any]
    reference: str
    metric: Metric | None

    def compared(self, predictor: Predictor, split: sources.Split) -> tuple[list[str], list[str]]:
        """Returns what is written, and what should be."""
        return generated.compared(predictor, split, settled(self.writing, predictor.directory), self.reference)

    def measured(self, written: list[str], asked: list[str], others: Collection[str]) -> dict[str, float]:
        """Returns what metrics of texts say, beside other metrics of these names."""
        found = texts.measured(written, asked)
        return found | (own.measured(self.metric, written, asked, {*others, *found}) if self.metric else {})


def check_writing(inputs: str | Path, writing: Mapping[str, Any] | None, reference: str, metric: str | Metric) -> None:
    """Makes sure that texts that are written can be measured.

    Raises:
      UserError: there is no file of them, or nothing is written.
    """
    if writing is not None and not inputs:
        raise UserError("--generate.max_new_tokens has texts of a file continued and measured; give --input")
    if metric and writing is None:
        raise UserError("--generate.metric measures what is written; give --generate.max_new_tokens too")
    if reference and writing is None:
        raise UserError("--generate.reference is held against what is written; give --generate.max_new_tokens too")
    if writing is not None and writing.get("answers", 1) > 1:
        raise UserError("generate.answers: one answer to each text is measured; leave it out")
    check_bounds(writing or {})


def _evaluate_file(
    folder: Workdir,
    inputs: str,
    engine: str,
    runs: Sequence[str | Path],
    intervals: float,
    groups: str,
    continued: Continued | None,
) -> dict[str, float]:
    """Measures a file, says what was found, and writes it into the workdir."""
    from jaxft.report import tables as shown

    file = paths.file_of("--input", inputs)
    experiment = folder.experiment()  # there is one: Predictor would take the directory of a model too
    split = sources.read_input(str(file), experiment.data)
    if groups:
        rows_of(split, groups)
    predictor = Predictor.open(str(folder), engine=engine, runs=runs)
    both = continued and continued.compared(predictor, split)
    found = predictor.evaluate(split, intervals, groups)
    metrics = dict(found.metrics)
    if continued and both:
        metrics |= continued.measured(*both, metrics)
    for line in found.notes:
        say(line)
    results = {f"input/{name}": value for name, value in metrics.items()}
    say(f"{file}: {found.rows:,} of {found.read:,} rows")
    say(shown.metrics_table(results, "input", found.classes))
    results |= _of_groups(found.groups, "input", groups, predictor.table.metric)
    others = {"runs": [str(run) for run in runs]} if runs else {}
    written = distributed.once(lambda: folder.write_evaluation(file, {"rows": found.rows, **others, **results}))
    say(f"metrics: {written}")
    return results
