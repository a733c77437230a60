"""--mode=audit: a page by which to read a trained model: how good, how sure, where it is wrong, and on what rows."""

import json
from pathlib import Path
from typing import Any

import jax

from jaxft import config
from jaxft.audit import card, described, page
from jaxft.audit.exposure import exposures
from jaxft.audit.findings import gathered
from jaxft.audit.found import Audit
from jaxft.data import sources
from jaxft.data.sources import Split
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.explain.explainer import Explained, explained
from jaxft.explain.options import Options
from jaxft.modes import measured
from jaxft.modes.explaining import PAGE
from jaxft.modes.predicting import opened
from jaxft.predict.predictor import Predictor, run_in
from jaxft.storage import paths
from jaxft.sure.bootstrap import Labelled
from jaxft.tables import Table

TOLD = 5
"""Slices that are worse than chance gives, which the command says; the page has them all."""


def audit(workdir: str, inputs: str = "", output: str = "", crossfit: str = "", canaries: str = "") -> dict[str, Any]:
    """Measures a trained model on labelled rows, looks for what speaks against it, and writes a page.

    The model card of a run's export is told the same, in short.

    Args:
      workdir: of a run, or the directory of a trained model.
      inputs: a labelled file; empty: the run's test split, or else its validation split.
      output: FILE.html or FILE.json, written whole or not at all; empty: report/audit.html of the run.
      crossfit: the folder of a `--mode=crossfit`, whose doubtful labels the page has; empty: none.
      canaries: a file of texts whose exposure the page has, see `jaxft.audit.exposure`; empty: none.

    Returns:
      What `jaxft.audit.found.Audit` holds, as JSON values.

    Raises:
      UserError: a model, a file or a folder that cannot be used, or an output that cannot be written.
    """
    file = checked_output(output, workdir)
    if jax.process_count() > 1:
        raise UserError("--mode=audit is for one process; start it with --processes=1")
    doubtful = doubtful_rows(crossfit)
    predictor = Predictor.open(workdir)
    exposed = list(exposures(predictor, read_canaries(canaries, predictor))) if canaries else []
    known, split, notes = rows_of(workdir, inputs, predictor.experiment, predictor.table)
    table = predictor.table.decide(predictor.table.undecided())
    features, outcome = predictor.measured(split)
    labelled = Labelled(split, features, predictor.engine.task.outputs, outcome.outputs)

    def why(rows: Split) -> list[Explained]:
        return list(explained(predictor, rows, Options().check()))

    can = isinstance(table.options, config.SequenceClassification)
    found = gathered(table, labelled, outcome.loss, known, why if can else None, notes)
    with predictor.tokenizer() as tokenizer:
        unknown = tokenizer.unk_token_id
    limits = predictor.experiment.data.max_length, -1 if unknown is None else unknown
    data = described.lines(table.options, table.inputs, split, features, known, limits)
    found = found._replace(doubtful=doubtful, exposures=exposed, data=data)
    values = written(found, file, workdir.rstrip("/"), split.origin)
    if run_in(workdir) and (there := card.of_run(workdir)):
        tell(there, card.section(found, split.origin))
    return values


def tell(file: Path, section: str) -> None:
    """Puts a section into a model card, whole or not at all."""
    text = card.with_section(file.read_text(encoding="utf-8"), section)
    with opened(str(file)) as out:
        out.write(text)
    say(f"model card: {file}, {card.HEADING.removeprefix('## ')}")


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


def read_canaries(file: str, predictor: Predictor) -> Split:
    """Returns a table of canaries.

    Raises:
      UserError: it cannot be read.
    """
    return sources.read_input(str(paths.file_of("--audit.canaries", file)), predictor.experiment.data)


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


def written(found: Audit, file: str, name: str, origin: str) -> dict[str, Any]:
    """Writes what was found, says it in a few lines, and returns it; arguments as of `audit` and `page.made`."""
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
    for one in worse[:TOLD]:
        say(f"  {one.name}: {one.wrong:,} of {one.rows:,} wrong (corrected p {one.corrected:.2g})")
    for one in sorted(found.exposures, key=lambda one: -one.exposure)[:TOLD]:
        say(f"  {one.where}: rank {one.rank:,} of {one.among:,}, exposure {one.exposure:.1f} bits")
    say(f"audit: {file}")
    return values
