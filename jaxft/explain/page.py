"""Explanations as one HTML page: no script, no network; colours that tell apart whoever sees red and green alike.

Orange speaks for the target, blue against it; the lines under words, whole and dotted, say the same without colours.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from string import Template
from typing import NamedTuple

from jaxft.explain.explainer import Explained, Explanation
from jaxft.explain.options import METHODS, Options
from jaxft.explain.units import Unit
from jaxft.report import page

SHOWN = 200
"""Rows on the page, at most; the strongest words are those of all rows."""

STRONGEST = 8
"""Words whose bars a row has."""

LISTED = 12
"""Words of all rows that speak for a target, and as many that speak against it."""

STYLE = """
:root { --for: 217, 119, 6; --against: 37, 99, 185; }
.text { font-size: 1.06rem; line-height: 2.1; margin: 0.4rem 0 0.9rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.unit { padding: 0.12rem 0.2rem; border-radius: 3px; cursor: help; }
.for { border-bottom: 2px solid rgb(var(--for)); }
.against { border-bottom: 2px dotted rgb(var(--against)); }
.row { margin: 0 0 1.1rem; }
.said { color: var(--soft); font-size: 0.88rem; margin: 0.3rem 0 0; }
.said + .card, .said + .plots, .said + .words { margin-top: 0.8rem; }
.card + .plots { margin-top: 1rem; }
.card > b { overflow-wrap: anywhere; }
.switch { display: flex; flex-wrap: wrap; gap: 0.4rem; align-items: baseline; }
.switch > input { position: absolute; opacity: 0; }
.switch > label { border: 1px solid var(--line); border-radius: 99px; padding: 0.05rem 0.8rem; cursor: pointer;
  font-size: 0.93rem; }
.switch > input:checked + label { border-color: var(--ink); font-weight: 600; }
.switch > input:focus-visible + label { outline: 2px solid rgb(var(--against)); }
.panel { order: 1; width: 100%; display: none; }
.switch > input:checked + label + .panel { display: block; }
.bars { display: grid; grid-template-columns: minmax(4rem, max-content) 1fr max-content; gap: 0.15rem 0.7rem;
  font-size: 0.9rem; max-width: 40rem; font-variant-numeric: tabular-nums; }
.bars > :nth-child(3n+1) { text-align: right; overflow-wrap: anywhere; max-width: 12rem; }
.bars > :nth-child(3n) { text-align: right; }
.bar { position: relative; background: linear-gradient(var(--line), var(--line)) center / 1px 100% no-repeat; }
.fall { position: relative; }
.bar i, .fall i { position: absolute; top: calc(50% - 0.5rem); height: 1rem; border-radius: 2px; }
.fall .up { background: rgb(var(--for)); }
.fall .down { background: rgb(var(--against)); }
.fall .end { border-left: 2px solid var(--ink); top: 0; height: 100%; }
.scale { display: inline-block; width: 9rem; height: 0.8rem; border-radius: 3px; vertical-align: middle;
  background: linear-gradient(90deg, rgba(var(--against), 0.65), transparent, rgba(var(--for), 0.65)); }
.taught { margin-top: 0.9rem; }
.taught td, .taught th { text-align: left; vertical-align: top; overflow-wrap: anywhere; }
.taught td:first-child { white-space: nowrap; }
.taught :nth-child(2) { overflow-wrap: break-word; }
@media (max-width: 40rem) {
  .taught tr:first-child { display: none; }
  .taught tbody, .taught tr, .taught td { display: block; }
}
.words { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.words h3 { font-size: 0.95rem; margin: 0 0 0.5rem; }
"""

TEMPLATE = Template(page.PAGE.template.replace("</style>", STYLE + "</style>"))

DEEPEST = 0.65
"""Opacity of the strongest word's colour: ink is read on it, in light and in dark."""


class Strong(NamedTuple):
    """A word over all rows: its mean score and how often it stands there."""

    text: str
    score: float
    count: int


def made(rows: Sequence[Explained], options: Options, name: str, origin: str) -> str:
    """Returns the page.

    Args:
      options: as they were checked.
      name, origin: what the model and the inputs are called.
    """
    body = [f'<p class="sub">{_legend(options)}</p>']
    if len(rows) > SHOWN:
        body.append(f'<p class="sub">The first {SHOWN:,} of {len(rows):,} rows; FILE.jsonl has all of them.</p>')
    body += [_row(one, number) for number, one in enumerate(rows[:SHOWN], 1)]
    body += _summary(rows, options)
    count = f"{len(rows):,} row{'s' if len(rows) != 1 else ''} of {origin}"
    return TEMPLATE.substitute(
        title=escape(f"Why: {name.rsplit('/', 1)[-1]}"),
        subtitle=escape(" · ".join((name, count, METHODS[options.method].title))),
        body="\n".join(body),
    )


def _legend(options: Options) -> str:
    place = {
        "pad": "a word's place is taken by [PAD]",
        "mask": "a word's place is taken by [MASK]",
        "delete": "words are taken out",
        "zero": "the baseline is a vector of zeros",
        "none": "nothing is hidden",
    }[options.baseline]
    if options.method == "attention_rollout":
        return (
            "the deeper a word's colour, the more the model looks at it, in parts of 1, for whatever answer; numbers "
            "appear where the mouse rests. Attention is no explanation by itself: hide the words and see, by occlusion."
        )
    caveat = "What stands here is what the model reacts to, right or wrong: no cause in the world."
    if METHODS[options.method].attention:
        place = "hidden states times their gradients, weighed by the attention that they get"
        caveat = "Attention is no explanation by itself: hide the words and see, by occlusion."
    return (
        f'against <span class="scale"></span> for the answer, in units of its logit or score; {place}; numbers appear '
        f"where the mouse rests. {caveat}"
    )


def _summary(rows: Sequence[Explained], options: Options) -> Iterator[str]:
    """The strongest words of all rows, by target; of one row its own bars say it."""
    if len(rows) < 2 or options.units == "sentences":
        return
    for target in dict.fromkeys(one.target for row in rows for one in row.explanations):
        title = f"Strongest {options.units}: {escape(target)}"
        yield f'<section><h2>{title}</h2>\n<p class="said">Mean over the rows, and in how many places.</p>'
        yield f"{both_sides(target, strongest(rows, target))}</section>"


def both_sides(target: str, words: Sequence[Strong]) -> str:
    """Returns bars of the words that speak most for a target, and of those against it; in the order of `strongest`."""
    lists = (("for", words[:LISTED]), ("against", words[::-1][:LISTED]))
    largest = max((abs(word.score) for word in words), default=0.0)
    cards = [
        f'<div class="card"><h3>{side} {escape(target)}</h3>'
        + _bars([(f"{w.text} ({w.count})", w.score, 0.0) for w in kept], largest)
        + "</div>"
        for side, listed in lists
        if (kept := [word for word in listed if word.score != 0 and (word.score > 0) == (side == "for")])
    ]
    return f'<div class="words">{"".join(cards)}</div>'


def strongest(rows: Sequence[Explained], target: str) -> list[Strong]:
    """Returns all words of the rows, small and capital letters alike, the one that speaks most for the target first."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for one in row.explanations:
            if one.target == target:
                for unit, score in zip(row.units, one.scores, strict=True):
                    found.setdefault(unit.text.lower(), []).append(score)
    words = [Strong(text, sum(scores) / len(scores), len(scores)) for text, scores in found.items()]
    return sorted(words, key=lambda word: -word.score)


def _row(row: Explained, number: int) -> str:
    """A row; of its targets the one of the largest output is open first. Without any it is its text alone."""
    if not row.explanations:
        texts = "".join(f'<p class="text">{escape(text)}</p>' for text in row.row.values())
        return f'<div class="card row">{texts}<p class="said">none of its words is asked for</p></div>'
    parts, outputs = [], [one.output for one in row.explanations]
    for n, one in enumerate(row.explanations):
        name, checked = f"r{number}t{n}", " checked" if n == outputs.index(max(outputs)) else ""
        shown = f"{one.output:.4g}" if one.probability is None else f"{one.probability:.1%}"
        label = f"{'' if one.word is None else f'{escape(one.word)}: '}{escape(one.target)} {shown}"
        parts.append(
            f'<input type="radio" name="r{number}" id="{name}"{checked}><label for="{name}">{label}</label>'
            f'<div class="panel">{_panel(row, one)}</div>'
        )
    return f'<div class="card row"><div class="switch">{"".join(parts)}</div>{_changed(row)}</div>'


def _changed(row: Explained) -> str:
    """The texts that are answered otherwise, what was replaced marked; nothing where they were not asked for."""
    if row.counterfactuals is None:
        return ""
    if not row.counterfactuals:
        return '<p class="said">No few words that are likely in the place of others change the answer.</p>'
    made = ['<p class="said">The fewest words whose replacement changes the answer:</p>']
    for one in row.counterfactuals:
        lines = []
        for column, text in row.row.items():
            parts, at = [], 0
            for change in one.changes:
                unit = row.units[change.unit]
                if unit.column == column:
                    parts.append(f"{escape(text[at : unit.start])}<del>{escape(unit.text)}</del> ")
                    parts.append(f"<ins>{escape(change.word)}</ins>")
                    at = unit.end
            lines.append("".join((*parts, escape(text[at:]))))
        made.append(f'<p class="text"><b>{escape(one.answer)} {one.probability:.1%}</b> {" | ".join(lines)}</p>')
    return "".join(made)


def _panel(row: Explained, one: Explanation) -> str:
    largest = max(map(abs, one.scores))
    errors = one.errors or [0.0] * len(one.scores)
    ranked = sorted(zip(row.units, one.scores, errors, strict=True), key=lambda entry: -abs(entry[1]))[:STRONGEST]
    entries = [(unit.text, score, error) for unit, score, error in ranked]
    bars = _waterfall(entries, one) if METHODS[row.method].adds else _bars(entries, largest)
    said = f'<p class="said">{escape(_said(row, one))}</p>'
    return f"{texts(row.row, row.units, one)}{bars}{said}{_taught(one)}"


def _taught(one: Explanation) -> str:
    """The training rows that taught it, as a table; nothing where they were not asked for."""
    if one.taught is None:
        return ""
    rows = "".join(
        f'<tr><td><span class="{"for" if example.influence > 0 else "against"}">{example.influence:+.2e}</span></td>'
        f"<td>{escape(example.label)}</td><td>{escape(' | '.join(map(str, example.row.values())))}</td>"
        f"<td>{escape(example.where)}</td></tr>"
        for example in one.taught.examples
    )
    title = f"Training rows that taught {one.target}, and those against it; checkpoints: {one.taught.checkpoints}"
    heading = "<tr><th>influence</th><th>label</th><th>text</th><th>row</th></tr>"
    return f'<p class="said">{escape(title)}</p><table class="taught">{heading}{rows}</table>'


def texts(row: Mapping[str, str], units: Sequence[Unit], one: Explanation) -> str:
    """Returns the texts of a row, by column, with their units coloured by an explanation, as HTML."""
    largest = max(map(abs, one.scores))
    return "".join(_text(column, text, units, one, largest) for column, text in row.items())


def _text(column: str, text: str, units: Sequence[Unit], one: Explanation, largest: float) -> str:
    """A text of the row with its units coloured; its column's name before it, where there are two."""
    parts, at = [], 0
    for unit, score in zip(units, one.scores, strict=True):
        if unit.column != column:
            continue
        depth = DEEPEST * abs(score) / largest if largest else 0
        side = "for" if score > 0 else "against"
        line = f" {side}" if largest and abs(score) > 0.25 * largest else ""
        parts.append(escape(text[at : unit.start]))
        parts.append(
            f'<span class="unit{line}" title="{score:+.4f} for {escape(one.target)}" '
            f'style="background:rgba(var(--{side}),{depth:.2f})">{escape(text[unit.start : unit.end])}</span>'
        )
        at = unit.end
    parts.append(escape(text[at:]))
    named = f"<b>{escape(column)}</b> " if len({unit.column for unit in units}) > 1 else ""
    return f'<p class="text">{named}{"".join(parts)}</p>'


def _bars(entries: Sequence[tuple[str, float, float]], largest: float) -> str:
    """Bars of signed numbers, from the middle to the right where they are above zero; with their standard errors."""
    cells = []
    for text, score, error in entries:
        width = 50 * abs(score) / largest if largest else 0
        left = 50 if score > 0 else 50 - width
        side = "for" if score > 0 else "against"
        shown = f"{score:+.3f}" + (f" ± {error:.3f}" if error else "")
        bar = f'<i style="left:{left:.1f}%;width:{width:.1f}%;background:rgb(var(--{side}))"></i>'
        cells.append(f'<span>{escape(text)}</span><span class="bar">{bar}</span><span>{shown}</span>')
    return f'<div class="bars">{"".join(cells)}</div>'


def _waterfall(entries: Sequence[tuple[str, float, float]], one: Explanation) -> str:
    """Bars of numbers that add up: each begins where the one above it ends, from the baseline's output to the text's.

    Args:
      entries: the strongest units; what is left of the sum of all are the others.
    """
    rest = sum(one.scores) - sum(score for _, score, _ in entries)
    steps = [*entries, ("all others", rest, 0.0)] if len(one.scores) > len(entries) else list(entries)
    start = one.output - sum(one.scores)
    ends = [start, *(start + sum(score for _, score, _ in steps[: n + 1]) for n in range(len(steps)))]
    low, width = min(*ends, one.output), (max(*ends, one.output) - min(*ends, one.output)) or 1.0

    def bar(left: float, right: float, side: str) -> str:
        place = f"left:{100 * (min(left, right) - low) / width:.1f}%;width:{100 * abs(right - left) / width:.1f}%"
        return f'<span class="fall"><i class="{side}" style="{place}"></i></span>'

    cells = [f"<span>without any</span>{bar(start, start, 'end')}<span>{start:.3f}</span>"]
    for (text, score, error), before, after in zip(steps, ends[:-1], ends[1:], strict=True):
        shown = f"{score:+.3f}" + (f" ± {error:.3f}" if error else "")
        side = "up" if score > 0 else "down"
        cells.append(f"<span>{escape(text)}</span>{bar(before, after, side)}<span>{shown}</span>")
    cells.append(f"<span>the text</span>{bar(one.output, one.output, 'end')}<span>{one.output:.3f}</span>")
    return f'<div class="bars">{"".join(cells)}</div>'


def _said(row: Explained, one: Explanation) -> str:
    """What the method says of itself, and what was measured of it, in a line."""
    facts, parts = one.facts, [METHODS[row.method].title]
    if "completeness_error" in facts:
        parts.append(f"completeness error {facts['completeness_error']:.2%} at {facts['steps']:.0f} steps")
    if "fidelity" in facts:
        parts.append(f"fidelity (weighted R²) {facts['fidelity']:.3f}")
    if "special_tokens" in facts:
        parts.append(f"special tokens {facts['special_tokens']:+.3f}")
    parts.append(f"{row.passes:,} passes")
    for name, measured in (one.faithfulness or {}).items():
        share = measured["normalized"]
        of_all = "" if share is None else f", {share:.0%} of what all are worth"
        parts.append(f"{name} {measured['area']:+.3f} (random order {measured['random']:+.3f}{of_all})")
    parts += [f"rank correlation with {name} {one:+.2f}" for name, one in one.agreement.items() if one is not None]
    if row.cut:
        parts.append("the text is longer than the model reads: what is left plain at its end was cut off")
    return " · ".join(parts)
