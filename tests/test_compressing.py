"""--mode=compress on finished runs and on directories: what it writes, and that it answers as what it measured."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import support
from runs import TINY, save_tiny_model
from test_tokenizers import KINDS
from test_vocabulary import saved

import jaxft
from jaxft import cli, config, hub, models, modes, tables, tasks
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.modes import compressing, plain
from jaxft.out import record
from jaxft.tables import base

TEXTS = ["what a lovely morning", "the train is late again", "so so"]


@pytest.fixture(scope="module")
def small(finished, tmp_path_factory) -> tuple[Path, dict]:
    """A finished run made smaller in every way, by the command line."""
    target = tmp_path_factory.mktemp("small") / "tweets"
    flags = ["--compress.layers=1", "--compress.inner=24", "--compress.words=used"]
    assert cli.main(["run.py", "--mode=compress", f"--workdir={finished}", f"--output={target}", *flags], None) == 0
    return target, json.loads((target / "compress.json").read_text())


def test_each_step_is_measured_and_written(finished, small):
    target, values = small
    steps, results = values["steps"], json.loads((finished / "results.json").read_text())
    assert [step["what"] for step in steps] == ["as it was", "1 layers", "24 units", "words in use"]
    for metric in ("loss", "accuracy"):
        assert steps[0][metric] == pytest.approx(results[f"validation/{metric}"], abs=1e-5)
    assert values["from"] == str(finished) and values["inner"] == 24 and values["layers"] in ([0], [1])
    assert [(step["layers"], step["inner"]) for step in steps] == [(2, 64), (1, 64), (1, 24), (1, 24)]
    assert [step["words"] for step in steps] == [30522] * 3 + [values["words"]] and values["words"] < 5000
    assert all(a["parameters"] > b["parameters"] for a, b in itertools.pairwise(steps))
    last, size = steps[-1], (target / "model.safetensors").stat().st_size
    assert last["bytes"] == 4 * last["parameters"] and last["bytes"] < size < last["bytes"] + 5000
    # The words that are left are those of all that was measured: nothing has changed for it.
    assert last["loss"] == pytest.approx(steps[-2]["loss"], abs=1e-6)
    card = (target / "README.md").read_text()
    assert "| words in use | 1 | 24 |" in card and f"`{finished}` made smaller by jaxft" in card
    assert "model-index" not in card and "tags:\n- jaxft" in card


def test_the_directory_is_a_model_that_answers(finished, small, torch):
    """As PyTorch answers, and as well as was said."""
    import transformers

    target, values = small
    predictor = jaxft.Predictor.open(target)
    answers = predictor(TEXTS)
    theirs = transformers.pipeline("text-classification", model=str(target), tokenizer=str(target))
    for answer, other in zip(answers, theirs(TEXTS), strict=True):
        assert answer["prediction"] == other["label"] and answer["probability"] == pytest.approx(
            other["score"], abs=1e-4
        )
    source = plain.opened(str(finished))
    data, sized = compressing._data(source, "", labelled=True), plain.opened(str(target)).sized
    found = compressing._measured(source, data, sized, target, "written")
    assert found.metrics == {key: pytest.approx(values["steps"][-1][key], abs=1e-6) for key in found.metrics}


def test_it_is_where_a_run_begins(small, finished, cache):
    """With its head and its labels, which are loaded."""
    from jaxft.job import prepare
    from jaxft.pretrained import load

    e = config.from_dict(json.loads((finished / "config.json").read_text()))
    e.model.path = str(small[0])
    job = prepare(config.check(e))
    assert load(job.body.directory, job.program)[1].new == []


def test_words_alone_need_no_labels(finished, tmp_path):
    """Any texts will do, of a model that is no run's; blank lines are none. Nothing is measured."""
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(["What a lovely morning!", "", *TEXTS]))
    values = modes.compress(str(finished / "export"), str(tmp_path / "small"), words="used", inputs=str(file))
    assert [set(step) for step in values["steps"]] == [{"what", "layers", "inner", "words", "parameters", "bytes"}] * 2
    assert values["measured_on"] is None and "layers" not in values
    small, whole = (hub.load_tokenizer(path) for path in (tmp_path / "small", finished / "export"))
    for text in TEXTS:
        assert small.tokenize(text) == whole.tokenize(text)
    now, before = (jaxft.Predictor.open(path)(TEXTS) for path in (tmp_path / "small", finished / "export"))
    assert [one["probability"] for one in now] == pytest.approx([one["probability"] for one in before], abs=1e-5)


def test_a_labelled_file_chooses_for_a_directory(finished, tmp_path):
    """Of a model that is no run's, which reads the columns that `jaxft.config` names."""
    labels = sorted(json.loads((finished / "export" / "config.json").read_text())["label2id"])
    file = tmp_path / "rows.csv"
    file.write_text(
        "text,label\n" + "".join(f"{text} {i},{labels[i % len(labels)]}\n" for i, text in enumerate(TEXTS * 3))
    )
    values = modes.compress(str(finished / "export"), str(tmp_path / "small"), inner=8, inputs=str(file))
    assert values["measured_on"] == "rows.csv" and len(values["steps"]) == 2
    assert {"loss", "accuracy"} <= set(values["steps"][-1])
    assert json.loads((tmp_path / "small" / "config.json").read_text())["intermediate_size"] == 8


def exported(
    options: config.SequenceClassification | config.TokenClassification, tokenizer: Path, folder: Path, hf: dict
) -> Path:
    """A small random model of a task, as a directory."""
    task, hf = tasks.build(options), hf | dict(base.named(options.labels))
    model = models.build(hf)
    export.export(folder, support.random_params(task, model, 0), hf, model.hf_class(task.hf_class), tokenizer, "A.\n")
    return folder


def test_thresholds_are_those_of_the_smaller_model(tiny_model, tmp_path):
    options = config.SequenceClassification(labels=("a", "b"), problem="multi_label")
    hf = TINY | {"problem_type": "multi_label_classification", "thresholds": {"a": 0.011, "b": 0.989}}
    model, file = exported(options, tiny_model, tmp_path / "whole", hf), tmp_path / "rows.jsonl"
    rows = [{"text": f"{text} {i}", "label": [["a"], ["a", "b"], ["b"]][i % 3]} for i, text in enumerate(TEXTS * 3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = modes.compress(str(model), str(tmp_path / "small"), inner=8, inputs=str(file))
    written = hub.read_config(tmp_path / "small")["thresholds"]
    assert written == {name: values["steps"][-1][f"threshold/{name}"] for name in "ab"} != hf["thresholds"]


def test_a_tokenizer_of_words_takes_them_as_before(tmp_path):
    """The directory asks for a blank before each word of a list, as that of a run does of a byte-level tokenizer."""
    options = config.TokenClassification(labels=("O", "B-X", "I-X"), problem="entities")
    tokenizer = saved(KINDS["bytes"](), tmp_path / "bytes")
    model = exported(options, tokenizer, tmp_path / "whole", TINY | {"vocab_size": 330, "pad_token_id": 1})
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"tokens": ["Montag", "nach"]}) + "\n")
    modes.compress(str(model), str(tmp_path / "small"), words="used", inputs=str(file))
    assert hub.read_json(tmp_path / "small" / "tokenizer_config.json")["add_prefix_space"] is True
    small, whole = (hub.load_tokenizer(path, words=True) for path in (tmp_path / "small", model))
    words = [one(["Montag", "nach"], is_split_into_words=True).tokens() for one in (small, whole)]
    assert words[0] == words[1]


def test_texts_as_the_tokenizer_takes_them():
    import pyarrow as pa

    from jaxft.data.sources import Split

    def texts(options: config.Task, **columns: list) -> list:
        return list(compressing._texts(tables.build(options), [Split(pa.table(columns), "rows")]))

    assert texts(config.SequenceClassification(text="a"), a=["x y", None, "z"]) == ["x y", "z"]
    words = config.TokenClassification(tokens="a", labels=("O",), problem="words")
    assert texts(words, a=[["x", "y"], ["z"]]) == [["x", "y"], ["z"]]
    choices = config.MultipleChoice(context="a", question="", choices=("b",))
    assert texts(choices, a=["x"], b=[["y", "z"]]) == ["x", "y", "z"]


def test_the_table_shows_what_was_measured():
    steps = [record.Step("as it was", 2, 64, 30522, 1_000_000, {"loss": 0.5, "f1": 0.25, "other": 1.0})]
    assert record.rows(steps, "f1") == [
        ["", "layers", "units", "tokens", "parameters", "MB", "loss", "f1"],
        ["as it was", "2", "64", "30,522", "1.00M", "4.0", "0.5000", "0.2500"],
    ]
    assert record.rows([steps[0]._replace(metrics={})], "loss")[0][-1] == "MB"


def test_a_run_without_a_plain_model_is_refused(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "export")
    with pytest.raises(UserError, match=r"holds no export/, .* config\.adapt=full has added"):
        modes.compress(str(run), str(tmp_path / "small"), inner=8)


def test_a_model_without_a_head_is_refused(tmp_path):
    model = save_tiny_model(tmp_path / "tiny")
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(UserError, match=r"the weights have no bert/pooler|the weights have no classifier"):
        modes.compress(str(model), str(tmp_path / "small"), inner=8, inputs=str(file))
    assert tasks.build(config.SequenceClassification(labels=("a", "b"))).hf_class == "ForSequenceClassification"
