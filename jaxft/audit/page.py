"""The page of an audit: no script, nothing asked of a network, and of a size that does not grow with the rows."""

import base64
import io
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from jaxft.audit.duplicates import NEAR
from jaxft.audit.found import Audit, Mistake
from jaxft.audit.thresholds import GRID
from jaxft.explain import page as explaining
from jaxft.report import page, plots
from jaxft.report.tables import ENDS, interval, number, spoken

LISTED = 50
"""Rows of a table, at most."""

LONGEST = 300
"""Characters of a text that are shown in a table, and after the last word that has a number."""

RISK = 0.05
"""A slice stands out where its corrected p is below this: so likely one does, or more, of rows that are all alike."""


def made(found: Audit, name: str, origin: str) -> str:
    """Returns the page.

    Args:
      name, origin: what the model and the rows are called.
    """
    sections = [*_metrics(found), *_data(found), *_sure(found), *_thresholds(found), *_mistakes(found), *_words(found)]
    sections += [*_slices(found), *_duplicates(found), *_doubtful(found), *_exposures(found)]
    body = "".join(f'<p class="sub">{escape(note)}</p>\n' for note in found.notes)
    return explaining.TEMPLATE.substitute(
        title=escape(f"Audit of {name.rsplit('/', 1)[-1]}"),
        subtitle=escape(f"{name} · {found.rows:,} rows of {origin}"),
        body=body + "\n".join(page.section(title, content) for title, content in sections),
    )


def _said(text: str) -> str:
    return f'<p class="said">{escape(text)}</p>'


def metrics(found: Audit) -> list[list[str]]:
    """Returns a row for each metric: its name, its value, and its interval where it has one."""
    there = {name: value for name, value in found.metrics.items() if not name.startswith("threshold/")}
    shown = [name for name in there if not (name.endswith(ENDS) and name.rpartition("_")[0] in there)]
    return [[spoken(name), number(there[name]), interval(there, name)] for name in shown]


def _metrics(found: Audit) -> Iterator[tuple[str, str]]:
    said = "Intervals say how much a number hangs on these very rows (bootstrap); of few rows it is a lot."
    yield "Metrics", page.table(("metric", "value", f"{100 * found.level:g}% interval"), metrics(found)) + _said(said)


def _data(found: Audit) -> Iterator[tuple[str, str]]:
    if not found.data:
        return
    rows = [[one.name, number(one.measured), "" if one.known is None else number(one.known)] for one in found.data]
    yield "The rows", page.table(("", "measured", "learned from"), rows)


def _thresholds(found: Audit) -> Iterator[tuple[str, str]]:
    if not found.curves:
        return
    rows = [[one.label, *map(number, (one.threshold, one.f1, one.best, one.at))] for one in found.curves[:LISTED]]
    head = ("label", "threshold", "F1", "best F1", "at")
    said = (
        "A label is given from its threshold on. That of the best F1 on these rows is no better choice: it fits them."
    )
    chosen = {one.label: (one.threshold, one.curve) for one in found.curves}
    figure = image(plots.thresholds(GRID, chosen), "The mark is the threshold", "F1 of labels by threshold.", 660)
    yield "Thresholds", page.table(head, rows) + _said(said) + f'<div class="plots">{figure}</div>'


def _words(found: Audit) -> Iterator[tuple[str, str]]:
    parts = [explaining.both_sides(target, words) for target, words in found.words.items()]
    if parts:
        said = (
            "Mean of what a word adds to the logit of the answer (integrated gradients) over the rows, of those that "
            "were drawn, which are answered so; and in how many places it stands."
        )
        yield "Strongest words of each answer", _said(said) + "".join(parts)


def _sure(found: Audit) -> Iterator[tuple[str, str]]:
    names = {"log_loss": "log loss", "ece": "expected calibration error"}
    rows = [
        [title, number(found.sure[f"{name}_before"]), number(found.sure[name])]
        for name, title in names.items()
        if name in found.sure
    ]
    if not rows:
        return
    figures = [_figure(title, *pair) for title, pair in found.diagrams.items()]
    gallery = f'<div class="plots">{"".join(figures)}</div>' if any(figures) else ""
    yield "How sure", page.table(("", "uncalibrated", "as answered"), rows) + gallery


def _figure(title: str, labels: np.ndarray, probabilities: np.ndarray) -> str:
    """A diagram within the page; empty where a probability is no number."""
    if (figure := plots.reliability(labels, probabilities)) is None:
        return ""
    return image(figure, title, f"Reliability diagram with a histogram of confidence: {title}.")


def image(figure: plots.Figure, title: str, alt: str, width: int = 400) -> str:
    """Returns a figure within the page, so many pixels wide where there is room."""
    held = io.BytesIO()
    plots.save(figure, held, dpi=100)
    drawn = base64.b64encode(held.getvalue()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{drawn}" alt="{escape(alt)}" style="--width: {width}px">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def _mistakes(found: Audit) -> Iterator[tuple[str, str]]:
    if not found.mistakes:
        return
    cards = []
    for one in found.mistakes:
        head = f"{one.where}: said {one.answer} ({one.confidence:.1%}), labelled {one.truth}"
        cards.append(f'<div class="card row"><b>{escape(head)}</b>{_texts(one)}</div>')
    said = (
        "Orange, with a whole line: speaks for the wrong answer; blue, dotted: against it (integrated gradients). "
        "Some of the rows may be labelled wrong."
    )
    yield f"Surest mistakes ({len(found.mistakes):,} of {found.wrong:,})", _said(said) + "".join(cards)


def _texts(one: Mistake) -> str:
    """The texts of a mistake, coloured where it was explained; what is far behind is left out."""
    if one.why is None or not one.why.explanations:
        return "".join(f'<p class="text">{escape(_short(text))}</p>' for text in one.texts.values())
    ends = {column: 0 for column in one.why.row}
    for unit in one.why.units:
        ends[unit.column] = max(ends[unit.column], unit.end)
    texts = {column: text[: ends[column]] + _short(text[ends[column] :]) for column, text in one.why.row.items()}
    return explaining.texts(texts, one.why.units, one.why.explanations[0])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _slices(found: Audit) -> Iterator[tuple[str, str]]:
    if found.wrong is None:
        return
    marked = [one for one in found.slices if one.corrected < RISK]
    rows = [
        [
            one.name,
            f"{one.rows:,}",
            f"{one.wrong:,}",
            f"{one.wrong / one.rows:.1%}",
            number(one.p),
            number(one.corrected),
        ]
        for one in marked[:LISTED]
    ]
    told = (
        f"{len(found.slices):,} slices of 20 rows or more were tested (lengths, columns, answers, frequent words), and "
        f"{len(marked):,} stand out: were the {found.wrong:,} wrong answers ({found.wrong / found.rows:.1%}) dealt out "
        "to the rows at random, so many would seldom fall on theirs (hypergeometric; p corrected for all slices "
        f"by Holm). That one or more stand out of rows that are all alike happens in at most {RISK:.0%} of such tests."
    )
    head = ("slice", "rows", "wrong", "share", "p", "corrected")
    yield "Where it is worse than chance gives", _said(told) + page.table(head, rows)


def _duplicates(found: Audit) -> Iterator[tuple[str, str]]:
    if not found.duplicates:
        return
    rows = [
        [
            _short(one.text),
            one.label,
            one.where,
            _short(one.other_text),
            one.other_label,
            one.other,
            f"{one.similarity:.2f}",
        ]
        for one in found.duplicates[:LISTED]
    ]
    told = (
        f"{len(found.duplicates):,} of {found.rows:,} rows are near duplicates of one that was learned from (Jaccard "
        f"similarity of their characters, five in a row, of {NEAR:g} or more): what is measured on them says little."
    )
    head = ("measured", "label", "row", "learned from", "label", "row", "alike")
    yield "Near duplicates in the training data", _said(told) + page.table(head, rows, names=6)


def _doubtful(found: Audit) -> Iterator[tuple[str, str]]:
    if not found.doubtful:
        return
    rows = [
        [
            str(one["where"]),
            _short(" | ".join(_texts_of(one))),
            one["given"],
            one["confidently"],
            number(one["normalized_margin"]),
        ]
        for one in found.doubtful[:LISTED]
    ]
    head = ("row", "text", "given", "confidently", "margin")
    yield f"Doubtful labels ({len(rows):,} of {len(found.doubtful):,})", page.table(head, rows, names=4)


def _exposures(found: Audit) -> Iterator[tuple[str, str]]:
    if not found.exposures:
        return
    ranked = sorted(found.exposures, key=lambda one: -one.exposure)
    rows = [
        [_short(one.text), one.where, f"{one.rank:,} of {one.among:,}", f"{one.exposure:.1f}", number(one.chance)]
        for one in ranked[:LISTED]
    ]
    told = (
        "Each text is ranked by its likelihood among the same text with other secrets of the kind, the likeliest "
        "first. Exposure, in bits, is log2 of their number less log2 of the rank (Carlini et al. 2019): a secret that "
        "the model does not know has 1.4 on average. The last column is how often such a secret ranks so high."
    )
    head = ("canary", "row", "rank", "exposure", "by chance")
    yield "Exposure of canaries", _said(told) + page.table(head, rows, names=2)


def _texts_of(line: Mapping[str, Any]) -> list[str]:
    """The texts of a line that crossfit has written: what it has not put there itself."""
    own = ("where", "fold", "given", "confidently", "self_confidence", "normalized_margin", "probabilities")
    return [value for name, value in line.items() if name not in own and isinstance(value, str)]
