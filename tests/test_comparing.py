"""Two models on the same rows: McNemar's test, intervals of differences, and which answers differ."""

import dataclasses
import datetime
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file
from scipy import stats

from jaxft import cli, config, modes, tables
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.modes import comparing
from jaxft.modes.comparing import Reader, Side, labelled_rows
from jaxft.report.tables import number
from jaxft.sure import bootstrap, paired
from jaxft.sure.bootstrap import Labelled

NAMES = ("a", "b", "c")


def test_mcnemar_by_hand():
    """Of 6 rows that one model alone has right, 1 and 5: 2 (1 + 6) / 2^6."""
    first = np.asarray([0, 1, 1, 1, 1, 1, 0, 0, 1, 1], bool)
    second = np.asarray([1, 0, 0, 0, 0, 0, 0, 0, 1, 1], bool)
    assert paired.mcnemar(first, second) == (1, 5, pytest.approx(14 / 64))
    assert paired.mcnemar(second, first) == (5, 1, pytest.approx(14 / 64))
    assert paired.mcnemar(first, first) == (0, 0, 1.0)
    assert paired.mcnemar(np.zeros(9, bool), np.arange(9) < 4) == (4, 0, pytest.approx(2 / 16))


def side(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = NAMES, problem: str = "single_label") -> Side:
    """A model by its logits; of no labels they are scores."""
    count, truth = len(labels), [names[i] for i in labels] if names else labels.tolist()
    options = config.SequenceClassification(problem=problem, labels=names)
    split = Split(
        pa.table({"text": [f"text {i}" for i in range(count)], "label": truth, "first": [0] * count}), "r.csv"
    )
    features = Features(np.arange(count + 1), {}, {"labels": labels})
    table, outputs = tables.build(options), {"logits": logits}
    answers = list(table.predictions(outputs, features, split))
    labelled = Labelled(split, features, {"logits": "example"}, outputs)
    return Side(table, labelled, answers, table.errors(outputs, features, split))


@pytest.fixture
def pair() -> tuple[Side, Side]:
    """Of 400 rows a model that is right 8 times of 10, and one that answers otherwise in one of ten."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400).astype(np.int32)
    first = np.where(rng.random(400) < 0.8, labels, (labels + 1) % 3)
    second = np.where(rng.random(400) < 0.1, rng.integers(0, 3, 400), first)
    made = [side(4 * np.eye(3)[one] + rng.normal(size=(400, 3)) / 9, labels) for one in (first, second)]
    return made[0], made[1]


def test_intervals_of_differences_are_those_of_pairs(pair, monkeypatch):
    """Of accuracies: that of the mean of each row's difference, far narrower than of other rows for each."""
    right = [~one.errors for one in pair]
    apart = right[1].astype(float) - right[0]
    tables_of, labelled = (pair[0].table, pair[1].table), (pair[0].labelled, pair[1].labelled)
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=30))
    found = paired.differences(tables_of, labelled, 0.9)["accuracy"]
    rng = np.random.default_rng(0)
    drawn = [apart[rng.integers(400, size=400)].mean() for _ in range(30)]
    assert found.difference == pytest.approx(apart.mean())
    assert (found.first, found.second) == pytest.approx((right[0].mean(), right[1].mean()))
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.05, 0.95]))
    error = np.sqrt((right[0].var() + right[1].var()) / 400)
    assert found.low is not None and found.high is not None
    assert found.high - found.low < 0.6 * 2 * stats.norm.ppf(0.95) * error


def test_what_one_model_alone_has_or_a_draw_leaves_undefined(pair, monkeypatch):
    tables_of, labelled = (pair[0].table, pair[1].table), (pair[0].labelled, pair[1].labelled)
    monkeypatch.setattr(bootstrap, "intervals", lambda measure, rows, level: {"accuracy": (-0.5, 0.5)})
    found = paired.differences(tables_of, labelled, 0.9)
    assert found["accuracy"][2:] == (-0.5, 0.5) and found["f1_macro"][2:] == (None, None)
    monkeypatch.setattr(bootstrap, "intervals", lambda measure, rows, level: {"accuracy": (-0.5, -0.5)})
    assert paired.differences(tables_of, labelled, 0.9)["accuracy"][2:] == (None, None), "all draws agree"
    other = side(pair[1].labelled.outputs["logits"][:, :2], pair[1].labelled.features.examples["labels"] % 2, NAMES[:2])
    assert "f1" not in paired.differences((other.table, tables_of[1]), (other.labelled, labelled[1]), 0.9)


def test_which_answers_differ():
    labels = np.asarray([0, 0, 1, 2, 2], np.int32)
    first, second = (side(np.eye(3)[rows], labels) for rows in ([0, 1, 1, 0, 0], [1, 0, 1, 1, 0]))
    found = list(comparing.changes(first, second))
    assert [(line["where"], line["change"]) for line in found] == [
        ("r.csv, row 1", "broken"), ("r.csv, row 2", "mended"), ("r.csv, row 4", "other")
    ]  # fmt: skip
    line = found[0]
    assert line["first"] == first.answers[0] and line["second"] == second.answers[0] and line["input.first"] == 0
    assert line["text"] == "text 0" and line["label"] == "a"


def test_a_line_of_json():
    assert comparing.line_of({"text": "né", "at": datetime.date(2026, 1, 2)}) == '{"text": "né", "at": "2026-01-02"}\n'


def test_how_models_are_opened(monkeypatch):
    """Both by the engine; only the first with other runs. What cannot be drawn anew is not compared."""
    asked: list[Any] = []

    def opened(path: str, **how: Any) -> SimpleNamespace:
        asked.append((path, how))
        return SimpleNamespace(table=tables.build(config.SentenceEmbedding()))

    monkeypatch.setattr(comparing.Predictor, "open", opened)
    with pytest.raises(UserError, match="--compare: each text is looked for among all of the split, so that rows cann"):
        modes.compare("A", "B", engine="onnx", runs=["C"])
    assert asked == [("A", {"engine": "onnx", "runs": ["C"]}), ("B", {"engine": "onnx"})]


def test_scores_are_nearer_or_further():
    first, second = (
        side(np.asarray(scores)[:, None], np.asarray([1.0, 1, 1], np.float32), (), "regression")
        for scores in ([0.5, 2.0, 1.0], [0.75, 3.0, 1.0])
    )
    found = list(comparing.changes(first, second))
    assert [(line["where"], line["change"]) for line in found] == [
        ("r.csv, row 1", "better"),
        ("r.csv, row 2", "worse"),
    ]
    results = comparing.summed(first, second, 0.9)
    assert "mcnemar" not in results and results["metrics"]["mse"]["difference"] == pytest.approx(
        (0.0625 + 4 - 1.25) / 3
    )
    assert [*comparing.changes(first._replace(errors=None), second)] == []
    assert [*comparing.changes(first, second._replace(errors=None))] == []
    assert comparing.said(second.answers[0]) == "0.7500"


def test_what_is_said_of_two_models(pair, monkeypatch):
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=20))
    results = comparing.summed(pair[0], pair[1], 0.9)
    metrics, one = results["metrics"], results["metrics"]["accuracy"]
    (title, rows), (_, counts) = comparing.report(results, 0.9)
    assert title == "Metrics on 400 rows, which are drawn for both alike"
    assert rows[0] == ["metric", "first", "second", "difference", "90% interval"]
    assert [row[0] for row in rows[1:3]] == ["accuracy", "precision macro"] and not any("/" in row[0] for row in rows)
    assert rows[1][1:4] == [f"{one['first']:.4f}", f"{one['second']:.4f}", f"{one['difference']:+.4f}"]
    assert rows[1][4] == f"{one['low']:+.4f} to {one['high']:+.4f}"
    metrics["accuracy"] |= {"low": None, "high": None}
    assert comparing.report(results, 0.9)[0][1][1][4] == ""
    alone = [int((pair[0].errors < pair[1].errors).sum()), int((pair[0].errors > pair[1].errors).sum())]
    assert (
        [row[1] for row in counts[1:3]]
        == [str(n) for n in alone]
        == [str(results["mcnemar"][name]) for name in ("first", "second")]
    )
    assert counts[3][1] == number(results["mcnemar"]["p"])
    lines = list(comparing.changes(*pair))
    made = comparing.made_page(results, lines, 0.9, ("/tmp/old", "/tmp/new"), pair[0])
    assert "<h1>old and new</h1>" in made and "r.csv · first: /tmp/old · second: /tmp/new" in made
    broken = [line for line in lines if line["change"] == "broken"]
    assert f"Broken: right by the first model alone ({len(broken)} of {len(broken)}; all are in FILE.jsonl)" in made
    assert "Worse: " not in made and made.count('<th scope="row" class="name">r.csv, row ') == len(lines)
    first = broken[0]
    cells = (first["text"], first["label"], *(comparing.said(first[name]) for name in ("first", "second")))
    assert "".join(f'<td class="name">{cell}</td>' for cell in cells) in made
    better = [line for line in lines if line["change"] == "mended"]
    assert "Mended: " in comparing.made_page(results, better, 0.9, ("/tmp/old", "/tmp/new"), pair[0])
    monkeypatch.setattr(comparing, "SHOWN", 2)
    assert f"(2 of {len(broken)}; " in comparing.made_page(results, lines, 0.9, ("a", "b"), pair[0])


def test_models_of_another_question():
    own = config.SequenceClassification(labels=("a", "b"), problem="single_label")
    for changes, said in (
        ({"labels": ("a", "c")}, "--compare: B: its labels are a, c, those of the run a, b"),
        (
            {"problem": "multi_label"},
            "--compare: B: its task is SequenceClassification multi_label, that of the run Seq",
        ),
        ({"label": "topic"}, "--compare: B learned the column 'topic' (task.label), the first model 'label'; take mod"),
    ):
        other = dataclasses.replace(own, **changes)
        with pytest.raises(UserError) as raised:
            comparing.check_alike("B", other, own)
        assert str(raised.value).startswith(said)
    swapped = config.SequenceClassification(labels=("b", "a"), problem="single_label", text="tweet", windows="mean")
    comparing.check_alike("B", swapped, own)


@pytest.fixture
def other(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, whose answers lean to the first class."""
    copy = shutil.copytree(finished, tmp_path / "other")
    file = copy / "export" / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"] = tensors["classifier.bias"] + np.asarray([1, 0, 0], np.float32)
    save_file(tensors, file)
    return copy


def test_two_runs_on_their_test_split(finished, other, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=10))
    results = modes.compare(str(finished), str(other), output=str(tmp_path / "rows.jsonl"), intervals=0.8)
    said, one = capsys.readouterr().err, results["metrics"]["accuracy"]
    assert "Metrics on 40 rows" in said and "80% interval" in said and "McNemar" in said and results["rows"] == 40
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert f"{len(lines)} answers that differ: {tmp_path}/rows.jsonl" in said and 0 < len(lines) < 40
    count = {kind: sum(line["change"] == kind for line in lines) for kind in ("mended", "broken")}
    assert (count["mended"] - count["broken"]) / 40 == pytest.approx(one["difference"])
    assert one["first"] == pytest.approx(json.loads((finished / "results.json").read_text())["test/accuracy"])
    assert all(line["second"]["prediction"] == "negative" != line["first"]["prediction"] for line in lines)


def compared(*flags: str) -> int:
    return cli.main(["run.py", "--mode=evaluate", *flags], None)


def test_flags_are_handed_on(monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr(modes, "compare", lambda *args, **how: given.append((args, how)), raising=False)
    argv = ["--workdir=A", "--compare=B", "--output=C.html", "--input=D", "--engine=onnx", "--runs=E,F"]
    assert compared(*argv, "--evaluate.intervals=0.9") == 0
    how = {"output": "C.html", "inputs": "D", "engine": "onnx", "runs": ["E", "F"], "intervals": 0.9}
    assert given == [(("A", "B"), how)]


REFUSED: dict[str, tuple[list[str], str]] = {
    "groups of two": (["--evaluate.groups=a"], "--evaluate.groups is not used with --compare; leave one of them out"),
    "a level": (["--evaluate.intervals=1"], "--evaluate.intervals is 1; it must be below 1"),
    "an output": (["--output=a.csv"], "--output a.csv: a page is FILE.html, numbers are FILE.jsonl"),
    "a file that is not there": (["--input=nowhere.csv"], "--input: there is no nowhere.csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line(finished, capsys, case):
    flags, said = REFUSED[case]
    assert compared(f"--workdir={finished}", "--compare=/nowhere", *flags) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and said in err, err


def test_an_output_without_another_run(finished, capsys):
    assert compared(f"--workdir={finished}", "--output=a.html") == 2
    assert "--output is for what --compare finds; give another run by --compare" in capsys.readouterr().err


def test_rows_are_the_same_or_refused(tmp_path, monkeypatch, capsys):
    table = tables.build(config.SequenceClassification(labels=("a", "b"), problem="single_label"))
    rows = [
        Split(pa.table({"text": [str(i) for i in part], "label": ["a"] * 3}), "r") for part in ([1, 2, 3], [1, 3, 2])
    ]
    readers = [Reader(path, config.Experiment(), table) for path in "AB"]
    for made, wanted in (
        ([{"test": rows[0]}, {"test": rows[0]}], "test"),
        ([{"validation": rows[0]}, {"validation": rows[0]}], "validation"),
        ([{"test": rows[0]}, {"test": rows[1]}], ""),
        ([{"test": rows[0]}, {"validation": rows[0]}], ""),
        ([{"train": rows[0]}, {"train": rows[0]}], ""),
    ):
        answers = iter(made)
        monkeypatch.setattr("jaxft.modes.measured.of_run", lambda *_: next(answers))  # noqa: B023
        if not wanted:
            with pytest.raises(
                UserError, match=r"A and B have no \w+ split of the same rows, so that one may have lea"
            ):
                labelled_rows("", readers)
            continue
        assert labelled_rows("", readers) == [one[wanted] for one in made]
        assert ("on the validation split" in capsys.readouterr().err) == (wanted == "validation")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match=f"--input is missing: {tmp_path} is no run, whose data could be used"):
        labelled_rows("", [readers[0], readers[1]._replace(path=str(tmp_path))])
    (tmp_path / "r.csv").write_text("text,label\nx,a\ny,b\n")
    one, two = labelled_rows(str(tmp_path / "r.csv"), readers)
    assert one.table["label"].to_pylist() == two.table["label"].to_pylist() == ["a", "b"]
    read = iter(rows)
    monkeypatch.setattr("jaxft.modes.measured.of_file", lambda *_: next(read))
    with pytest.raises(UserError, match=r"--compare: of r.csv the models read other rows; give both the same task"):
        labelled_rows("r.csv", readers)
