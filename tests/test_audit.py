"""--mode=audit: slices against their law, duplicates against all pairs, and a page of a bounded size."""

import datetime
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from test_report import Reader

from jaxft import cli, config, tables
from jaxft.audit import card, duplicates, findings, page, slices
from jaxft.audit.exposure import Exposure
from jaxft.audit.found import Audit, Duplicate, Mistake
from jaxft.audit.slices import Slice
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.explain.explainer import Explained, Explanation
from jaxft.explain.units import Unit
from jaxft.metrics.probabilities import softmax
from jaxft.modes import auditing
from jaxft.sure import bootstrap, groups
from jaxft.sure.bootstrap import Labelled
from jaxft.sure.calibration import Calibration


def test_a_slice_is_tested_by_the_law_of_its_number():
    """Of 60 rows 12 are wrong, 7 of them among 20: all ways to deal out 12, and those with 7 or more there."""
    wrong = np.zeros(60, bool)
    wrong[:7], wrong[50:55] = True, True
    kinds = {"it": np.arange(20), "others": np.arange(20, 60), "few": np.arange(19), "most": np.arange(41)}
    (one, other) = slices.tested(kinds, wrong)
    ways = sum(math.comb(20, k) * math.comb(40, 12 - k) for k in range(7, 13))
    assert one == ("it", 20, 7, pytest.approx(ways / math.comb(60, 12)), pytest.approx(2 * ways / math.comb(60, 12)))
    ways = sum(math.comb(40, k) * math.comb(20, 12 - k) for k in range(5, 13))
    assert other[:4] == ("others", 40, 5, pytest.approx(ways / math.comb(60, 12))) and other.corrected == other.p
    assert slices.tested({}, wrong) == []


def test_holm_by_hand():
    assert slices.holm([0.01, 0.02, 0.022, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert slices.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9]) and slices.holm([0.7, 0.8]) == [1.0, 1.0]


def test_by_chance_slices_stand_out_as_seldom_as_is_said():
    """Of 300 models that are wrong at random, one slice of 24 that overlap stands out in 5% or fewer."""
    rng = np.random.default_rng(0)
    kinds = {str(n): np.flatnonzero(rng.random(160) < 0.4) for n in range(24)}
    found = [slices.tested(kinds, rng.random(160) < 0.3) for _ in range(300)]
    assert sum(one[0].corrected < 0.05 for one in found) <= stats.binom(300, 0.05).ppf(0.999)
    assert sum(one[0].p < 0.05 for one in found) > 60, "uncorrected it is many more"


def test_kinds_of_rows():
    texts = [f"{'Good' if n % 2 else 'bad'} day, {'x' * (n // 10)}" for n in range(60)]
    columns = {"text": texts, "label": ["a", "b"] * 30, "n": list(range(60)), "_own": [1] * 60}
    found = slices.kinds(Split(pa.table(columns), "rows"), ["text", "pair"], ["a"] * 50 + ["b"] * 10)
    lengths = [len(text) for text in texts]
    parts = {name: rows for name, rows in found.items() if name.startswith("length: ")}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(60)) and 3 <= len(parts) <= slices.PARTS
    for name, rows in parts.items():
        own = [lengths[row] for row in rows]
        assert name == f"length: {min(own)} to {max(own)} characters"
    assert len({name for row, name in enumerate(lengths)}) > len(parts)
    rest = {name: rows.tolist() for name, rows in found.items() if name not in parts}
    odd = list(range(1, 60, 2))
    assert rest == {
        "label: a": list(range(0, 60, 2)), "label: b": odd, "answer: a": list(range(50)),
        "answer: b": list(range(50, 60)), "word: bad": list(range(0, 60, 2)), "word: good": odd,
    }  # fmt: skip
    assert not any(name.startswith("answer") for name in slices.kinds(Split(pa.table(columns), "rows"), ["text"], []))


def test_words_of_most_rows_are_tested(monkeypatch):
    texts = [" ".join(f"w{k}" for k in range(30) if n % (k + 2) == 0) for n in range(400)]
    monkeypatch.setattr(slices, "WORDS", 3)
    assert list(slices._of_words(texts)) == ["word: w0", "word: w1", "word: w2"]


def test_near_duplicates_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    words = np.asarray([f"{a}{b}" for a in ("mor", "tas", "li", "gen") for b in ("na", "ti", "ke", "roum")])
    others = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(60)]
    asked = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(20)]
    for text in others[:30]:
        place = int(rng.integers(len(text)))
        asked.append(text[:place] + "".join(rng.choice(list("xyz"), rng.integers(0, 3))) + text[place + 1 :])
    asked += [others[7].upper().replace(" ", "  \n"), "a", ""]
    for limit in (0.8, 0.5, 1.0):
        expected = {}
        for row, text in enumerate(asked):
            likeness = [
                len(duplicates.grams(text) & one) / len(duplicates.grams(text) | one)
                for one in map(duplicates.grams, others)
            ]
            if max(likeness) >= limit:
                expected[row] = (int(np.argmax(likeness)), max(likeness))
        found = duplicates.near(asked, iter(others), limit)
        assert {one.row: (one.other, one.similarity) for one in found} == expected and len(expected) >= 1
        assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)
    assert duplicates.near(asked, others)[0] == (next(iter(sorted(expected))), *expected[min(expected)])
    assert duplicates.grams("Ab  c") == {"ab c"} and duplicates.grams("abcdef") == {"abcde", "bcdef"}


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


def mistake(words: int = 400) -> Mistake:
    """Of a long text that was explained, of which the model has read a part."""
    text, units, at = " ".join(f"wordy{n}" for n in range(words)) + " tail" * 4000, [], 0
    for n in range(words):
        units.append(Unit(f"wordy{n}", "text", at, at + len(f"wordy{n}")))
        at += len(f"wordy{n}") + 1
    why = Explanation("good", 2.0, 0.97, [math.sin(n) for n in range(words)], None, {}, None)
    return Mistake(
        "r.csv, row 3", {"text": text}, "<bad>", "good", 0.97,
        Explained({"text": text}, {}, units, [why], "integrated_gradients", "pad", True, 1),
    )  # fmt: skip


def audit(**changes: Any) -> Audit:
    rng = np.random.default_rng(0)
    rows = 5000
    many = [Slice(f"word: w{n}", 40, 30, 1e-9, 0.01 if n < 60 else 0.2) for n in range(300)]
    twin = Duplicate(0.9, "r.csv, row 1", "long " * 9000, "bad", "t.csv, row 2", "long " * 9000, "good")
    line = {"where": "t.csv, row 9", "text": "so & so", "given": "bad", "confidently": "good", "normalized_margin": 0.1}
    found = Audit(
        rows=rows,
        level=0.95,
        metrics={"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "loss": 0.5, "threshold/x": 0.5},
        sure={"ece": 0.01, "ece_before": 0.09, "log_loss": 0.4, "log_loss_before": 0.5},
        diagrams={"As it is": (rng.integers(0, 3, rows), rng.dirichlet(np.ones(3), rows))},
        mistakes=[mistake()] * 19 + [mistake()._replace(why=None)],
        wrong=1000,
        slices=many,
        duplicates=[twin] * 2000,
        doubtful=[line] * 900,
        notes=["A note <so>."],
    )
    return found._replace(**changes)


def test_the_page_is_small_and_needs_no_network():
    made = page.made(audit(), "/tmp/run", "r.csv")
    read = Reader(made)
    assert len(made.encode()) < 3e6 and {"script", "link", "iframe"}.isdisjoint(read.tags)
    assert all(source.startswith("data:image/png;base64,") for source in read.sources) and len(read.sources) == 1
    assert "http" not in made.replace("http-equiv", "") and "@import" not in made
    said = "\n".join(read.texts)
    for line in (
        "Audit of run", "/tmp/run · 5,000 rows of r.csv", "A note <so>.", "0.7000 to 0.9000",
        "r.csv, row 3: said good (97.0%), labelled <bad>", "Surest mistakes (20 of 1,000)", "so & so",
        "2,000 of 5,000 rows are near duplicates", "Doubtful labels (50 of 900)", "t.csv, row 9",
    ):  # fmt: skip
        assert line in said, line
    assert (
        "300 slices of 20 rows or more were tested" in said
        and "60 stand out" in said
        and "1,000 wrong answers (20.0%)" in said
    )
    assert said.count("word: w") == page.LISTED and "word: w60" not in said and "75.0%" in said
    assert "threshold" not in said and made.count('class="unit') == 19 * 400 and "tail tail" in said
    assert "0.0900\n0.0100" in "\n".join(line for line in said.splitlines() if line)


def test_a_page_has_what_there_is():
    bare = audit(sure={}, diagrams={}, mistakes=[], wrong=None, slices=[], duplicates=[], doubtful=[], notes=[])
    assert Reader(page.made(bare, "run", "r.csv")).tags.count("h2") == 1
    right = audit(
        mistakes=[],
        wrong=0,
        slices=[Slice("a", 20, 0, 1.0, 1.0)],
        diagrams={"No numbers": (np.zeros(2, int), np.full((2, 2), np.nan))},
    )
    read = Reader(page.made(right, "run", "r.csv"))
    assert not read.sources and any("0 stand out" in text for text in read.texts)


def test_numbers_are_json():
    values = json.loads(json.dumps(audit(duplicates=audit().duplicates[:1]).to_json()))
    assert values.keys() == {*Audit._fields} - {"diagrams"}
    assert values["slices"][0] == {"name": "word: w0", "rows": 40, "wrong": 30, "p": 1e-9, "corrected": 0.01}
    assert values["mistakes"][0]["why"]["units"][0]["text"] == "wordy0" and values["mistakes"][19]["why"] is None


def test_the_card_says_it_in_short():
    """Of the slices that stand out the first ten; what ends a cell of a table does not."""
    worse = [Slice(f"word: a|{n}", 40, 30, 1e-9, 0.01) for n in range(12)]
    exposed = [Exposure("c.jsonl, row 1", "7351", 3, 1001, 8.5), Exposure("c.jsonl, row 2", "12", 1, 1001, 10.0)]
    found = audit(slices=[*worse, Slice("b", 40, 2, 0.5, 1.0)], exposures=exposed)
    assert card.section(found, "r.csv").splitlines() == [
        "## Audit", "", "5,000 rows of r.csv, by jaxft's `--mode=audit`.", "",
        "| metric | value | 95% interval |", "|---|---:|---:|", "| accuracy | 0.8000 | 0.7000 to 0.9000 |",
        "| loss | 0.5000 |  |", "| expected calibration error | 0.0100 |  |",
        "| expected calibration error, not calibrated | 0.0900 |  |", "| log loss | 0.4000 |  |",
        "| log loss, not calibrated | 0.5000 |  |", "",
        "13 slices were tested, and 12 are worse than chance gives (hypergeometric law, corrected p below 5%).", "",
        "| worse on | rows | wrong | corrected p |", "|---|---:|---:|---:|",
        *(f"| word: a\\|{n} | 40 | 30 | 0.01 |" for n in range(10)), "",
        "2,000 rows are near duplicates of training data.", "",
        "| canary | exposure |", "|---|---:|", "| c.jsonl, row 2 | 10.0 bits |", "| c.jsonl, row 1 | 8.5 bits |", "",
        "A note <so>.",
    ]  # fmt: skip
    bare = audit(sure={}, slices=[], duplicates=[], notes=[])
    assert card.section(bare, "r.csv").count("\n\n") == 2 and card.section(bare, "r.csv").endswith("0.5000 |  |\n")


def test_a_card_has_one_audit(tmp_path, capsys):
    """The last one, before how the model is used; whatever else somebody wrote there stays."""
    text = "---\ntags: a\n---\n\n# M\n\n## Metrics\n\n1\n\n## How to use\n\nso\n\n## Audit of bees\n\nmine\n"
    one = card.with_section(text, "## Audit\n\nfirst\n")
    assert one == text.replace("## How", "## Audit\n\nfirst\n\n## How")
    other = card.with_section(one, "## Audit\n\nsecond\n")
    assert other == one.replace("first", "second")
    assert card.with_section("# M", "## Audit\n\n1\n") == "# M\n\n## Audit\n\n1\n"
    assert card.with_section("", "## Audit\n") == "## Audit\n"
    (tmp_path / "export").mkdir()
    assert card.of_run(str(tmp_path)) is None
    (tmp_path / "export" / "README.md").write_text(text, encoding="utf-8")
    there = card.of_run(str(tmp_path))
    assert there is not None
    auditing.tell(there, "## Audit\n\nfirst\n")
    assert there.read_text() == one and [file.name for file in there.parent.iterdir()] == ["README.md"]
    assert capsys.readouterr().err == f"model card: {there}, Audit\n"


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
    monkeypatch.setattr(auditing.Predictor, "open", lambda path: asked.append(path) or SimpleNamespace(**model))
    monkeypatch.setattr(auditing, "explained", lambda predictor, rows, options: explanations(rows))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    given = {"inputs": str(tmp_path / "r.csv"), "output": str(tmp_path / "a.json"), "crossfit": str(doubts(tmp_path))}
    values = auditing.audit(f"{tmp_path}/run/", **given)
    assert asked == [f"{tmp_path}/run/", one.split.table.to_pydict()]
    assert values["rows"] == 60 and values["doubtful"][0]["where"] == "t.csv, row 9" and len(values["mistakes"]) == 20
    assert all(mistake["why"] for mistake in values["mistakes"]) and values["metrics"]["loss"] == 0.25
    assert json.loads((tmp_path / "a.json").read_text())["slices"] == values["slices"]
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="--mode=audit is for one process; start it with --processes=1"):
        auditing.audit(f"{tmp_path}/run", **given)
