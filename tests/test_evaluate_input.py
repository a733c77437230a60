"""--mode=evaluate --input=FILE: a finished run measures any labelled file as it measures its own test split.

It answers, measures and is exported once its data are gone.
"""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from runs import MINILM, TINY, experiment, results
from scipy.stats import spearmanr
from support import random_params

from jaxft import cli, config, models, modes, tables, tasks
from jaxft.data import sources
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.job import prepare
from jaxft.metrics import answers
from jaxft.predict.predictor import Predictor
from jaxft.storage.workdir import Workdir
from jaxft.sure import bootstrap


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, whose data are nowhere: evaluating a file must not need them."""
    copy = shutil.copytree(finished, tmp_path / "run")
    settings = json.loads((copy / "config.json").read_text())
    settings["data"]["source"] = str(tmp_path / "gone.csv")
    (copy / "config.json").write_text(json.dumps(settings))
    return copy


def evaluated(run: Path, file: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[dict[str, Any], str]:
    """What is written of a file, and what is said."""
    argv = ["run.py", "--mode=evaluate", f"--workdir={run}", f"--input={file}", *flags]
    assert cli.main(argv, None) == 0
    return json.loads((run / "evaluations" / f"{file.name}.json").read_text()), capsys.readouterr().err


def test_the_test_split_in_a_file_is_measured_as_the_run_measured_it(
    run, finished, tiny_model, cache, capsys, monkeypatch
):
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=10))
    split = prepare(config.check(experiment(tiny_model, cache))).splits["test"]
    file = run.parent / "held-back.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in split.table.to_pylist()))
    before = {name: (run / name).read_bytes() for name in ("results.json", "metrics.jsonl", "config.json")}
    found, said = evaluated(run, file, capsys, "--evaluate.intervals=0.9", "--evaluate.groups=sentiment")
    of_groups = {name: found.pop(name) for name in [*found] if name.startswith("input[")}
    names = split.table["sentiment"].unique().to_pylist()
    counts = {name: of_groups[f"input[sentiment={name}]/rows"] for name in names}
    right = sum(of_groups[f"input[sentiment={name}]/accuracy"] * count for name, count in counts.items())
    assert sum(counts.values()) == 40 and right / 40 == pytest.approx(found["input/accuracy"])
    assert "sentiment  rows  accuracy" in said
    low, high = (found[f"input/accuracy_{end}"] for end in ("low", "high"))
    assert low < found["input/accuracy"] < high and f"{low:.4f} to {high:.4f}" in said
    ends = [name for name in found if name.endswith(("_low", "_high"))]
    assert len(ends) > 20 and not any(name.startswith("input/loss") for name in ends)
    for name in ends:
        found.pop(name)
    own = {name: value for name, value in results(finished).items() if name.startswith("test/")}
    assert found.pop("file") == str(file) and found.pop("rows") == split.table.num_rows
    assert {f"test/{name.removeprefix('input/')}": value for name, value in found.items()} == pytest.approx(own)
    assert f"{found['input/accuracy']:.4f}" in said and f"metrics: {run}/evaluations/held-back.jsonl.json" in said
    assert {name: (run / name).read_bytes() for name in before} == before


def test_an_export_needs_no_data(run, finished):
    """From the checkpoint alone it is that of the run, but for the source in its card."""
    shutil.rmtree(run / "export")
    assert cli.main(["run.py", "--mode=export", f"--workdir={run}"], None) == 0
    names = {file.name for file in (finished / "export").iterdir()}
    assert {file.name for file in (run / "export").iterdir()} == names
    for name in names - {"README.md"}:
        assert (run / "export" / name).read_bytes() == (finished / "export" / name).read_bytes(), name


def test_answers_need_no_data(run, finished):
    texts = ["what a day", "no"]
    assert Predictor.open(run)(texts) == Predictor.open(finished)(texts)


def test_files_of_one_name_are_kept_apart(tmp_path):
    """The same file again has its place again."""
    folder = Workdir(tmp_path)
    for file, rows in (("/a/new.csv", 3), ("/b/new.csv", 4), ("/a/new.csv", 5)):
        written = folder.write_evaluation(Path(file), {"rows": rows})
        assert json.loads(Path(written).read_text()) == {"file": file, "rows": rows}
    found = {file.name: json.loads(file.read_text()) for file in (tmp_path / "evaluations").iterdir()}
    assert found == {
        "new.csv.json": {"file": "/a/new.csv", "rows": 5}, "new.csv-2.json": {"file": "/b/new.csv", "rows": 4}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.csv",
            "text,sentiment\nx,Angry\n",
            "a.csv, row 1: label 'Angry' is not among those of the run; there are: ",
        ),
        ("a.csv", "text\nx\n", "a.csv has no column 'sentiment', which the run reads; it has 'text'; if its labels"),
        ("a.csv", "text,sentiment\n", "a.csv has no rows"),
        ("a.csv", "text,sentiment\nx,\n", "if its labels are hidden, predict on it by --mode=predict"),
        ("a.txt", "x\ny\n", "a.txt has no column 'sentiment', which the run reads; it has 'text'"),
        ("a.docx", "x", "a.docx is no file that can be read"),
        ("b.csv", "", "--input: there is no"),
    ],
)
def test_a_file_that_cannot_be_measured_is_one_line(run, tmp_path, capsys, name, content, said):
    if content:
        (tmp_path / name).write_text(content)
    assert cli.main(["run.py", "--mode=evaluate", f"--workdir={run}", f"--input={tmp_path / name}"], None) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and said in err, err
    assert not (run / "evaluations").exists()


def test_what_is_odd_in_a_file_is_said(run, tmp_path, capsys):
    names = json.loads((run / "config.json").read_text())["task"]["labels"]
    file = tmp_path / "odd.csv"
    file.write_text(f"text;sentiment\n{'word ' * 99};{names[0]}\nดีมาก; {names[1]}\n", encoding="utf-8")
    found, said = evaluated(run, file, capsys)
    assert found["rows"] == 2
    for line in (
        "odd.csv: cells are separated by ';', as its first lines tell",
        "odd.csv: 1 labels in 'sentiment' have blanks around them, which do not count",
        f"odd.csv lacks the labels {names[2]}",
        "1 of 2 odd.csv texts fill config.data.max_length",
        "% of the odd.csv tokens are unknown to the model's vocabulary",
    ):
        assert line in said, said


WORDS = ["alpha", "beta", "gamma"]
CHOICES = [{"context": f"so {i}", "choices": ["a", f"b {i}", "c c"], "label": i % 3} for i in range(9)]
QUESTIONS = [
    {"question": f"who {i}?", "context": f"it was me {i}", "answers": [{"text": "me", "answer_start": 7}] * (i % 2)}
    for i in range(8)
]
PAIRS = [{"anchor": f"one {i}", "positive": f"two {i * i}", "score": i / 9} for i in range(9)]

CASES: dict[str, tuple[config.Task, list[dict[str, Any]]]] = {
    "several": (
        config.SequenceClassification(labels=tuple("xyz"), problem="multi_label"),
        [{"text": f"text {i}", "label": list("xyz")[: i % 4]} for i in range(12)],
    ),
    "scores": (
        config.SequenceClassification(problem="regression"),
        [{"text": f"text {'very ' * i}good", "label": i / 2} for i in range(9)],
    ),
    "words": (
        config.TokenClassification(labels=("N", "V"), problem="words", stride=8),
        [{"tokens": WORDS * (1 + 9 * (i == 2)), "tags": list("NVN") * (1 + 9 * (i == 2))} for i in range(4)],
    ),
    "answers": (config.QuestionAnswering(unanswerable="yes", stride=8), QUESTIONS),
    "choices": (config.MultipleChoice(), CHOICES),
    "vectors": (config.SentenceEmbedding(score="score"), PAIRS),
    "masked": (config.MaskedLM(), [{"text": "a text of some words and of others, too"}] * 4),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The predictor of a small random model of a case, as a run without a validation split leaves it."""

    def opened(name: str) -> Predictor:
        assert MINILM
        options, model = CASES[name][0], models.build(TINY)
        task, published = tasks.build(options), tables.build(options).published(model, 64)
        folder = tmp_path_factory.mktemp("exports") / "export"
        hf, params = TINY | {**published.settings}, random_params(task, model, seed=0)
        export.export(folder, params, hf, f"Bert{task.hf_class or 'Model'}", MINILM, "A test.", files=published.files)
        (folder.parent / "config.json").write_text(
            json.dumps(
                config.to_dict(
                    config.Experiment(
                        model=config.Model(path=str(folder)),
                        task=options,
                        data=config.Data(source="gone.csv", max_length=24),
                    )
                )
            )
        )
        return Predictor.open(folder.parent)

    return opened


def f1(true: Sequence[set[str]], predicted: Sequence[set[str]], name: str) -> float:
    hits = sum(name in a and name in b for a, b in zip(true, predicted, strict=True))
    return 2 * hits / max(sum(name in a for a in true) + sum(name in b for b in predicted), 1)


def expected(name: str, rows: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics by what predictions say."""
    said: list[Any] = [answer.get("prediction") for answer in answers]
    if name == "several":
        true, predicted = [set(row["label"]) for row in rows], [{*(one or ())} for one in said]
        return {"f1_macro": float(np.mean([f1(true, predicted, label) for label in "xyz"]))}
    if name == "scores":
        errors = [answer["score"] - row["label"] for row, answer in zip(rows, answers, strict=True)]
        return {"mse": float(np.mean(np.square(errors))), "loss": float(np.mean(np.square(errors)))}
    if name == "words":
        pairs = [
            pair for row, tags in zip(rows, said, strict=True) for pair in zip(row["tags"], tags or (), strict=True)
        ]
        return {"accuracy": float(np.mean([a == b for a, b in pairs]))}
    if name == "answers":
        true = [(row["answers"] or [{"text": ""}])[0]["text"] for row in rows]
        return {"exact": float(np.mean([a == b for a, b in zip(true, said, strict=True)]))}
    return {"accuracy": float(np.mean([row["label"] == one for row, one in zip(rows, said, strict=True)]))}


def wrong(name: str, row: dict[str, Any], answer: dict[str, Any]) -> float:
    """How wrong an answer is, by what predictions say."""
    if name == "scores":
        return abs(answer["score"] - row["label"])
    said = answer["prediction"]
    if name == "several":
        return set(row["label"]) != {*said}
    if name == "answers":
        return said != (row["answers"] or [{"text": ""}])[0]["text"]
    return said != (row["tags"] if name == "words" else row["label"])


def errors(predictor: Predictor, rows: list[dict[str, Any]]) -> Any:
    """What a table says of the same answers."""
    table = predictor.table.decide(predictor.table.undecided())
    split = table.read(split_of(rows))
    features, found = predictor.measured(split)
    return table.errors(found.outputs, features, split)


def split_of(rows: list[dict[str, Any]]) -> Split:
    return Split(pa.Table.from_pylist(rows), "rows", key="input")


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("vectors", "masked")])
def test_metrics_are_those_of_the_answers(exported, name):
    """Thresholds that no validation split has chosen are those of predictions, not the best for this very file."""
    rows, predictor = CASES[name][1], exported(name)
    found = predictor.evaluate(rows)
    said = predictor(rows)
    wanted = expected(name, rows, said)
    np.testing.assert_allclose(errors(predictor, rows), [wrong(name, *pair) for pair in zip(rows, said, strict=True)])
    assert {key: found.metrics[key] for key in wanted} == pytest.approx(wanted, rel=1e-4)
    assert found.rows == len(rows)
    undecided = [line for line in found.notes if "no validation split has chosen" in line]
    assert len(undecided) == (name in ("several", "answers"))


def test_vectors_and_hidden_words(exported):
    predictor, rows = exported("vectors"), PAIRS
    one, other = (
        np.asarray([answer["embedding"] for answer in predictor([{"anchor": row[name]} for row in rows])])
        for name in ("anchor", "positive")
    )
    found = predictor.evaluate(rows).metrics
    assert found["spearman"] == pytest.approx(spearmanr((one * other).sum(1), [row["score"] for row in rows])[0])
    assert errors(predictor, rows) is None, "an answer is a vector"
    masked = exported("masked").evaluate(CASES["masked"][1]).metrics
    assert masked["perplexity"] == pytest.approx(np.exp(masked["loss"]), rel=1e-4)
    with pytest.raises(UserError, match=r"--evaluate.intervals: rows are put together and cut into pieces, so that"):
        exported("masked").evaluate(CASES["masked"][1] * 6, intervals=0.9)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("several", {"text": "a", "label": ["x", "q"]}, "row 1: label 'q' is not among those of the run"),
        ("words", {"tokens": ["a"], "tags": ["ADJ"]}, "row 1: tag 'ADJ' is not among those of the run"),
    ],
)
def test_a_label_that_the_run_does_not_know(exported, name, row, said):
    with pytest.raises(UserError) as raised:
        exported(name).evaluate([row])
    assert said in str(raised.value)


def test_questions_that_are_left_out_are_counted(exported):
    predictor = exported("answers")
    options = dataclasses.replace(predictor.table.options, repair="drop")
    predictor.table = tables.build(options)
    wrong = [row | {"answers": [{"text": "me", "answer_start": 1}]} for row in QUESTIONS[:3]]
    found = predictor.evaluate(QUESTIONS + wrong)
    assert (found.rows, found.read) == (8, 11)
    assert any("3 answers in 'answers' are not where they say: 0 moved" in line for line in found.notes)
    with pytest.raises(UserError, match="rows: none of its 3 rows is left to measure on"):
        predictor.evaluate(wrong)


def test_numbers_that_are_names_stay_names():
    """007 is a label of the run, and 7 is none."""
    options = config.SequenceClassification(labels=("007", "12", "x"), problem="single_label")
    split = Split(pa.table({"text": ["a", "b"], "label": ["007", "12"]}), "a.csv", key="input", cells=True)
    read = tables.build(options).read(split)
    tables.build(options).check_labels(read)
    assert read.table["label"].to_pylist() == ["007", "12"]


def test_a_text_file_is_read_as_training_reads_it(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\nthree\n")
    split = sources.read_input(
        str(tmp_path / "a.txt"), config.Data(source="gone", documents=True, train="", subset="s")
    )
    assert split.table.num_rows == 2 and split.key == "input"


def test_rows_and_a_file_at_once(finished):
    with pytest.raises(UserError, match="data and inputs are both given; leave one of them out"):
        modes.evaluate(finished, data={"train": []}, inputs="a.csv")


@pytest.mark.parametrize("method", ["lora", pytest.param("prefix", marks=pytest.mark.matrix)])
def test_a_run_that_trained_an_adapter(tiny_model, cache, tmp_path, capsys, method):
    """A prefix is in no export: it is taken from the checkpoint, and the rest from the base."""
    e = experiment(tiny_model, cache, train={"steps": 2}, data={"shapes": 1})
    e.adapt = method
    own = modes.train(e, str(tmp_path / "run"))
    split = prepare(config.check(experiment(tiny_model, cache))).splits["test"]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in split.table.to_pylist()))
    found, _ = evaluated(tmp_path / "run", file, capsys)
    assert found["input/loss"] == pytest.approx(own["test/loss"], rel=1e-4)
    assert found["input/accuracy"] == own["test/accuracy"]
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    settings["data"]["source"] = str(tmp_path / "gone.csv")
    (tmp_path / "run" / "config.json").write_text(json.dumps(settings))
    adapter = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "adapter")
    modes.export(str(tmp_path / "run"))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == adapter


def test_errors_of_whole_answers():
    """Answers to questions are right where they are one of the true ones; of words a row is right as a whole."""
    true = [["the Broncos", "Denver"], [], ["x"], []]
    assert answers.exact(true, ["denver", "", "", "x"], "words").tolist() == [True, True, False, False]
    assert answers.exact([["北京，"], ["the"]], ["北京", "the"], "characters").tolist() == [True, True]
    assert answers.exact([["the"]], [""], "words").tolist() == [True]
    for options in (config.SentenceEmbedding(score="s"), config.MaskedLM(), config.CausalLM()):
        assert tables.build(options).errors({}, Features(np.zeros(1, int), {}, {}), split_of([{"a": 1}])) is None


def test_parts_of_a_test_split_that_is_not_there(finished, tmp_path, monkeypatch):
    """Told before anything is computed."""
    monkeypatch.setattr("jaxft.modes.evaluating.best_weights", lambda *_: pytest.fail("it computes"))
    with pytest.raises(UserError, match=r"--evaluate.groups: .* has no column 'topic'"):
        modes.evaluate(finished, groups="topic")
    run = shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    settings = json.loads((run / "config.json").read_text())
    settings["data"]["test_examples"] = 0
    (run / "config.json").write_text(json.dumps(settings))
    asked: dict[str, dict[str, Any]] = {"groups": {"groups": "sentiment"}, "intervals": {"intervals": 0.9}}
    for flag, how in asked.items():
        with pytest.raises(UserError, match=rf"--evaluate.{flag} is of a test split, and .*/copy has none; give a"):
            modes.evaluate(run, **how)
