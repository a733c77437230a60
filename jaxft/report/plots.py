"""Figures of a run. Each function returns a matplotlib `Figure` and leaves pyplot's global state alone.

Colours are Okabe and Ito's (2008), which colour-blind readers can tell apart.
"""

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from rich.cells import cell_len

from jaxft.metrics import classification
from jaxft.report.tables import spoken

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BROWN, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7A5C2E", "#8A8A8A",
)  # fmt: skip
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BROWN, "#000000", GREY, "#4B2E83")

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9A9A9A",
    "axes.grid": True,
    "axes.labelcolor": "#333333",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.size": 10.5,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "text.parse_math": False,  # a label may hold a dollar sign
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}

CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "Source Han Sans CN",
    "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "Heiti TC", "Hiragino Sans",
    "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo", "NanumGothic", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip

CURVES = (
    *("accuracy", "f1", "f1_macro", "average_precision_macro", "matthews", "roc_auc", "pearson", "spearman"),
    *("mrr@10", "ndcg@10", "recall@10"),
)
"""The metrics worth a curve, where a run has them."""

MOST_ROC, MOST_NAMED = 10, 30
"""So many ROC curves can be told apart, and so many classes can be read on a confusion matrix."""

MOST_POINTS = 20_000


@functools.cache
def _families() -> tuple[str, ...]:
    """Fonts to look a character up in, in order: only those installed, since matplotlib warns of each other one."""
    manager = font_manager.fontManager
    for path in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
        with contextlib.suppress(OSError, RuntimeError):  # a font installed after matplotlib wrote its cache
            manager.addfont(path)
    installed = {font.name for font in manager.ttflist}
    return ("DejaVu Sans", *(name for name in CJK_FONTS if name in installed))


@functools.cache
def _drawable(character: str) -> bool:
    fonts = (font_manager.get_font(font_manager.findfont(family)) for family in _families())
    return any(font.get_char_index(ord(character)) for font in fonts)


def _label(names: Sequence[str], index: int, longest: int = 22) -> str:
    """A class name that fits and can be drawn, else the class's number, as in the report's table."""
    name = " ".join(names[index].split())
    if not name or not all(map(_drawable, name)):
        return f"class {index}"
    return name if len(name) <= longest else name[: longest - 1] + "…"


@contextlib.contextmanager
def _style() -> Iterator[None]:
    style: dict[Any, Any] = {**STYLE, "font.family": list(_families())}
    with matplotlib.rc_context(style):
        yield


def save(figure: Figure, path: Path | io.BytesIO, dpi: int = 180) -> None:
    """Writes a PNG, into a file or into memory."""
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path, format="png", dpi=dpi)


def _axes(title: str, x: str, y: str, size: tuple[float, float] = (6.4, 4.0)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    _title(axes, title)
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontfamily="DejaVu Sans")  # the one font sure to have a bold face: others would be warned of


def series(history: Sequence[Mapping[str, Any]], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one metric. A step that a resumed run did again counts once, as done last."""
    found = {
        int(line["step"]): float(line[name])
        for line in history
        if line.get("split") == split and isinstance(line.get(name), int | float) and math.isfinite(line[name])
    }
    steps = sorted(found)
    return np.array(steps, int), np.array([found[step] for step in steps], float)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Exponential moving average over about a twentieth of the curve, corrected for its start (as Adam's moments)."""
    decay = 1 - 1 / max(1.0, len(values) / 20)
    smooth, average = np.empty_like(values), 0.0
    for i, value in enumerate(values):
        average = decay * average + (1 - decay) * value
        smooth[i] = average / (1 - decay ** (i + 1))
    return smooth


def _step_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.margins(x=0.02)


@_style()
def losses(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss, as logged and smoothed, and validation loss, over steps; `history` is metrics.jsonl's lines."""
    figure, axes = _axes("Loss", "step", "loss")
    steps, values = series(history, "train", "loss")
    if len(steps):
        axes.plot(steps, values, color=BLUE, linewidth=0.8, alpha=0.4, label="training, as logged")
        axes.plot(steps, _smooth(values), color=BLUE, label="training, smoothed")
    steps, values = series(history, "validation", "loss")
    if len(steps):
        axes.plot(steps, values, color=RED, marker="o", markersize=5, linewidth=1.2, label="validation")
    axes.legend()
    _step_axis(axes)
    return figure


@_style()
def metric_curves(history: Sequence[Mapping[str, Any]], split: str = "validation") -> Figure | None:
    """The main metrics of a split over steps; None where its lines hold none of them."""
    curves = [(name, *series(history, split, name)) for name in CURVES]
    curves = [curve for curve in curves if len(curve[1])]
    if not curves:
        return None
    figure, axes = _axes(f"{split.capitalize()} metrics", "step", "metric")
    for (name, steps, values), color in zip(curves, CYCLE, strict=False):
        axes.plot(steps, values, color=color, marker="o", markersize=4, linewidth=1.4, label=spoken(name))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    _step_axis(axes)
    return figure


@_style()
def learning_rate(history: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The learning rate over steps; None where it was not logged."""
    steps, values = series(history, "train", "learning_rate")
    if not len(steps):
        return None
    figure, axes = _axes("Learning rate", "step", "learning rate")
    axes.plot(steps, values, color=BLUE)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    _step_axis(axes)
    return figure


def _compact(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


@_style()
def confusion_matrix(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Counts `[classes, classes]`, coloured by the share of the true class; beyond `MOST_NAMED` classes colour only."""
    matrix, classes = np.asarray(matrix), len(names)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = float(np.clip(2.6 + 0.42 * classes, 4.2, 13.0))
    figure, axes = _axes("Confusion matrix", "predicted", "true", size=(side + 0.9, side))
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, shrink=0.6, aspect=28, pad=0.02, format=PercentFormatter(1, decimals=0))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    if classes > MOST_NAMED:
        return figure
    size = float(np.interp(classes, [2, 10, 30], [13, 10.5, 9]))
    labels = [_label(names, i) for i in range(classes)]
    turn = 0 if classes * max(map(cell_len, labels)) < 48 else 90 if classes > 12 else 40
    axes.set_xticks(range(classes), labels, rotation=turn, fontsize=min(size, 10.5))
    if turn == 40:
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), labels, fontsize=min(size, 10.5))
    axes.tick_params(length=0)
    for i, j in np.ndindex(matrix.shape):
        if matrix[i, j] or classes <= 10:
            color = "white" if share[i, j] > 0.55 else "#222222" if matrix[i, j] else "#AAAAAA"
            axes.text(j, i, _compact(int(matrix[i, j])), ha="center", va="center", color=color, fontsize=size)
    return figure


@_style()
def roc_curves(labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> Figure | None:
    """Receiver operating characteristic: of class 1 for two classes, else of each against the rest.

    At most `MOST_ROC` curves, of the most frequent classes. None where no class has both positives and negatives.
    """
    from sklearn.metrics import auc, roc_curve

    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    count = np.bincount(labels, minlength=len(names))
    defined = [c for c in range(len(names)) if 0 < count[c] < len(labels)]
    if not defined or not np.isfinite(probabilities).all():
        return None
    shown = [1] if len(names) == 2 else sorted(sorted(defined, key=lambda c: -count[c])[:MOST_ROC])
    few = f" (the {MOST_ROC} most frequent of {len(names)} classes)" if len(shown) < len(defined) > 2 else ""
    size = (5.0 if len(names) == 2 else 6.6, 4.6)
    figure, axes = _axes(f"ROC curve{'s' * (len(shown) > 1)}{few}", "false positive rate", "true positive rate", size)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    for c, color in zip(shown, CYCLE, strict=False):
        false, true, _ = roc_curve(labels == c, probabilities[:, c])
        axes.plot(false, true, color=color, label=f"{auc(false, true):.3f}  {_label(names, c)}")
    if len(names) == 2:
        axes.legend(title="area, class", alignment="left", loc="lower right")
    else:
        axes.legend(title="area, class", alignment="left", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure


@_style()
def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> Figure | None:
    """Accuracy by confidence (Guo et al. 2017, figure 1) over a histogram; None if a probability is not finite."""
    if not len(labels) or not np.isfinite(probabilities).all():
        return None
    confidence, accuracy, count = classification.reliability(labels, probabilities, bins)
    error = classification.expected_calibration_error(confidence, accuracy, count)
    figure = Figure(figsize=(5.0, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    left, filled = np.arange(bins) / bins, count > 0
    above.bar(left[filled], accuracy[filled], 1 / bins, align="edge", color=SKY, alpha=0.55, edgecolor="white")
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="perfect calibration")
    above.plot(confidence[filled], accuracy[filled], "o", color=BLUE, markersize=5, label="accuracy in the interval")
    _title(above, f"Calibration (expected error {error:.3f})")
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    above.legend(loc="upper left", frameon=True, edgecolor="none", framealpha=0.85)
    below.bar(left, count / count.sum(), 1 / bins, align="edge", color=GREY, edgecolor="white")
    below.set(xlabel="confidence", ylabel="share")
    below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


@_style()
def thresholds(grid: np.ndarray, curves: Mapping[str, tuple[float, Sequence[float]]]) -> Figure:
    """F1 of each label by its threshold, with a mark where it is given from; at most `MOST_ROC` labels, the first.

    Args:
      grid: thresholds, ascending.
      curves: name -> the threshold, and F1 at each of the grid.
    """
    shown, names = list(curves)[:MOST_ROC], list(curves)
    few = f" (the first {MOST_ROC} of {len(names)} labels)" if len(shown) < len(names) else ""
    figure, axes = _axes(f"F1 by threshold{few}", "threshold", "F1", (6.6, 4.0))
    for n, (name, color) in enumerate(zip(shown, CYCLE, strict=False)):
        threshold, curve = curves[name]
        axes.plot(grid, curve, color=color, label=_label(names, n))
        axes.plot([threshold], [np.interp(threshold, grid, curve)], "o", color=color, markersize=6)
    axes.legend(title="label", alignment="left", loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    return figure


@_style()
def predicted_against_true(labels: np.ndarray, scores: np.ndarray) -> Figure | None:
    """Scatter of `[n]` scores over `[n]` labels, at most `MOST_POINTS` of them; None without a finite score."""
    labels, scores = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    kept = np.flatnonzero(np.isfinite(scores))
    kept = kept[:: max(1, math.ceil(len(kept) / MOST_POINTS))]
    if not len(kept):
        return None
    labels, scores = labels[kept], scores[kept]
    figure, axes = _axes("Predicted and true scores", "true", "predicted", (5.0, 4.6))
    ends = [min(labels.min(), scores.min()), max(labels.max(), scores.max())]
    axes.plot(ends, ends, color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="perfect prediction")
    strength = float(np.clip(12 / math.sqrt(len(kept)), 0.08, 0.8))
    axes.scatter(labels, scores, s=16, color=BLUE, alpha=strength, linewidths=0)
    axes.legend(loc="upper left")
    return figure
