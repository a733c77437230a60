"""--mode=audit: what is looked for in rows and answers, and how it is measured, written and said."""

import datetime
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score
from test_audit_page import audit
from test_report import Reader

from jaxft import cli, config, tables
from jaxft.audit import described, findings, page, slices, thresholds
from jaxft.audit.slices import Slice
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.explain.explainer import Explained, Explanation
from jaxft.explain.page import LISTED, Strong
from jaxft.explain.units import Unit
from jaxft.metrics.probabilities import softmax
from jaxft.modes import auditing
from jaxft.sure import bootstrap, groups
from jaxft.sure.bootstrap import Labelled
from jaxft.sure.calibration import Calibration

NAMES = ("bad", "fair", "good")
OPTIONS = config.SequenceClassification(labels=NAMES, problem="single_label")


def labelled(count: int = 30, problem: str = "single_label") -> tuple[tables.Table, Labelled, list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, count).astype(np.int32), 2 * rng.normal(size=(count, 3))
    if problem == "multi_label":
        labels = (rng.random((count, 3)) < 0.5).astype(np.float32)
    columns = {
        "text": [f"text {n}" for n in range(count)],
        "label": [NAMES[i] for i in np.ravel(labels)[:count].astype(int)],
    }
    split, features = Split(pa.table(columns), "r.csv"), Features(np.arange(count + 1), {}, {"labels": labels})
    table = tables.build(config.SequenceClassification(labels=NAMES, problem=problem))
    one = Labelled(split, features, {"logits": "example"}, {"logits": logits})
    return table, one, list(table.predictions(one.outputs, features, split))


def test_the_surest_mistakes_come_first(monkeypatch):
    table, one, answers = labelled()
    wrong = table.errors(one.outputs, one.features, one.split)
    assert wrong is not None
    found = findings.mistakes(table, one.split, answers, wrong)
    assert len(found) == wrong.sum() < 30 == len(answers)
    said = [mistake.confidence for _, mistake in found]
    assert said == sorted(said, reverse=True) == [answers[row]["probability"] for row, _ in found]
    row, first = found[0]
    assert first[:4] == (
        f"r.csv, row {row + 1}",
        {"text": f"text {row}"},
        one.split.table["label"][row].as_py(),
        first.answer,
    )
    assert first.answer == answers[row]["prediction"] != first.truth
    monkeypatch.setattr(findings, "SURES", 2)
    assert findings.mistakes(table, one.split, answers, wrong) == found[:2]
    choice: list[dict[str, Any]] = [{"prediction": 1, "choice": "it", "probability": 0.5}] * 30
    assert findings.mistakes(table, one.split, choice, wrong)[0][1].answer == "it"
    assert findings.mistakes(table, one.split, [{"prediction": "x"}] * 30, wrong) == []
    assert findings.said_of(choice) == [] and findings.said_of(answers) == [one["prediction"] for one in answers]


def test_how_sure_it_is_before_and_after():
    table, one, _ = labelled()
    sure, diagrams = findings.how_sure(table, one)
    assert sure["ece"] == sure["ece_before"] and len(diagrams) == 1
    after = table.calibrated(Calibration("single_label", 3.0))
    figures, drawn = findings.how_sure(after, one)
    assert figures["log_loss"] != figures["log_loss_before"] == sure["log_loss"]
    (_, (_, before)), (title, (labels, probabilities)) = drawn.items()
    np.testing.assert_allclose(before, softmax(one.outputs["logits"]))
    np.testing.assert_allclose(probabilities, softmax(one.outputs["logits"] / 3))
    assert title == "As answers are: temperature 3" and labels.tolist() == one.features.examples["labels"].tolist()
    several, found = findings.how_sure(*labelled(problem="multi_label")[:2])
    assert "ece" in several and found == {}
    for options in (config.SequenceClassification(problem="regression"), config.TokenClassification(labels=("a", "b"))):
        assert findings.how_sure(tables.build(options), one) == ({}, {})


def test_metrics_are_those_over_all_classes(monkeypatch):
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=5))
    table, one, _ = labelled()
    found = findings.measures(table, one)
    assert {"accuracy", "accuracy_low", "ece_high"} <= found.keys() and not any("/" in name for name in found)


def test_rows_that_were_learned_from():
    known = Split(pa.table({"text": ["another one", "text number 3 of them"], "label": ["good", "bad"]}), "train.csv")
    asked = Split(pa.table({"text": ["nothing", "Text  number 3 of them!"], "label": ["good", "fair"]}), "test.csv")
    (found,) = findings.twins(tables.build(OPTIONS), asked, known)
    assert found == (
        found.similarity, "test.csv, row 2", "Text  number 3 of them!", "fair",
        "train.csv, row 2", "text number 3 of them", "bad",
    )  # fmt: skip
    assert 0.9 < found.similarity < 1
    assert groups.truths(config.MaskedLM(), asked) == ["", ""]
    several = Split(pa.table({"text": ["x", "y"], "a": [1, 0], "b": [0, 1]}), "a.csv")
    options = config.SequenceClassification(label_columns=("a", "b"))
    assert groups.truths(options, several) == ["a: 1, b: 0", "a: 0, b: 1"]


def test_what_rows_are():
    """Beside those that were learned from, of which the tokens are not known."""
    own = Split(pa.table({"text": ["a b c", "a b c", "d" * 9, "e"], "label": ["bad", "bad", "good", "fair"]}), "r.csv")
    known = Split(pa.table({"text": ["a", "bcd"], "label": ["good", "fair"]}), "t.csv")
    features = Features(np.asarray([0, 5, 10, 14, 17]), {"input_ids": np.asarray([7, 1] + [8] * 15)}, {})
    found = described.lines(OPTIONS, ["text"], own, features, known, (5, 1))
    assert found == [
        ("rows", 4, 2), ("characters, median", 5, 2), ("characters, 95% have fewer", 8, 3),
        ("rows with the text of an earlier one", 1, 0), ("tokens, median", 4, None),
        ("share that fills the 5 tokens read at once", 0.5, None),
        ("share of tokens that the model does not know", pytest.approx(1 / 17), None),
        ("class bad", 2, 0), ("class good", 1, 1), ("class fair", 1, 1),
    ]  # fmt: skip
    alone = described.lines(OPTIONS, ["text"], own, features, None, (5, -1))
    assert [line.name for line in alone] == [line.name for line in found if "know" not in line.name]
    assert all(line.known is None for line in alone)
    tagged = Split(pa.table({"tokens": [["a", "b"], ["c"]], "tags": [["O", "B-X"], ["O"]]}), "t.jsonl")
    assert described.counts(config.TokenClassification(), tagged) == {"class O": 2, "class B-X": 1}
    several = Split(pa.table({"text": ["a", "b"], "label": [["x", "y"], ["y"]]}), "t.csv")
    options = config.SequenceClassification(problem="multi_label", labels=("x", "y"))
    assert described.counts(options, several) == {"class y": 2, "class x": 1}
    assert described.counts(config.SequenceClassification(problem="regression"), own) == {}
    assert described.counts(config.QuestionAnswering(), own) == {}


def test_thresholds_have_the_f1_of_scikit_learn():
    table, one, _ = labelled(problem="multi_label")
    found = thresholds.curves(table, one)
    held, chances = one.features.examples["labels"] > 0, 1 / (1 + np.exp(-one.outputs["logits"]))
    assert [curve.label for curve in found] == list(NAMES)
    for n, curve in enumerate(found):
        zero: Any = {"zero_division": 0}
        wanted = [f1_score(held[:, n], chances[:, n] >= at / 100, **zero) for at in range(1, 100)]
        np.testing.assert_allclose(curve.curve, wanted)
        assert (curve.threshold, curve.f1) == (0.5, pytest.approx(wanted[49]))
        assert (curve.best, curve.at) == (max(wanted), (np.argmax(wanted) + 1) / 100)
    assert thresholds.f1(np.zeros(3, bool), np.zeros(3, bool)) == 0
    assert thresholds.curves(labelled()[0], labelled()[1]) == []


def test_the_strongest_words_are_of_drawn_rows(monkeypatch):
    split, asked = Split(pa.table({"text": [f"t {n}" for n in range(9)]}), "r.csv"), []

    def why(rows: Split) -> list[Explained]:
        asked.extend(rows.table["text"].to_pylist())
        unit = [Unit("t", "text", 0, 1), Unit("x", "text", 2, 3)]
        one = [Explanation("good", 1.0, 0.5, [0.5, -0.25], None, {}, None)]
        return [Explained({}, {}, unit, one, "integrated_gradients", "pad", False, 1)] * rows.table.num_rows

    monkeypatch.setattr(findings, "DRAWN", 4)
    found = findings.strongest_words(split, why)
    assert found == {"good": [("t", 0.5, 4), ("x", -0.25, 4)]}
    assert len(set(asked)) == 4 and asked == sorted(asked) and findings.strongest_words(split, None) == {}
    many = [Strong(str(n), 20.0 - n, 1) for n in range(41)]
    kept = findings.ends(many)
    assert kept == many[:LISTED] + many[-LISTED:] and findings.ends(many[:3]) == many[:3]


def doubts(folder: Path) -> Path:
    """What a crossfit leaves that is read."""
    line = {"text": "so", "where": "t.csv, row 9", "given": "bad", "confidently": "good", "normalized_margin": 0.125}
    (folder / "doubtful.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "crossfit.json").write_text("{}")
    return folder


def test_a_run(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=10))
    argv = ["--mode=audit", f"--workdir={finished}", f"--audit.crossfit={doubts(tmp_path)}"]
    assert cli.main(["run.py", *argv, f"--output={tmp_path / 'audit.html'}"], None) == 0
    said = capsys.readouterr().err
    assert "40 rows; " in said and f"audit: {tmp_path}/audit.html" in said
    assert "40 rows of " in (finished / "export" / "README.md").read_text().partition("## Audit")[2]
    read = Reader((tmp_path / "audit.html").read_text())
    titles = [
        text for text in read.texts if text in ("Metrics", "How sure") or text.startswith(("Surest", "Where", "Doubt"))
    ]
    assert len(titles) == 5 and "0.1250" in read.texts
    results = json.loads((finished / "results.json").read_text())
    assert f"{results['test/accuracy']:.4f}" in read.texts
    wrong = round(40 * (1 - results["test/accuracy"]))
    assert (
        f"Surest mistakes ({min(wrong, 20)} of {wrong})" in titles
        and "unit for" in (tmp_path / "audit.html").read_text()
    )


REFUSED: dict[str, tuple[str, list[str], str]] = {
    "an output": ("", ["--output=a.jsonl"], "--output a.jsonl: a page is FILE.html, numbers are FILE.json; choose one"),
    "no place": ("export", [], "--output is missing: {run}/export has no report/ for a page; give FILE.html or FILE.j"),
    "no crossfit": ("", ["--audit.crossfit=/nowhere"], "--audit.crossfit: /nowhere holds no finished --mode=crossfit"),
    "no rows": ("export", ["--output=a.html"], "--input is missing: {run}/export is no run, whose data could be used"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line(finished, capsys, case):
    folder, flags, said = REFUSED[case]
    where = finished / folder if folder else finished
    assert cli.main(["run.py", "--mode=audit", f"--workdir={where}", *flags], None) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and said.format(run=finished) in err, err


def test_where_the_page_goes(tmp_path):
    with pytest.raises(UserError, match=f"--output is missing: {tmp_path} has no report/ for a page"):
        auditing.checked_output("", str(tmp_path))
    (tmp_path / "report").mkdir()
    assert auditing.checked_output("", str(tmp_path)) == str(tmp_path / "report" / "audit.html")
    assert auditing.checked_output("a.JSON", "gs://x") == "a.JSON" and auditing.checked_output("a.htm", "") == "a.htm"
    with pytest.raises(UserError, match="--output is missing: gs://x has no report/"):
        auditing.checked_output("", "gs://x")
    with pytest.raises(UserError, match=r"--output a.csv: a page is FILE.html, numbers are FILE.json"):
        auditing.checked_output("a.csv", str(tmp_path))


def test_what_a_crossfit_has_left(tmp_path):
    (line,) = auditing.doubtful_rows(str(doubts(tmp_path)))
    assert line["normalized_margin"] == 0.125 and auditing.doubtful_rows("") == []
    for name in ("crossfit.json", "doubtful.jsonl"):
        doubts(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(UserError, match="holds no finished --mode=crossfit"):
            auditing.doubtful_rows(str(tmp_path))


def returned(value: Any, wanted: list[Any], *given: Any) -> Any:
    assert [*given] == wanted
    return value


def test_rows_that_are_measured(tmp_path, monkeypatch):
    """The test split, or else what chose the checkpoint, which is said; beside a file what was learned from."""
    experiment, table = config.Experiment(), tables.build(OPTIONS)
    rows = {name: Split(pa.table({"text": [name], "label": ["bad"]}), name) for name in ("train", "validation", "test")}
    (tmp_path / "r.csv").write_text("text,label\nx,bad\n")
    for names, measured, said in (
        (("train", "validation", "test"), "test", []),
        (
            ("train", "validation"),
            "validation",
            ["There is no test split: these are the rows by which the best"],
        ),
    ):
        made = {name: rows[name] for name in names}
        monkeypatch.setattr("jaxft.modes.measured.of_run", partial(returned, made, [experiment, table]))
        known, split, notes = auditing.rows_of("/tmp/run", "", experiment, table)
        assert known == rows["train"] and split == rows[measured] and len(notes) == len(said)
        assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))
        known, split, notes = auditing.rows_of("/tmp/run", str(tmp_path / "r.csv"), experiment, table)
        assert known == rows["train"] and split.table["text"].to_pylist() == ["x"] and notes == []

    def gone(*_: Any) -> None:
        raise UserError("the data are gone")

    monkeypatch.setattr("jaxft.modes.measured.of_run", gone)
    known, split, notes = auditing.rows_of("/tmp/run", str(tmp_path / "r.csv"), experiment, table)
    assert known is None and notes == ["Near duplicates were not looked for: the data are gone"]
    with pytest.raises(UserError, match="the data are gone"):
        auditing.rows_of("/tmp/run", "", experiment, table)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    known, split, notes = auditing.rows_of(str(tmp_path), str(tmp_path / "r.csv"), experiment, table)
    assert known is None and "of a model's directory no training data are known" in notes[0]
    with pytest.raises(UserError, match=f"--input is missing: {tmp_path} is no run, whose data could be used"):
        auditing.rows_of(str(tmp_path), "", experiment, table)


def explanations(rows: Split) -> list[Explained]:
    """One for each row, which says which it is."""
    return [
        Explained({"text": text}, {}, [], [], "integrated_gradients", "pad", False, at)
        for at, text in enumerate(rows.table["text"].to_pylist())
    ]


def test_what_is_gathered(monkeypatch):
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=5))
    table, one, answers = labelled(90)
    wrong = table.errors(one.outputs, one.features, one.split)
    assert wrong is not None
    found = findings.gathered(table, one, 0.25, one.split.take(np.arange(3)), explanations, ["A note."])
    assert (found.rows, found.level, found.wrong, found.notes) == (90, 0.95, int(wrong.sum()), ["A note."])
    assert found.metrics == {"loss": 0.25, **findings.measures(table, one)}
    assert found.sure == findings.how_sure(table, one)[0] and len(found.diagrams) == 1
    surest = findings.mistakes(table, one.split, answers, wrong)
    assert [mistake._replace(why=None) for mistake in found.mistakes] == [mistake for _, mistake in surest]
    assert [mistake.why and mistake.why.row["text"] for mistake in found.mistakes] == [
        f"text {row}" for row, _ in surest
    ]
    kinds = slices.kinds(one.split, ["text"], [answer["prediction"] for answer in answers])
    assert found.slices == slices.tested(kinds, wrong) and len(found.slices) > 5 and found.doubtful == []
    assert [twin.other_text for twin in found.duplicates[:3]] == ["text 0", "text 1", "text 2"]
    bare = findings.gathered(table, one, 0.25, None, None, [])
    assert bare.duplicates == [] and all(mistake.why is None for mistake in bare.mistakes) and bare.notes == []
    assert len(bare.mistakes) == 20


def test_scores_have_no_mistakes(monkeypatch):
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=5))
    table = tables.build(config.SequenceClassification(problem="regression"))
    split = Split(pa.table({"text": ["a", "b", "c"], "label": [0.5, 1.0, 2.0]}), "r.csv")
    features = Features(np.arange(4), {}, {"labels": np.asarray([0.5, 1, 2], np.float32)})
    one = Labelled(split, features, {"logits": "example"}, {"logits": np.asarray([[1.0], [0.5], [2.0]])})
    found = findings.gathered(table, one, 0.25, None, explanations, [])
    assert (found.wrong, found.slices, found.mistakes) == (None, [], [])
    assert found.notes == ["Answers are not wrong or right: there are no surest mistakes and no slices."]


def test_a_language_model_has_its_metrics_alone(monkeypatch):
    """What it predicts of a row is not asked for."""
    table = tables.build(config.MaskedLM())
    monkeypatch.setattr(findings, "measures", lambda *_: {"perplexity": 2.0})
    one = Labelled(Split(pa.table({"text": ["a"]}), "r.txt"), Features(np.zeros(2, int), {}, {}), {}, {})
    found = findings.gathered(table, one, 0.25, None, None, [])
    assert found.metrics == {"loss": 0.25, "perplexity": 2.0} and found.wrong is None and not found.sure


def test_words_that_cannot_be_explained():
    table, one, answers = labelled()
    wrong = table.errors(one.outputs, one.features, one.split)
    assert wrong is not None
    found = findings.mistakes(table, one.split, answers, wrong)

    def fails(_: Split) -> list[Explained]:
        raise UserError("it reads windows")

    told = ["Words of the mistakes were not explained: it reads windows"]
    assert findings.with_words(one.split, found, fails) == ([mistake for _, mistake in found], told)
    assert findings.with_words(one.split, [], fails) == ([], [])


def test_what_is_written_and_said(tmp_path, capsys):
    found = audit(slices=[Slice(f"é: {n}", 40, 30, 1e-9, 0.01) for n in range(9)] + [Slice("no", 40, 9, 0.5, 0.5)])
    found = found._replace(doubtful=[{"where": "a", "at": datetime.date(2026, 1, 2)}], mistakes=[], diagrams={})
    found = found._replace(duplicates=[found.duplicates[0]._replace(text="a", other_text="b")] * 2000)
    values = auditing.written(found, str(tmp_path / "a.json"), "/tmp/run", "r.csv")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "A note <so>." and said[-1] == f"audit: {tmp_path}/a.json" and len(said) == 8
    assert said[1] == (
        "r.csv: 5,000 rows; 9 of 10 slices are worse than chance gives, 2,000 rows are near duplicates of training data"
    )
    assert said[2] == "  é: 0: 30 of 40 wrong (corrected p 0.01)"
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text)["slices"] == values["slices"] and '\n  "rows": 5000' in text and '"é: 0"' in text
    assert '"2026-01-02"' in text
    bare = audit(doubtful=[], mistakes=[], diagrams={})
    auditing.written(bare, str(tmp_path / "a.HTML"), "/tmp/run", "r.csv")
    assert (tmp_path / "a.HTML").read_text() == page.made(bare, "/tmp/run", "r.csv")


def test_an_audit_from_start_to_end(tmp_path, monkeypatch):
    """But for the model, whose outputs are given."""
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=5))
    table, one, _ = labelled(60)
    rows = [f"{text},{label}" for text, label in zip(*one.split.table.to_pydict().values(), strict=True)]
    (tmp_path / "r.csv").write_text("\n".join(["text,label", *rows]))
    asked: list[Any] = []

    def measured(split: Split) -> Any:
        asked.append(split.table.to_pydict())
        return one.features, SimpleNamespace(outputs=one.outputs, loss=0.25)

    engine = SimpleNamespace(task=SimpleNamespace(outputs={"logits": "example"}))
    model = {"experiment": config.Experiment(), "table": table, "measured": measured, "engine": engine}
    model["tokenizer"] = lambda: nullcontext(SimpleNamespace(unk_token_id=None))
    monkeypatch.setattr(auditing.Predictor, "open", lambda path: asked.append(path) or SimpleNamespace(**model))
    monkeypatch.setattr(auditing, "explained", lambda predictor, rows, options: explanations(rows))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    given = {"inputs": str(tmp_path / "r.csv"), "output": str(tmp_path / "a.json"), "crossfit": str(doubts(tmp_path))}
    values = auditing.audit(f"{tmp_path}/run/", **given)
    assert asked == [f"{tmp_path}/run/", one.split.table.to_pydict()]
    assert values["data"][0] == {"name": "rows", "measured": 60, "known": None}
    assert values["rows"] == 60 and values["doubtful"][0]["where"] == "t.csv, row 9" and len(values["mistakes"]) == 20
    assert all(mistake["why"] for mistake in values["mistakes"]) and values["metrics"]["loss"] == 0.25
    assert json.loads((tmp_path / "a.json").read_text())["slices"] == values["slices"]
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="--mode=audit is for one process; start it with --processes=1"):
        auditing.audit(f"{tmp_path}/run", **given)
