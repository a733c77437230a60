"""The report of a run: one HTML page and its plots, readable without a server, a script or a network."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np

from jaxft.metrics import classification
from jaxft.report import plots, tables
from jaxft.report.progress import duration

HEADLINES = (
    *("perplexity", "mrr@10", "ndcg@10", "recall@10", "accuracy", "f1", "f1_macro", "average_precision_macro"),
    *("matthews", "roc_auc", "pearson", "spearman", "mse", "loss"),
)
"""The metrics that head the page, the first `MOST_HEADLINES` that the run has."""

MOST_HEADLINES = 5

NAME = ' class="name"'


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(value: float) -> str:
    return duration(value) if value >= 60 else f"{value:.1f} s"


FACTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "steps": ("steps", _count),
    "best_step": ("best checkpoint at step", _count),
    "epochs": ("epochs", lambda value: f"{value:.3g}"),
    "seconds": ("time in training steps", _seconds),
    "seconds_to_first_step": ("time to the first step", _seconds),
    "examples_per_second": ("examples a second", lambda value: f"{value:,.1f}"),
    "real_tokens_per_second": ("real tokens a second", _count),
    "model_flops_utilization": ("model FLOPs of the device's peak", lambda value: f"{value:.1%}"),
    "input_wait_fraction": ("waited for input", lambda value: f"{value:.1%} of the time"),
    "padding_fraction": ("padding", lambda value: f"{value:.1%} of the positions"),
    "compiled_shapes": ("compiled shapes", _count),
    "parameters": ("parameters", _count),
    "trainable_parameters": ("parameters that learn", _count),
}
"""How to name and show `train/KEY` of results.json; keys not listed are shown as they are."""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5c6675; --line: #dfe3e8; --back: #f5f6f8; --card: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ec; --soft: #9aa4b2; --line: #333a45; --back: #14171c; --card: #1d2128; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: var(--back); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0.8rem; }
.sub { color: var(--soft); margin: 0.3rem 0 1.6rem; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 0.8rem; margin: 0; }
.tiles div, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem 1rem; }
.tiles div { display: flex; flex-direction: column; justify-content: space-between; }
.tiles dt { color: var(--soft); font-size: 0.85rem; }
.tiles dd { margin: 0; font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.card { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.93rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.32rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { white-space: nowrap; }
.name { text-align: left; overflow-wrap: anywhere; min-width: 7rem; max-width: 34rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; background: #ffffff; color: #4a5361; border: 1px solid var(--line); border-radius: 8px;
  padding: 0.9rem; }
figure.wide { grid-column: 1 / -1; }
figure img { display: block; width: 100%; height: auto; max-width: var(--width); margin: 0 auto; }
figcaption { font-size: 0.85rem; margin-top: 0.6rem; }
details summary { cursor: pointer; color: var(--soft); }
pre { margin: 0.8rem 0 0; font-size: 0.82rem; overflow-x: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="sub">$subtitle</p>
$body
</body>
</html>
""")


class Plot(NamedTuple):
    """A figure of the page; `alt` says what it shows to those who cannot see it."""

    file: str
    figure: Any
    alt: str
    caption: str


def write(
    workdir: Path,
    experiment: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    results: Mapping[str, float],
    predictions: Mapping[str, Any] | None,
) -> Path:
    """Writes `workdir/report/index.html` and its plots, each file whole or not at all, the page last.

    Args:
      workdir: the run's folder.
      experiment: the resolved experiment, `config.to_dict` of it.
      history: the lines of metrics.jsonl.
      results: results.json, flat.
      predictions: of the split that is reported (test where there is one, else validation):
        {"labels": [n], "probabilities": [n, classes], "names": class names}, or {"labels": [n], "scores": [n]}, or
        nothing.

    Returns:
      The path of the page.
    """
    folder = Path(workdir) / "report"
    folder.mkdir(parents=True, exist_ok=True)
    split = next((s for s in ("test", "validation") if tables.aggregated(results, s)), "validation")
    predictions = predictions or {}
    curves, outcomes = _curves(history), _outcomes(predictions, split)
    for plot in (*curves, *outcomes):
        _replace(folder / plot.file, lambda path, figure=plot.figure: plots.save(figure, path))
    body = [
        _tiles(results, split),
        section("Run", _facts(experiment, history, results)),
        section("Training", _gallery(curves)),
        section(f"Predictions on the {split} split", _gallery(outcomes)),
        section("Metrics", _metrics(results)),
        section(f"Classes on the {split} split", _classes(results, split, predictions.get("names"))),
        section("Configuration", _config(experiment)),
    ]
    page = PAGE.substitute(
        title=escape(_title(experiment)),
        subtitle=escape(" · ".join(filter(None, (_model(experiment), _data(experiment))))),
        body="\n".join(filter(None, body)),
    )
    _replace(folder / "index.html", lambda path: path.write_text(page, encoding="utf-8"))
    return folder / "index.html"


def write_sections(file: Path, title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> None:
    """Writes the page of `of_sections`, whole or not at all; the folder must exist."""
    page = of_sections(title, subtitle, sections)
    _replace(file, lambda path: path.write_text(page, encoding="utf-8"))


def of_sections(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """Returns a page of titled parts, each of HTML."""
    body = "\n".join(section(name, content) for name, content in sections)
    return PAGE.substitute(title=escape(title), subtitle=escape(subtitle), body=body)


def _replace(path: Path, make: Callable[[Path], Any]) -> None:
    """A kill while `make` writes leaves the file that was there before."""
    temporary = path.with_name(f".{path.name}.part")
    make(temporary)
    os.replace(temporary, path)


def _model(experiment: Mapping[str, Any]) -> str:
    return str(experiment.get("model", {}).get("path", ""))


def _data(experiment: Mapping[str, Any]) -> str:
    data = experiment.get("data", {})
    return " ".join(filter(None, (str(data.get("source", "")), str(data.get("subset", "")))))


def _title(experiment: Mapping[str, Any]) -> str:
    return (
        str(experiment.get("name") or "")
        or f"Fine-tuning of {_model(experiment).rstrip('/').split('/')[-1] or 'a model'}"
    )


def section(title: str, content: str) -> str:
    """Returns a titled part of a page, of HTML; without content nothing."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def _tiles(results: Mapping[str, float], split: str) -> str:
    found = tables.aggregated(results, split)
    shown = [name for name in HEADLINES if name in found][:MOST_HEADLINES]
    tiles = (
        f"<div><dt>{escape(f'{split} {tables.spoken(name)}')}</dt><dd>{tables.number(found[name])}</dd></div>"
        for name in shown
    )
    return f'<dl class="tiles">\n{chr(10).join(tiles)}\n</dl>' if shown else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """Returns a table as HTML, without rows nothing; cells, which are text, are escaped.

    Args:
      names: so many columns, the first ones, are flush left.
    """

    def cell(text: str, column: int, scope: str) -> str:
        tag, scope = ("th", f' scope="{scope}"') if scope else ("td", "")
        return f"<{tag}{scope}{NAME if column < names else ''}>{escape(text)}</{tag}>"

    top = "".join(cell(text, i, "col") for i, text in enumerate(head))
    top = f"<thead><tr>{top}</tr></thead>\n" if head else ""
    lines = ("".join(cell(text, i, "" if i else "row") for i, text in enumerate(row)) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="card"><table>\n{top}<tbody>\n{body}\n</tbody>\n</table></div>' if body else ""


def _facts(experiment: Mapping[str, Any], history: Sequence[Mapping[str, Any]], results: Mapping[str, float]) -> str:
    rows = {"model": _model(experiment), "data": _data(experiment)}
    rows["task"] = str(experiment.get("task", {}).get("kind", "")).replace("_", " ")
    found = tables.aggregated(results, "train")
    if "steps" not in found and history:
        found["steps"] = max(int(line["step"]) for line in history)
    for key in (*(key for key in FACTS if key in found), *(key for key in found if key not in FACTS)):
        name, show = FACTS.get(key, (key.replace("_", " "), tables.number))
        rows[name] = "n/a" if found[key] is None else show(found[key])
    return table((), ((name, value) for name, value in rows.items() if value), names=2)


def _metrics(results: Mapping[str, float]) -> str:
    found = {split: tables.aggregated(results, split) for split in ("validation", "test")}
    splits = [split for split in found if found[split]]
    names = dict.fromkeys(name for split in splits for name in found[split])
    rows = ((tables.spoken(n), *(tables.number(found[s][n]) if n in found[s] else "" for s in splits)) for n in names)
    return table(("metric", *splits), rows)


def _classes(results: Mapping[str, float], split: str, names: Sequence[str] | None) -> str:
    prefix = f"{split}/f1/"
    names = list(names or (key.removeprefix(prefix) for key in results if key.startswith(prefix)))
    columns, rows = tables.per_class(results, split, names)
    places = {name: str(i) for i, name in enumerate(names)}
    return table(("class", "name", *map(tables.spoken, columns)), ((places[row[0]], *row) for row in rows), names=2)


def _config(experiment: Mapping[str, Any]) -> str:
    text = escape(json.dumps(experiment, indent=2, ensure_ascii=False))
    return f'<details class="card"><summary>Every setting of this run</summary><pre>{text}</pre></details>'


def _gallery(shown: Sequence[Plot]) -> str:
    """Plots side by side; one that is large on paper, or would be left over in its row, gets the whole width."""
    narrow = [plot.file for plot in shown if plot.figure.get_size_inches()[0] <= 7]
    paired = narrow[: len(narrow) // 2 * 2]

    def card(plot: Plot) -> str:
        inches = plot.figure.get_size_inches()[0]
        kind = "" if plot.file in paired else ' class="wide"'
        image = f'<img src="{plot.file}" alt="{escape(plot.alt)}" style="--width: {inches * 80:.0f}px">'
        return f"<figure{kind}>\n{image}\n<figcaption>{escape(plot.caption)}</figcaption>\n</figure>"

    return f'<div class="plots">\n{chr(10).join(map(card, shown))}\n</div>' if shown else ""


def _curves(history: Sequence[Mapping[str, Any]]) -> list[Plot]:
    losses = [plots.series(history, split, "loss")[1] for split in ("train", "validation")]
    found = []
    if any(map(len, losses)):
        ends = [
            f"{name} ends at {v[-1]:.3f}" for name, v in zip(("training", "validation"), losses, strict=True) if len(v)
        ]
        caption = "Loss over steps. A validation loss that rises while training loss falls is a sign of overfitting."
        found.append(Plot("loss.png", plots.losses(history), f"Line plot of the loss: {', '.join(ends)}.", caption))
    if (figure := plots.metric_curves(history)) is not None:
        alt = "Line plot of the validation metrics over steps."
        found.append(Plot("metrics.png", figure, alt, "Metrics on the validation split at each evaluation."))
    if (figure := plots.learning_rate(history)) is not None:
        found.append(Plot("learning_rate.png", figure, "Line plot of the learning rate.", "Learning rate over steps."))
    return found


def _outcomes(predictions: Mapping[str, Any], split: str) -> list[Plot]:
    labels = np.asarray(predictions.get("labels", ()))
    if not len(labels):
        return []
    if "scores" in predictions:
        figure = plots.predicted_against_true(labels, predictions["scores"])
        caption = f"Each point is an example of the {split} split; on the dashed line the prediction is exact."
        plot = Plot("scatter.png", figure, "Scatter plot of predicted over true scores.", caption)
        return [plot] if figure is not None else []
    probabilities, names = np.asarray(predictions["probabilities"]), predictions["names"]
    matrix = classification.confusion(labels, probabilities.argmax(-1), len(names))
    right = f"{np.trace(matrix):,} of {matrix.sum():,} examples are on the diagonal, that is, right."
    read = "numbers count examples" if len(names) <= plots.MOST_NAMED else "the axes number the classes as in the table"
    caption = f"Rows are true classes, columns predicted ones; {read}. {right}"
    found = [Plot("confusion.png", plots.confusion_matrix(matrix, names), f"Confusion matrix: {right}", caption)]
    if (figure := plots.roc_curves(labels, probabilities, names)) is not None:
        kind = f"of {names[1]!r} against {names[0]!r}" if len(names) == 2 else "of each class against the rest"
        caption = f"True over false positive rate {kind} as the threshold falls; the dashed line is chance."
        found.append(Plot("roc.png", figure, f"ROC curves {kind}.", caption))
    if (figure := plots.reliability(labels, probabilities)) is not None:
        caption = (
            "Accuracy of predictions by their confidence (bars above), and the share of predictions in each interval "
            "(below). Bars under the dashed line: the model is surer than it should be."
        )
        found.append(Plot("calibration.png", figure, "Reliability diagram with a histogram of confidence.", caption))
    return found
