"""What the model card, README.md of an export, says of the last audit: how good and how sure on what, and where not."""

from pathlib import Path

from jaxft.audit.found import Audit
from jaxft.audit.page import RISK, metrics
from jaxft.out.record import markdown
from jaxft.report.tables import number, spoken

HEADING, NEXT = "## Audit", "## "

MARK = "<!-- written by jaxft --mode=audit, which replaces this section -->"
"""Behind the heading of a section that is ours: another one of that name is somebody's own, and stays."""

LISTED = 10
"""Slices and canaries that the card names, at most; the page has more of them."""


def of_run(workdir: str) -> Path | None:
    """Returns the model card of a run's export; None: there is none here."""
    card = Path(workdir).expanduser() / "export" / "README.md"
    return card if card.is_file() else None


def section(found: Audit, origin: str) -> str:
    """Returns what an audit of rows of `origin` found, in Markdown, its heading first."""
    lines = [HEADING, MARK, "", f"{found.rows:,} rows of {origin}, by jaxft's `--mode=audit`.", ""]
    sure = [[_said(name), number(value), ""] for name, value in found.sure.items()]
    lines += [markdown([["metric", "value", f"{100 * found.level:g}% interval"], *metrics(found), *sure]), ""]
    worse = [one for one in found.slices if one.corrected < RISK]
    if found.slices:
        lines += [
            f"{len(found.slices):,} slices were tested, and {len(worse):,} are worse than chance gives (hypergeometric "
            f"law, corrected p below {RISK:.0%}).",
            "",
        ]
    if worse:
        each = [[one.name, f"{one.rows:,}", f"{one.wrong:,}", f"{one.corrected:.2g}"] for one in worse[:LISTED]]
        lines += [markdown([["worse on", "rows", "wrong", "corrected p"], *_escaped(each)]), ""]
    if found.duplicates:
        lines += [f"{len(found.duplicates):,} rows are near duplicates of training data.", ""]
    if found.exposures:
        known = sorted(found.exposures, key=lambda one: -one.exposure)[:LISTED]
        each = [[one.where, f"{one.exposure:.1f} bits"] for one in known]
        lines += [markdown([["canary", "exposure"], *_escaped(each)]), ""]
    lines += [line for note in found.notes for line in (note, "")]
    return "\n".join(lines[:-1]) + "\n"


def with_section(card: str, text: str) -> str:
    """Returns a card with this section in place of that of an earlier audit, or else before how to use the model.

    A section of the same name without `MARK` is not an audit's, and stays.
    """
    lines, inside = card.splitlines(keepends=True), False
    kept: list[str] = []
    for line, following in zip(lines, [*lines, ""][1:], strict=True):
        ours = (line.rstrip(), following.rstrip()) == (HEADING, MARK)
        inside = ours or (inside and not line.startswith(NEXT))
        if not inside:
            kept.append(line)
    at = next((number for number, line in enumerate(kept) if line.startswith("## How to use")), len(kept))
    parts = ("".join(kept[:at]), text, "".join(kept[at:]))
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _said(figure: str) -> str:
    own = figure.removesuffix("_before")
    return spoken(own) if own == figure else f"{spoken(own)}, not calibrated"


def _escaped(rows: list[list[str]]) -> list[list[str]]:
    """Cells that hold what ends a cell, as a word of the data may."""
    return [[cell.replace("|", "\\|") for cell in row] for row in rows]
