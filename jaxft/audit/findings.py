"""What an audit looks for, in labelled rows and in what a model makes of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.audit import duplicates, slices, thresholds
from jaxft.audit.found import Audit, Duplicate, Mistake
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.explain.explainer import Explained
from jaxft.explain.page import LISTED, Strong, strongest
from jaxft.metrics.probabilities import softmax
from jaxft.sure import bootstrap, groups
from jaxft.sure.bootstrap import Labelled
from jaxft.sure.calibration import Calibration, figures
from jaxft.tables import Table
from jaxft.tables.sequence_classification import SequenceClassification

SURES = 20
"""Mistakes that are shown with their words."""

DRAWN = 100
"""Rows whose words are explained, so that the strongest of a class are known."""

Why = Callable[[Split], Sequence[Explained]]
"""What explains rows, of which it may raise a UserError."""


def gathered(
    table: Table, labelled: Labelled, loss: float, known: Split | None, why: Why | None, notes: Sequence[str]
) -> Audit:
    """Returns all but the doubtful labels.

    Args:
      table: with its thresholds decided.
      known: what was learned from; None: near duplicates are not looked for.
      why: rows -> their explanations; None: they cannot be explained.
      notes: what there is to say already.
    """
    split, features, _, outputs = labelled
    wrong, noted = table.errors(outputs, features, split), list(notes)
    mistaken: list[Mistake] = []
    tested: list[slices.Slice] = []
    words: dict[str, list[Strong]] = {}
    if wrong is None or wrong.dtype != bool:
        wrong = None
        noted.append("Answers are not wrong or right: there are no surest mistakes and no slices.")
    else:
        answers = list(table.predictions(outputs, features, split))
        mistaken, more = with_words(split, mistakes(table, split, answers, wrong), why)
        noted += more
        words = {} if more else strongest_words(split, why)
        tested = slices.tested(slices.kinds(split, table.inputs, said_of(answers)), wrong)
    sure, diagrams = how_sure(table, labelled)
    return Audit(
        rows=split.table.num_rows,
        level=bootstrap.LEVEL,
        metrics={"loss": loss, **measures(table, labelled)},
        sure=sure,
        diagrams=diagrams,
        mistakes=mistaken,
        wrong=None if wrong is None else int(wrong.sum()),
        slices=tested,
        duplicates=twins(table, split, known) if known else [],
        doubtful=[],
        notes=noted,
        curves=thresholds.curves(table, labelled),
        words=words,
    )


def strongest_words(split: Split, why: Why | None) -> dict[str, list[Strong]]:
    """Returns of each answer that drawn rows have the words for it and against it, as `Audit.words` has them."""
    if why is None:
        return {}
    drawn = np.random.default_rng(0).permutation(split.table.num_rows)[:DRAWN]
    explained = why(split.take(np.sort(drawn)))
    targets = dict.fromkeys(one.target for row in explained for one in row.explanations)
    return {target: ends(strongest(explained, target)) for target in targets}


def ends(words: Sequence[Strong]) -> list[Strong]:
    """Returns of words in their order the first that speak for a target, and the last that speak against it."""
    above, below = [one for one in words if one.score > 0], [one for one in words if one.score < 0]
    return above[:LISTED] + below[-LISTED:]


def measures(table: Table, labelled: Labelled) -> dict[str, float]:
    """Returns the metrics over all classes, with their intervals where the task has such."""
    found = labelled.metrics(table)
    if not bootstrap.inseparable(table, labelled):
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
    given = groups.truths(table.options, split)
    columns = [name for name in table.inputs if name in split.table.column_names]
    found = []
    for row in rows[:SURES]:
        texts = {name: groups.said(split.table[name][row].as_py()) for name in columns}
        answer = answers[row]
        shown = groups.said(answer.get("choice", answer["prediction"]))
        found.append((row, Mistake(split.where(row), texts, given[row], shown, answer["probability"])))
    return found


def with_words(split: Split, found: Sequence[tuple[int, Mistake]], why: Why | None) -> tuple[list[Mistake], list[str]]:
    """Returns the mistakes, explained where they can be, and a line where they cannot, though they are of texts.

    Args:
      found: each with the number of its row in the split.
      why: see `gathered`.
    """
    listed = [one for _, one in found]
    if not found or why is None:
        return listed, []
    try:
        reasons = why(split.take(np.asarray([row for row, _ in found])))
    except UserError as error:
        return listed, [f"Words of the mistakes were not explained: {error}"]
    return [one._replace(why=reason) for one, reason in zip(listed, reasons, strict=True)], []


def twins(table: Table, split: Split, known: Split) -> list[Duplicate]:
    """Returns the rows of a split that are near duplicates of known ones, the most alike first."""
    texts, others = (_joined(table, one) for one in (split, known))
    labels, known_labels = (groups.truths(table.options, one) for one in (split, known))
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
