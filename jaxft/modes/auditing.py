"""--mode=audit: a page by which to read a trained model: how good, how sure, where it is wrong, and on what rows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxft import config
from jaxft.audit import duplicates, page, slices
from jaxft.audit.page import Audit, Duplicate, Mistake
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.explain.explainer import explained
from jaxft.explain.options import Options
from jaxft.metrics.probabilities import softmax
from jaxft.modes import measured
from jaxft.modes.explaining import PAGE
from jaxft.modes.predicting import opened
from jaxft.predict.predictor import Predictor, run_in
from jaxft.sure import bootstrap, groups
from jaxft.sure.bootstrap import Labelled
from jaxft.sure.calibration import Calibration, figures
from jaxft.tables import Table
from jaxft.tables.sequence_classification import SequenceClassification

SURES = 20
"""Mistakes that are shown with their words."""

LABELS = ("label", "tags", "answers", "score")
"""Keys of a task that name the column of what is true."""


def audit(workdir: str, inputs: str = "", output: str = "", crossfit: str = "") -> dict[str, Any]:
    """Measures a trained model on labelled rows, looks for what speaks against it, and writes a page.

    Args:
      workdir: of a run, or the directory of a trained model.
      inputs: a labelled file; empty: the run's test split, or else its validation split.
      output: FILE.html or FILE.json, written whole or not at all; empty: report/audit.html of the run.
      crossfit: the folder of a `--mode=crossfit`, whose doubtful labels the page has; empty: none.

    Returns:
      What `jaxft.audit.page.Audit` holds, as JSON values.

    Raises:
      UserError: a model, a file or a folder that cannot be used, or an output that cannot be written.
    """
    file = checked_output(output, workdir)
    if jax.process_count() > 1:
        raise UserError("--mode=audit is for one process; start it with --processes=1")
    doubtful = doubtful_rows(crossfit)
    predictor = Predictor.open(workdir)
    known, split, notes = rows_of(workdir, inputs, predictor.experiment, predictor.table)
    table = predictor.table.decide(predictor.table.undecided())
    features, outcome = predictor.measured(split)
    labelled = Labelled(split, features, predictor.engine.task.outputs, outcome.outputs)
    answers = list(table.predictions(outcome.outputs, features, split))
    errors = table.errors(outcome.outputs, features, split)
    wrong = errors if errors is not None and errors.dtype == bool else None
    if wrong is None:
        notes.append("Answers are not wrong or right: there are no surest mistakes and no slices.")
    mistaken = [] if wrong is None else mistakes(table, split, answers, wrong)
    kinds = {} if wrong is None else slices.kinds(split, table.inputs, said_of(answers))
    sure, diagrams = how_sure(table, labelled)
    found = Audit(
        rows=split.table.num_rows,
        level=bootstrap.LEVEL,
        metrics={"loss": outcome.loss, **measures(table, labelled)},
        sure=sure,
        diagrams=diagrams,
        mistakes=_explained(predictor, split, mistaken, notes),
        wrong=None if wrong is None else int(wrong.sum()),
        slices=[] if wrong is None else slices.tested(kinds, wrong),
        duplicates=twins(table, split, known) if known else [],
        doubtful=doubtful,
        notes=notes,
    )
    return _written(found, file, workdir.rstrip("/"), split.origin)


def checked_output(output: str, workdir: str) -> str:
    """Returns the file that is to be written.

    Raises:
      UserError: it is neither a page nor JSON, or there is no place for a page that has no name.
    """
    if not output:
        report = Path(workdir).expanduser() / "report"
        if "://" in workdir or not report.is_dir():
            raise UserError(f"--output is missing: {workdir} has no report/ for a page; give FILE.html or FILE.json")
        return str(report / "audit.html")
    if Path(output).suffix.lower() not in (*PAGE, ".json"):
        raise UserError(f"--output {output}: a page is FILE.html, numbers are FILE.json; choose one of the two")
    return output


def doubtful_rows(folder: str) -> list[dict[str, Any]]:
    """Returns the lines of a crossfit's doubtful.jsonl; without a folder none.

    Raises:
      UserError: the folder is not that of a crossfit which is finished.
    """
    if not folder:
        return []
    file = Path(folder).expanduser() / "doubtful.jsonl"
    if not file.is_file() or not file.with_name("crossfit.json").is_file():
        raise UserError(f"--audit.crossfit: {folder} holds no finished --mode=crossfit; give the --workdir of one")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def rows_of(
    workdir: str, inputs: str, experiment: config.Experiment, table: Table
) -> tuple[Split | None, Split, list[str]]:
    """Returns what was learned from, None: that is not known; what is measured; and what there is to say of them.

    Raises:
      UserError: there are no rows to measure, or they cannot be used.
    """
    file = measured.of_file(inputs, experiment, table) if inputs else None
    if not run_in(workdir):
        if file is None:
            raise UserError(f"--input is missing: {workdir} is no run, whose data could be used; give a labelled file")
        return None, file, ["Near duplicates were not looked for: of a model's directory no training data are known."]
    try:
        made = measured.of_run(experiment, table)
    except UserError as error:
        if file is None:
            raise
        return None, file, [f"Near duplicates were not looked for: {error}"]
    if file is not None or "test" in made:
        return made["train"], file or made["test"], []
    note = "There is no test split: these are the rows by which the best checkpoint was chosen."
    return made["train"], measured.validation(workdir, made), [note]


def measures(table: Table, labelled: Labelled) -> dict[str, float]:
    """Returns the metrics over all classes, with their intervals where the task has such."""
    found = labelled.metrics(table)
    if table.apart:
        found |= bootstrap.of_metrics(table, labelled, bootstrap.LEVEL)
    return {name: value for name, value in found.items() if "/" not in name}


def how_sure(table: Table, labelled: Labelled) -> tuple[dict[str, float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Returns figures of the probabilities, and of classes what diagrams are drawn of, without a calibration and with.

    Of tasks that cannot be calibrated, and of scores, there are none.
    """
    if not isinstance(table, SequenceClassification) or not table.options.labels:
        return {}, {}
    problem = table.options.problem
    logits, labels = table.rows(labelled.outputs, labelled.features)
    found = figures(table.calibration or Calibration(problem), logits, labels)
    if problem != "single_label":
        return found, {}
    if not table.calibration:
        return found, {"As the model gives them; --mode=calibrate may mend it": (labels, softmax(logits.astype(float)))}
    return found, {
        "Without the calibration": (labels, softmax(logits.astype(float))),
        f"As answers are: {table.calibration.line()}": (labels, table.probabilities(logits)),
    }


def said_of(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the predictions where they are names; else nothing."""
    listed = [answer.get("prediction") for answer in answers]
    return [str(one) for one in listed] if all(isinstance(one, str) for one in listed) else []


def mistakes(
    table: Table, split: Split, answers: Sequence[Mapping[str, Any]], wrong: np.ndarray
) -> list[tuple[int, Mistake]]:
    """Returns the wrong answers of the highest probability, the surest first, each with the number of its row.

    Of answers without a probability of their own there are none.
    """
    rows = [row for row in map(int, np.flatnonzero(wrong)) if "probability" in answers[row]]
    rows.sort(key=lambda row: -answers[row]["probability"])
    given = truths(table.options, split)
    columns = [name for name in table.inputs if name in split.table.column_names]
    found = []
    for row in rows[:SURES]:
        texts = {name: groups.said(split.table[name][row].as_py()) for name in columns}
        answer = answers[row]
        shown = groups.said(answer.get("choice", answer["prediction"]))
        found.append((row, Mistake(split.where(row), texts, given[row], shown, answer["probability"])))
    return found


def truths(options: Any, split: Split) -> list[str]:
    """Returns what is true of each row, in words."""
    names = [getattr(options, key) for key in LABELS if getattr(options, key, "") in split.table.column_names]
    if not names:
        return [""] * split.table.num_rows
    return [groups.said(value) for value in split.table[names[0]].to_pylist()]


def _explained(
    predictor: Predictor, split: Split, found: Sequence[tuple[int, Mistake]], notes: list[str]
) -> list[Mistake]:
    """The mistakes with their words, of texts that can be explained; adds a note where they cannot."""
    listed, options = [one for _, one in found], predictor.table.options
    if not found or not isinstance(options, config.SequenceClassification):
        return listed
    rows = split.take(np.asarray([row for row, _ in found]))
    try:
        why = list(explained(predictor, rows, Options().check()))
    except UserError as error:
        notes.append(f"Words of the mistakes were not explained: {error}")
        return listed
    return [one._replace(why=reason) for one, reason in zip(listed, why, strict=True)]


def twins(table: Table, split: Split, known: Split) -> list[Duplicate]:
    """Returns the rows of a split that are near duplicates of known ones, the most alike first."""
    texts, others = (_joined(table, one) for one in (split, known))
    labels, known_labels = (truths(table.options, one) for one in (split, known))
    return [
        Duplicate(
            twin.similarity,
            split.where(twin.row),
            texts[twin.row],
            labels[twin.row],
            known.where(twin.other),
            others[twin.other],
            known_labels[twin.other],
        )
        for twin in duplicates.near(texts, others)
    ]


def _joined(table: Table, split: Split) -> list[str]:
    columns = [split.table[name].to_pylist() for name in table.inputs if name in split.table.column_names]
    return [" | ".join(groups.said(value) for value in row) for row in zip(*columns, strict=True)]


def _written(found: Audit, file: str, name: str, origin: str) -> dict[str, Any]:
    """Writes what was found, says it in a few lines, and returns it."""
    values = found.to_json()
    with opened(file) as out:
        if Path(file).suffix.lower() in PAGE:
            out.write(page.made(found, name, origin))
        else:
            out.write(json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n")
    worse = [one for one in found.slices if one.corrected < page.RISK]
    for line in found.notes:
        say(line)
    say(
        f"{origin}: {found.rows:,} rows; {len(worse):,} of {len(found.slices):,} slices are worse than chance gives, "
        f"{len(found.duplicates):,} rows are near duplicates of training data"
    )
    for one in worse[:5]:
        say(f"  {one.name}: {one.wrong:,} of {one.rows:,} wrong (corrected p {one.corrected:.2g})")
    say(f"audit: {file}")
    return values
