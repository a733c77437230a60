"""--mode=evaluate --compare: two trained models on the same labelled rows, and which answers differ."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxft import config, tables
from jaxft.data import splits
from jaxft.data.sources import Split
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.modes import measured
from jaxft.modes.explaining import PAGE, checked_suffix
from jaxft.modes.predicting import beside, opened
from jaxft.predict import likeness
from jaxft.predict.predictor import JAX, Predictor, run_in
from jaxft.report import page
from jaxft.report.tables import grid, number, spoken
from jaxft.storage import paths
from jaxft.sure import bootstrap, groups, paired
from jaxft.sure.bootstrap import Labelled
from jaxft.tables.base import TRUTH, true_columns

SHOWN = 100
"""Rows of each kind of change on the page, at most."""

KINDS = {
    "broken": "right by the first model alone",
    "mended": "right by the second model alone",
    "other": "wrong by both, each in its own way",
    "worse": "further from the truth by the second model",
    "better": "nearer to the truth by the second model",
}
"""How an answer of the second model differs -> the same in words."""


ALONE = {"broken": "first", "mended": "second"}
"""Kind of change -> which model alone is right, as `jaxft.sure.paired.McNemar` names it."""


class Reader(NamedTuple):
    """How one of the two models reads labelled rows; `path` is what the user calls it."""

    path: str
    experiment: config.Experiment
    table: tables.Table


class Side(NamedTuple):
    """One of the two models on the rows.

    Attributes:
      table: with its thresholds decided.
      answers: of each row, as `--mode=predict` has them; none where there are no errors.
      errors: see `jaxft.tables.Table.errors`.
    """

    table: tables.Table
    labelled: Labelled
    answers: list[dict[str, Any]]
    errors: np.ndarray | None


def compare(
    workdir: str,
    other: str,
    inputs: str = "",
    output: str = "",
    engine: str = JAX,
    runs: Sequence[str] = (),
    intervals: float = 0.0,
) -> dict[str, Any]:
    """Says whether one of two models is better on the same rows, and which answers differ.

    Args:
      workdir: of a run, the first model; of a trained model's directory where `inputs` are given.
      other: the second, as `workdir` is.
      inputs: a labelled file; empty: the test split of both runs, or the validation split, which must be the same rows.
      output: FILE.html, a page that needs nothing else, or FILE.jsonl, a line for each answer that differs; written
        whole or not at all. Empty: neither.
      engine, runs: what computes the answers, and what answers with the first model; see `Predictor.open`.
      intervals: the level of the intervals of differences; 0: `bootstrap.LEVEL`.

    Returns:
      `rows`; `metrics`, of each `first`, `second`, `difference`, `low` and `high`; and, where answers are wrong or
      right, `mcnemar`, see `jaxft.sure.paired.McNemar`.

    Raises:
      UserError: a model, a level or a file that cannot be used, models of other tasks, or other rows.
    """
    bootstrap.check(intervals)
    suffix = checked_suffix(output)
    if inputs:
        paths.file_of("--input", inputs)
    first, second = Predictor.open(workdir, engine=engine, runs=runs), Predictor.open(other, engine=engine)
    check_alike(other, second.table.options, first.table.options)
    bootstrap.check_apart("--compare", first.table)
    both = [(workdir, first), (other, second)]
    pair = labelled_rows(inputs, [Reader(path, one.experiment, one.table) for path, one in both])
    before, after = (_side(one, split) for (_, one), split in zip(both, pair, strict=True))
    bootstrap.check_apart("--compare", before.table, before.labelled)
    level = intervals or bootstrap.LEVEL

    def found() -> dict[str, Any]:
        results, lines = summed(before, after, level), list(changes(before, after))
        names = (workdir.rstrip("/"), other.rstrip("/"))
        for title, rows in report(results, level):
            say(f"{title}\n{grid(rows)}")
        if output:
            with opened(output) as out:
                if suffix in PAGE:
                    out.write(made_page(results, lines, level, names, before))
                else:
                    out.writelines(map(line_of, lines))
            say(f"{len(lines):,} answers that differ: {output}")
        return results

    return distributed.once(found)  # by one process, as rounding may differ on their machines


def check_alike(other: str, theirs: Any, mine: Any) -> None:
    """Makes sure that two models answer the same question, by the options of their tasks.

    Raises:
      UserError: they do not.
    """
    likeness.check_labels(f"--compare: {other}", theirs, mine)
    for key in TRUTH:
        if (own := getattr(mine, key, None)) != (its := getattr(theirs, key, None)):
            raise UserError(
                f"--compare: {other} learned the column {its!r} (task.{key}), the first model {own!r}; take models of "
                "the same"
            )


def labelled_rows(inputs: str, readers: Sequence[Reader]) -> list[Split]:
    """Returns the same labelled rows as each of two models reads them, of a file or of their own splits.

    Raises:
      UserError: they are not the same rows, or cannot be used.
    """
    if inputs:
        found = [measured.of_file(inputs, one.experiment, one.table) for one in readers]
        if not same(*found):
            raise UserError(f"--compare: of {inputs} the models read other rows; give both the same task.repair")
        return found
    for path, _, _ in readers:
        if not run_in(path):
            raise UserError(f"--input is missing: {path} is no run, whose data could be used; give a labelled file")
    made = [measured.of_run(one.experiment, one.table) for one in readers]
    name = next((name for name in ("test", "validation") if name in made[0]), "")
    if not name or name not in made[1] or not same(made[0][name], made[1][name]):
        both = " and ".join(one.path for one in readers)
        raise UserError(
            f"--compare: {both} have no {name or 'test'} split of the same rows, so that one may have learned from "
            "those of the other; give rows that neither has seen by --input"
        )
    if name == "validation":
        say("--compare: on the validation split, by which each run has chosen its checkpoint; there is no test split")
    return [one[name] for one in made]


def same(first: Split, second: Split) -> bool:
    """Returns whether two splits are the same rows in the same order."""
    return splits.fingerprint(first.table) == splits.fingerprint(second.table)


def _side(predictor: Predictor, split: Split) -> Side:
    table = predictor.table.decide(predictor.table.undecided())
    features, found = predictor.measured(split)
    labelled = Labelled(split, features, predictor.engine.task.outputs, found.outputs)
    errors = table.errors(found.outputs, features, split)
    answers = [] if errors is None else list(table.predictions(found.outputs, features, split))
    return Side(table, labelled, answers, errors)


def summed(first: Side, second: Side, level: float) -> dict[str, Any]:
    """Returns what `compare` does."""
    found = paired.differences((first.table, second.table), (first.labelled, second.labelled), level)
    metrics = {name: one._asdict() | {"difference": one.difference} for name, one in found.items()}
    results: dict[str, Any] = {"rows": first.labelled.split.table.num_rows, "metrics": metrics}
    if first.errors is not None and second.errors is not None and first.errors.dtype == bool:
        results["mcnemar"] = paired.mcnemar(first.errors, second.errors)._asdict()
    return results


def changes(first: Side, second: Side) -> Iterator[dict[str, Any]]:
    """Yields of each row whose answers differ the row, where it is from, how they differ, and both answers.

    Of answers without an error of their own (`Table.errors`) there are none. See `KINDS`.
    """
    if first.errors is None or second.errors is None:
        return
    split = first.labelled.split
    each = zip(split.table.to_pylist(), first.answers, second.answers, first.errors, second.errors, strict=True)
    for at, (row, one, other, before, after) in enumerate(each):
        if kind := changed(one.get("prediction") == other.get("prediction"), before, after):
            yield beside(row, {"where": split.where(at), "change": kind, "first": one, "second": other})


def changed(alike: bool, before: Any, after: Any) -> str:
    """Returns how two answers differ, one of `KINDS`, by their errors; empty: not at all.

    Args:
      alike: whether they are the same prediction.
    """
    if not isinstance(before, np.bool_):
        return {-1: "better", 0: "", 1: "worse"}[int(np.sign(after - before))]
    if before == after:
        return "other" if before and not alike else ""
    return "broken" if after else "mended"


def line_of(change: dict[str, Any]) -> str:
    """Returns one of `changes` as a line of JSON."""
    return json.dumps(change, ensure_ascii=False, default=str) + "\n"


def report(results: dict[str, Any], level: float) -> list[tuple[str, list[list[str]]]]:
    """Returns titled tables of what `compare` found."""
    heading = ["metric", "first", "second", "difference", f"{100 * level:g}% interval"]
    rows = [
        [
            spoken(name),
            number(one["first"]),
            number(one["second"]),
            f"{one['difference']:+.4f}",
            "" if one["low"] is None else f"{one['low']:+.4f} to {one['high']:+.4f}",
        ]
        for name, one in results["metrics"].items()
        if "/" not in name
    ]
    found = [(f"Metrics on {results['rows']:,} rows, which are drawn for both alike", [heading, *rows])]
    if "mcnemar" in results:
        one = results["mcnemar"]
        counts = [["answers", "rows"], *([KINDS[kind], number(one[by])] for kind, by in ALONE.items())]
        chance = ["p: so far apart, or further, by chance (McNemar, exact)", number(one["p"])]
        found.append(("Answers that one model alone has right", [*counts, chance]))
    return found


def made_page(
    results: dict[str, Any], lines: Sequence[dict[str, Any]], level: float, names: tuple[str, str], first: Side
) -> str:
    """Returns a page of the sums and of answers that differ.

    Args:
      lines: as `changes` yields them.
      names: of the models.
      first: of it the columns that are read, and those of what is true.
    """
    options, split = first.table.options, first.labelled.split
    read = [name for name in first.table.inputs if name in split.table.column_names]
    columns = list(dict.fromkeys([*read, *true_columns(options, split)]))
    sections = [(title, page.table(rows[0], rows[1:])) for title, rows in report(results, level)]
    for kind, words in KINDS.items():
        if not (there := [line for line in lines if line["change"] == kind]):
            continue
        listed = [
            [
                line["where"],
                *(str(line.get(f"input.{name}", line[name])) for name in columns),  # as `beside` names it
                said(line["first"]),
                said(line["second"]),
            ]
            for line in there[:SHOWN]
        ]
        title = f"{kind.capitalize()}: {words} ({len(listed):,} of {len(there):,}; all are in FILE.jsonl)"
        head = ("row", *columns, "first", "second")
        sections.append((title, page.table(head, listed, names=len(head))))
    about = f"{split.origin} · first: {names[0]} · second: {names[1]}"
    return page.of_sections(f"{Path(names[0]).name} and {Path(names[1]).name}", about, sections)


def said(answer: dict[str, Any]) -> str:
    """Returns an answer in a few words."""
    found = answer.get("prediction", answer.get("score"))
    told = number(found) if isinstance(found, float) else groups.said(found)
    return f"{told} ({answer['probability']:.1%})" if "probability" in answer else told
