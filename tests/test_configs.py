"""The files in configs/ say what they do, and do it: on small data of the shape that each of them is for."""

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from absl import flags
from pyarrow import parquet
from runs import ROOT, lines, results, weights

from jaxft import cli, config
from jaxft.cli import arguments

FILES = [ROOT / "run.py", *sorted((ROOT / "configs").glob("*.py"))]
GLUE = ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"]


def commands(file: Path) -> list[list[str]]:
    """The command lines in the docstring of a file."""
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    return [
        shlex.split(found) for found in re.findall(r"^ *python (run\.py.*)$", text.replace("\\\n", ""), re.MULTILINE)
    ]


def parse(argv: list[str]) -> flags.FlagValues:
    """As cli.main does, up to the point where it would begin; fails where it would."""
    values = flags.FlagValues()
    arguments.define(values, argv)
    arguments.check_config(argv)
    assert values(argv)[1:] == []
    assert values.workdir or values.mode in ("plan", "inspect")
    return values


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_docstring_has_commands_that_work(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(file)
    assert any(f"--config=configs/{file.name}" in " ".join(argv) for argv in found) or file.name == "run.py"
    for argv in found:
        values = parse(argv)
        if values.mode == "train":
            assert config.check(values.config).name
    assert found


@pytest.mark.parametrize("task", GLUE)
def test_every_glue_task_has_a_config(task):
    experiment = config.check(config.load(f"{ROOT}/configs/glue.py:{task}"))
    assert (experiment.name, experiment.data.subset) == (f"glue-{task}", task)
    assert isinstance(experiment.task, config.SequenceClassification)
    assert (experiment.task.problem == "regression") == (task == "stsb")
    assert f"  {task} " in (ROOT / "configs" / "glue.py").read_text()


def test_help_names_every_key(capsys):
    assert cli.main(["run.py", "--help"], "How to use it.") == 0
    text = capsys.readouterr().out
    assert text.startswith("How to use it.")
    experiments = [config.Experiment(task=task()) for task in config.TASKS.values()]
    for key, holder, field in (knob for one in experiments for knob in config.walk(one)):
        meaning = f"{field.metadata['doc']} [{getattr(holder, field.name)!r}]"
        assert re.search(rf"^  {re.escape(key)} +{re.escape(meaning)}$", text, re.MULTILINE), key
    for flag in ("mode", "workdir", "input", "output", "overwrite", "debug", "config"):
        assert re.search(rf"--(\[no\])?{flag}\b", text), flag


def test_help_for_a_config_has_its_keys_and_values(capsys):
    config_file = ROOT / "configs" / "quickstart.py"
    assert cli.main(["run.py", f"--config={config_file}", "--help"], "") == 0
    text = capsys.readouterr().out
    assert "column with the label ['sentiment']" in text and "\n  task: SequenceClassification\n" in text
    assert "TokenClassification" not in text


def test_texts_are_read_with_and_without_quotes():
    for written in ("a,b", "a, b,", "('a', 'b')", '["a", "b"]'):
        values = parse(
            ["run.py", f"--config={ROOT}/configs/quickstart.py", "--workdir=x", f"--config.data.columns={written}"]
        )
        assert values.config.data.columns == ("a", "b")


@pytest.fixture
def train(tmp_path, tiny_model, cache):
    """A short run of a config file on other data; returns its folder."""

    def run(target: str, *changes: str, name: str = "run") -> Path:
        own = {"model.path": tiny_model, "data.cache": cache, "data.max_length": 16, "data.shapes": 1}
        own |= {"train.batch_size": 8, "train.steps": 4, "train.eval_every": 1, "optimizer.learning_rate": 0.01}
        keys = [f"--config.{key}={value}" for key, value in own.items()]
        argv = ["run.py", f"--config={ROOT}/configs/{target}", f"--workdir={tmp_path / name}", *keys, *changes]
        assert cli.main(argv, None) == 0
        return tmp_path / name

    return run


def selected(workdir: Path, metric: str) -> list[float]:
    """The validation values of a metric, the one of the exported checkpoint first."""
    values = {line["step"]: line[metric] for line in lines(workdir) if line["split"] == "validation"}
    assert len(set(values.values())) > 1, "values that are all alike select nothing"
    return [values.pop(results(workdir)["best_step"]), *values.values()]


Labels = list[str] | None
"""The names of a ClassLabel, or scores."""


def save_glue(folder: Path, columns: tuple[str, str], names: Labels, splits: dict[str, range]) -> Path:
    """A data set as GLUE is on the Hub: pairs of sentences, a class or a score; the labels of test are hidden."""
    import datasets

    label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    text = datasets.Value("string")
    features = datasets.Features(dict.fromkeys(columns, text) | {"label": label, "idx": datasets.Value("int32")})
    animals = ("cat", "dog", "fox")

    def row(i: int, hidden: bool) -> dict[str, Any]:
        first, second = animals[i % 3], animals[i // 3 % 3]
        label = i % len(names) if names else 5.0 * (first == second) + i / 100
        texts = (f"number {i} is a {first}", f"the {second} has number {i}")
        return dict(zip(columns, texts, strict=True)) | {"label": -1 if hidden else label, "idx": i}

    found: Any = {
        name: datasets.Dataset.from_list([row(i, name == "test") for i in part], features=features)
        for name, part in splits.items()
    }
    datasets.DatasetDict(found).save_to_disk(folder)
    return folder


def glue_flags(source: Path) -> tuple[str, str]:
    return f"--config.data.source={source}", "--config.data.subset="


@pytest.mark.matrix
def test_pairs_with_two_classes(train, tmp_path):
    splits = {"train": range(32), "validation": range(32, 48), "test": range(48, 52)}
    data = save_glue(tmp_path / "mrpc", ("sentence1", "sentence2"), ["not_equivalent", "equivalent"], splits)
    workdir = train("glue.py:mrpc", *glue_flags(data))
    best, *others = selected(workdir, "f1")
    assert best >= max(others)
    found = results(workdir)
    assert found["validation/f1"] == best
    assert found["validation/support/equivalent"] + found["validation/support/not_equivalent"] == 16
    assert not any(name.startswith("test/") for name in found)

    inputs, answers = tmp_path / "pairs.csv", tmp_path / "answers.jsonl"
    inputs.write_text("sentence1,sentence2\na cat,a dog\na dog,a cat\n")
    flags = [f"--workdir={workdir}", f"--input={inputs}", f"--output={answers}"]
    assert cli.main(["run.py", "--mode=predict", *flags], None) == 0
    one, other = (json.loads(line) for line in answers.read_text().splitlines())
    assert (one["sentence1"], other["sentence1"]) == ("a cat", "a dog")
    assert {one["prediction"], other["prediction"]} <= {"equivalent", "not_equivalent"}
    assert one["probability"] != other["probability"], "the second text is left out"


def test_scores(train, tmp_path):
    splits = {"train": range(32), "validation": range(32, 48), "test": range(48, 52)}
    data = save_glue(tmp_path / "stsb", ("sentence1", "sentence2"), None, splits)
    workdir = train("glue.py:stsb", *glue_flags(data))
    best, *others = selected(workdir, "pearson")
    found = results(workdir)
    assert best >= max(others) and found["validation/pearson"] == best
    assert -1 <= found["validation/spearman"] <= 1
    assert json.loads((workdir / "export" / "config.json").read_text())["problem_type"] == "regression"


def test_mismatched_validation_is_the_test_and_the_smallest_loss_is_best(train, tmp_path):
    names = ["entailment", "neutral", "contradiction"]
    splits = {"train": range(32), "validation_matched": range(32, 48), "validation_mismatched": range(48, 60)}
    data = save_glue(tmp_path / "mnli", ("premise", "hypothesis"), names, splits)
    workdir = train("glue.py:mnli", *glue_flags(data), "--config.train.metric=loss")
    best, *others = selected(workdir, "loss")
    found = results(workdir)
    assert best <= min(others) and found["validation/loss"] == best
    assert sum(found[f"test/support/{name}"] for name in names) == 12


ROWS = [
    {"text": f"{word} number {i}", "label": label} for label in ("bad", "good") for i in range(20) for word in [label]
]


def save_csv(folder: Path) -> Path:
    (folder / "a.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS))
    return folder / "a.csv"


def save_json_lines(folder: Path) -> Path:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder / "a.jsonl"


def save_parquet(folder: Path) -> Path:
    parquet.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")
    return folder / "a.parquet"


def save_text_files(folder: Path) -> Path:
    for i, row in enumerate(ROWS):
        file = folder / "texts" / row["label"] / f"{i:03}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(row["text"] + "\n")
    return folder / "texts"


@pytest.mark.matrix
def test_the_same_data_in_any_kind_of_file_are_the_same_run(train, tmp_path):
    runs = {
        save.__name__: train(f"text_files.py:{save(tmp_path)}", "--config.data.test_examples=8", name=save.__name__)
        for save in (save_csv, save_json_lines, save_parquet, save_text_files)
    }
    found = [(results(workdir), weights(workdir)) for workdir in runs.values()]
    assert found[0][0]["test/support/bad"] + found[0][0]["test/support/good"] == 8
    assert 0 <= found[0][0]["test/accuracy"] <= 1 and found[0][0]["train/steps"] == 4
    assert all(one == found[0] for one in found)


def test_without_validation_every_example_trains_and_the_last_step_is_exported(train, tmp_path):
    workdir = train(
        f"text_files.py:{save_csv(tmp_path)}", "--config.data.validation_fraction=0", "--config.train.steps=5"
    )
    assert {line["split"] for line in lines(workdir)} == {"train"}
    found = results(workdir)
    assert found["best_step"] == found["train/steps"] == 5 and len(weights(workdir)) > 0
    assert all(name.startswith("train/") for name in found.keys() - {"best_step"})
    assert (workdir / "report" / "index.html").exists()


def test_keys_that_are_new_leave_older_runs_as_they_are():
    """A run of 0.1.0 resumes: what a key at its default says is what was so before there was the key."""
    before = config.Experiment()
    new = {"data.delimiter", "data.truncate", "optimizer.name", "optimizer.ema", "task.focal", "objective.r_drop"}
    assert not {key for key in config.keys(before) if key.startswith("objective.")} & config.defining(before).keys()
    assert not new & config.defining(before).keys() and set(new) <= set(config.keys(before))
    changed = config.Experiment(data=config.Data(truncate="tail"))
    written = config.to_dict(before)
    del written["objective"], written["optimizer"]["name"], written["task"]["focal"]
    assert config.to_dict(config.from_dict(written)) == config.to_dict(before)
    assert config.differences(before, changed) == ["data.truncate: 'head' there, 'tail' here"]
