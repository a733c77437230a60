"""Progress, tables, TensorBoard files, plots and the report page."""

import importlib
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from jaxft import config
from jaxft.metrics import classification
from jaxft.report import page, plots, tables
from jaxft.report.progress import Progress, duration
from jaxft.report.tensorboard import TensorBoard

pytestmark = pytest.mark.usefixtures("drawn")

VALUES = {"loss": 0.5123, "learning_rate": 1.9e-5, "examples_per_second": 142.2, "real_tokens_per_second": 3312.0}


# --- progress


def test_progress_in_a_file_is_plain_lines():
    stream = io.StringIO()
    with Progress(750, start_step=100, stream=stream) as progress:
        progress.update(120, VALUES)
        progress.note("validation accuracy [0.91]")
        progress.update(140, {"loss": 0.00042})
        progress.update(750, {})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 120/750  loss 0.512  lr 1.9e-05  142 examples/s  3,312 tokens/s"
    assert lines[1] == "validation accuracy [0.91]"
    assert re.fullmatch(r"step 140/750  loss 4\.2e-04  \d+:\d\d left", lines[2])
    assert lines[3:] == ["step 750/750"]
    assert all(character.isprintable() for line in lines for character in line)


def test_progress_tells_the_time_left(monkeypatch):
    now = 50.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    stream = io.StringIO()
    progress = Progress(100, stream=stream)
    progress.update(10, {})
    now = 52.0
    progress.update(20, {})  # ten steps in two seconds, eighty to go
    assert stream.getvalue().splitlines()[1] == "step 20/100  0:16 left"
    assert [duration(s) for s in (5, 72.4, 7272)] == ["0:05", "1:12", "2:01:12"]


def test_progress_on_a_terminal_is_one_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream:
        with Progress(750, stream=stream) as progress:
            progress.update(120, VALUES)
            progress.note("a note [with brackets]")
            progress.close()  # a second close, by the context, does no harm
        stream.flush()
        shown = b""
        while not shown.endswith(b"\x1b[?25h"):  # the cursor is back
            assert select.select([master], [], [], 5)[0], shown
            shown += os.read(master, 65536)
        shown = shown.decode()
    os.close(master)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert re.search(r"step 120/750 ━.* loss 0\.512  lr 1\.9e-05  142 ex/s  3,312 tok/s", plain)
    assert "\ra note [with brackets]\r\n" in plain


# --- tables


def test_summary_is_aligned_in_cells():
    lines = tables.summary({"model": "bert", "数据": "a.csv"}).splitlines()
    assert {cell_len(line[: line.index(value)]) for line, value in zip(lines, ("bert", "a.csv"), strict=True)} == {7}


def results_of(predictions: dict, split: str = "test") -> dict[str, float]:
    found = (
        classification.regression(predictions["labels"], predictions["scores"])
        if "scores" in predictions
        else classification.single_label(predictions["labels"], predictions["probabilities"], predictions["names"])
    )
    return {f"{split}/loss": 0.3, **{f"{split}/{name}": value for name, value in found.items()}}


def classified(names: list[str], n: int = 60) -> dict:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(len(names)), n).astype(np.float32)
    return {"labels": np.arange(n) % len(names), "probabilities": probabilities, "names": names}


def test_metrics_table_puts_totals_first_and_aligns_chinese_names():
    predictions = classified(["体育", "finance", "a/b"])
    results = results_of(predictions)
    text = tables.metrics_table(results, "test", predictions["names"])
    total, each = text.split("\n\n")
    assert total.splitlines()[0] == "test"
    assert f"  accuracy         {results['test/accuracy']:.4f}" in total.splitlines()
    assert "/" not in total
    rows = each.splitlines()
    assert [row.split()[0] for row in rows] == ["class", "体育", "finance", "a/b"]
    assert len({cell_len(row) for row in rows}) == 1
    assert rows[1].split()[1:] == [
        tables.number(results[f"test/{kind}/体育"]) for kind in ("precision", "recall", "f1", "support")
    ]


def test_metrics_table_of_many_classes_points_to_the_report():
    predictions = classified([f"c{i}" for i in range(60)])
    assert "60 classes are too many" in tables.metrics_table(results_of(predictions), "test", predictions["names"])


def test_confusion_table():
    text = tables.confusion_table(np.array([[1234, 5], [6, 7]]), ["负面", "positive"])
    assert text.splitlines()[1:] == [
        "             负面  positive",
        "  负面      1,234         5",
        "  positive      6         7",
    ]
    many = tables.confusion_table(np.eye(21, dtype=int), [str(i) for i in range(21)])
    assert "21 classes are too many" in many and len(many.splitlines()) == 1


def test_number():
    values = (0.91234, 1.0, 12, 123456.7, 0.00012, 0.0, None, float("nan"))
    assert " ".join(map(tables.number, values)) == "0.9123 1.0000 12 123,457 1.2e-04 0.0000 n/a n/a"


# --- TensorBoard


def events(folder: Path) -> list:
    parse = importlib.import_module("tensorboardX.proto.event_pb2").Event.FromString
    data, found = b"".join(file.read_bytes() for file in sorted(folder.iterdir())), []
    while data:  # a record: its length in 8 bytes, a checksum in 4, the event, another checksum in 4
        (size,) = struct.unpack("<Q", data[:8])
        found.append(parse(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_tensorboard_does_without_pytorch(tmp_path):
    """It would be imported for two seconds of every run."""
    script = "import sys; from jaxft.report.tensorboard import TensorBoard\n"
    script += "TensorBoard(sys.argv[1]).scalars(1, 'train', {'loss': 1.0}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n" and list(tmp_path.iterdir())


def test_tensorboard_writes_scalars_and_purges(tmp_path):
    board = TensorBoard(tmp_path / "tb", purge_step=100)
    assert not (tmp_path / "tb").exists()
    board.scalars(120, "train", {"loss": 0.5, "learning_rate": 1e-5})
    board.close()
    board.close()
    found = events(tmp_path / "tb")
    scalars = {(e.step, v.tag): v.simple_value for e in found for v in e.summary.value}
    assert scalars == {(120, "train/loss"): 0.5, (120, "train/learning_rate"): pytest.approx(1e-5)}
    assert [e.step for e in found if e.session_log.status] == [100]


# --- plots


def history() -> list[dict]:
    train = [
        {"step": s, "split": "train", "loss": 1 / s, "learning_rate": 1e-5, "examples_per_second": 9.0}
        for s in range(1, 40)
    ]
    evaluations = [{"step": s, "split": "validation", "loss": 0.5, "accuracy": 0.8, "pearson": 0.7} for s in (20, 39)]
    return [*train, *evaluations]


def test_series_counts_a_repeated_step_once_and_drops_what_is_not_finite():
    lines = [
        {"step": 2, "split": "train", "loss": 9.0},
        {"step": 1, "split": "train", "loss": 3.0},
        {"step": 2, "split": "train", "loss": 2.0},
        {"step": 3, "split": "train", "loss": None},
        {"step": 4, "split": "train", "loss": float("inf")},
        {"step": 5, "split": "validation", "loss": 1.0},
    ]
    steps, values = plots.series(lines, "train", "loss")
    assert steps.tolist() == [1, 2] and values.tolist() == [3.0, 2.0]


def test_plots_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    plots.losses(history())
    plots.confusion_matrix(np.eye(2, dtype=int), ["a", "b"])
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.pyplot.get_fignums() == []


def test_what_no_font_draws_is_shown_by_number():
    assert plots._label(["positive"], 0) == "positive"
    assert plots._label(["a", "\U0010fffd"], 1) == "class 1"
    assert plots._label(["a " * 40], 0).endswith("…")


def test_roc_curves_show_the_ten_most_frequent_classes():
    predictions = classified([f"c{i}" for i in range(12)], n=12 * 9 + 3)
    figure = plots.roc_curves(*predictions.values())
    assert figure is not None
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().split()[1] for text in legend.get_texts()] == [f"c{i}" for i in range(10)]
    expected = classification.single_label(predictions["labels"] == 3, predictions["probabilities"][:, [0, 3]], "ab")
    assert legend.get_texts()[3].get_text().startswith(f"{expected['roc_auc']:.3f} ")


def test_undefined_plots_are_none():
    assert plots.roc_curves(np.zeros(3, int), np.full((3, 2), 0.5), ["a", "b"]) is None
    assert plots.reliability(np.zeros(3, int), np.full((3, 2), np.nan)) is None
    assert plots.predicted_against_true(np.zeros(3), np.full(3, np.nan)) is None
    assert plots.metric_curves([]) is None and plots.learning_rate([]) is None


# --- the page


class Reader(HTMLParser):
    """Collects tags, the text, and what the page refers to; notes a tag closed out of order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.sources, self.texts = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        assert tag != "img" or dict(attrs)["alt"]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())


def written(folder: Path, predictions: dict | None, lines: Sequence[dict] = (), **change) -> Reader:
    experiment = config.to_dict(config.Experiment(**change))
    results = results_of(predictions) if predictions else {}
    results |= {"train/seconds": 83.2, "train/padding_fraction": 0.031, "train/made_up": 7}
    path = page.write(folder, experiment, lines, results, predictions)
    assert path == folder / "report" / "index.html"
    return Reader(path.read_text(encoding="utf-8"))


CASES = {
    "binary": (classified(["neg", "pos"]), ["confusion.png", "roc.png", "calibration.png"]),
    "multi-class": (classified(["体育", "b", "c"]), ["confusion.png", "roc.png", "calibration.png"]),
    "regression": ({"labels": np.arange(9.0), "scores": np.arange(9.0) ** 0.5}, ["scatter.png"]),
    "nothing predicted": (None, []),
}


@pytest.mark.parametrize("case", CASES)
def test_page_is_whole_and_shows_its_plots(case, tmp_path):
    predictions, drawn = CASES[case]
    read = written(tmp_path, predictions, history(), name="a run")
    assert read.sources == ["loss.png", "metrics.png", "learning_rate.png", *drawn]
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"index.html", *read.sources}
    for name in read.sources:
        assert Image.open(tmp_path / "report" / name).width > 400
    assert {"script", "link"}.isdisjoint(read.tags)
    assert {"a run", "1:23", "3.1% of the positions", "made up"} <= set(read.texts)
    if predictions:
        results = results_of(predictions)
        headline = "test/accuracy" if "names" in predictions else "test/pearson"
        assert tables.number(results[headline]) in read.texts
        assert set(predictions.get("names", ())) <= set(read.texts)


def test_page_escapes_what_users_name(tmp_path):
    nasty = '<script>alert("x")</script> & $name ${x}'
    predictions = classified([nasty, "$\\frac{"])
    read = written(tmp_path, predictions, name=nasty, data=config.Data(source=nasty), model=config.Model(path=nasty))
    assert "script" not in read.tags
    assert read.texts.count(nasty) >= 3  # the title, the heading, the class


def test_page_replaces_its_files_and_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    written(tmp_path, None, name="first")
    written(tmp_path, None, name="second")
    assert "second" in (tmp_path / "report" / "index.html").read_text()

    def killed(self, *args, **kwargs):
        with open(self, "w") as file:
            file.write("<html>half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, None, name="third")
    assert Reader((tmp_path / "report" / "index.html").read_bytes().decode()).texts.count("second") == 2
