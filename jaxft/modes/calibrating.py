"""--mode=calibrate: the answers of a trained model say how sure they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft import config
from jaxft.data.sources import Split
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.modes import measured
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import JAX, Predictor, run_in
from jaxft.predict.vectors import with_vectors
from jaxft.report.tables import grid, number
from jaxft.storage.workdir import Workdir
from jaxft.sure import distance as distances
from jaxft.sure import kept
from jaxft.sure.calibration import SHARES, Calibration, check, figures, fit
from jaxft.tables.labels import ids
from jaxft.tables.sequence_classification import SequenceClassification


def calibrate(
    workdir: str, inputs: str = "", coverage: float = 0.0, sets: str = "", engine: str = JAX, distance: bool = False
) -> dict[str, dict[str, float]]:
    """Fits a calibration on labelled rows, and writes it beside the model, whose answers have it from then on.

    Args:
      workdir: of a run, or the directory of a trained model.
      inputs: a labelled file; empty: the run's validation split; it is then measured on the test split too.
      coverage, sets: see `jaxft.sure.calibration.Calibration`.
      engine: whose answers are calibrated, see `Predictor.open`; "onnx" has the calibration of "jax".
      distance: whether answers are to say how far a text is from the run's training rows; see `jaxft.sure.distance`.

    Returns:
      Of each split what `jaxft.sure.calibration.figures` measures.

    Raises:
      UserError: a model or rows that cannot be calibrated, and why.
    """
    folder = run_in(workdir)
    directory = _directory(folder, workdir)
    predictor = Predictor.open(workdir, engine=engine)
    table = predictor.table
    if not isinstance(table, SequenceClassification):
        raise UserError(
            f"the model's task is {type(table.options).__name__}; what can be calibrated is SequenceClassification: a "
            "class, labels or a score of a text or of two"
        )
    problem = table.options.problem
    check(problem, coverage, sets)
    known = _known(folder, predictor) if distance else None
    splits = _splits(folder, workdir, inputs, predictor)
    outputs = {}
    for name, split in splits.items():
        features, found = predictor.measured(split)
        outputs[name] = table.rows(found.outputs, features)
    first = next(iter(splits))
    rows = f"{splits[first].origin} ({splits[first].table.num_rows:,} rows)"

    def fitted() -> dict[str, dict[str, float]]:
        calibration = fit(problem, *outputs[first], coverage=coverage, sets=sets)
        values = {name: figures(calibration, *both) for name, both in outputs.items()}
        written = kept.write(directory, engine, calibration, {"fitted_on": rows, "measured": values})
        say(_report(calibration, rows, values))
        say(f"calibration: {written}")
        if known:
            say(f"distance: {_write_distance(directory, predictor, known, splits[first])}")
        if folder:
            folder.publish("export")
        return values

    return distributed.once(fitted)  # by one process, as rounding may differ on their machines


def _directory(folder: Workdir | None, workdir: str) -> Path:
    """The directory of the model, beside which the calibration is kept."""
    if folder:
        folder.experiment()  # there is a run
        if not (exported := folder.exported()):
            raise UserError(f"{folder} has no export/, beside whose weights a calibration is kept; --mode=export first")
        return exported
    directory = Path(workdir).expanduser()
    if not directory.is_dir():
        raise UserError(f"--workdir {workdir} is no folder of this machine; give that of a run, or of a trained model")
    return directory


def _known(folder: Workdir | None, predictor: Predictor) -> Split:
    """The training rows, from which texts may be far.

    Raises:
      UserError: they are not at hand, have no class, or there are no vectors of them.
    """
    options = predictor.table.options
    if folder is None:
        raise UserError("--calibrate.distance is from the training rows of a run; give the --workdir of one")
    if not isinstance(options, config.SequenceClassification) or options.problem != "single_label" or options.windows:
        raise UserError("--calibrate.distance is for a class a text, read without windows; leave it out")
    if not isinstance(predictor.engine, CompiledEngine):
        raise UserError(
            "--calibrate.distance needs the vectors of texts, which a graph does not give; use --engine=jax"
        )
    return measured.of_run(predictor.experiment, predictor.table)["train"]


def _write_distance(directory: Path, predictor: Predictor, known: Split, others: Split) -> Path:
    """Fits the distance from rows that were learned from, held beside others; returns where it is written."""
    assert isinstance(predictor.engine, CompiledEngine)
    engine = with_vectors(predictor.engine)
    vectors = [engine.compute(predictor.tokenized(rows).features)["vectors"] for rows in (known, others)]
    return distances.write(directory, distances.fit(vectors[0], ids(predictor.table.options, known), vectors[1]))


def _splits(folder: Workdir | None, workdir: str, inputs: str, predictor: Predictor) -> dict[str, Split]:
    """The labelled rows, by name: those that are fitted on, then the test split where there is one."""
    experiment, table = predictor.experiment, predictor.table
    if inputs or not folder:
        return {"input": measured.of_model(workdir, bool(folder), inputs, experiment, table)}
    made = measured.of_run(experiment, table)
    test = {"test": made["test"]} if "test" in made else {}
    return {"validation": measured.validation(workdir, made), **test}


COLUMNS = {
    "log_loss": "log loss",
    "ece": "calibration error",
    "covered": "held in sets",
    "size": "size of sets",
    "aurc": "AURC",
}
"""Name of a figure -> what the report calls it."""


def _report(calibration: Calibration, rows: str, values: Mapping[str, Mapping[str, float]]) -> str:
    """What was fitted, and what it brings, as text."""
    table: list[list[Any]] = [["", *values]]
    first = next(iter(values.values()))
    for name, title in COLUMNS.items():
        for key, ending in ((f"{name}_before", " before"), (name, "")):
            if key in first:
                table.append([title + ending, *(number(one[key]) for one in values.values())])
    for share in SHARES:
        if (key := f"error_of_surest/{share:g}") in first:
            table.append([f"errors of the surest {share:.0%}", *(number(one[key]) for one in values.values())])
    return f"fitted on {rows}: {calibration.line()}\n{grid(table)}"
