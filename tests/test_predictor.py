"""A Predictor answers in memory what --mode=predict writes, of any task, and compiles a few shapes once."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, TINY, count_compilations
from support import once, random_params

from jaxft import cli, config, hub, models, modes, tables, tasks
from jaxft.batch import BatchShape
from jaxft.data.features import Items
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.out import answers, onnx
from jaxft.predict.directory import task_of
from jaxft.predict.predictor import Predictor, run_in
from jaxft.predict.shapes import shape_for

TEXTS = ["what a day", "no", "an apple a day keeps " * 5, "never again, I said, and said it twice", "what a day"]


@pytest.fixture(scope="module")
def predictor(finished):
    return Predictor.open(str(finished))


def test_answers_are_those_of_mode_predict(predictor, finished, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    modes.predict(str(finished), str(tmp_path / "texts.txt"), str(tmp_path / "answers.jsonl"))
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    answers = predictor(TEXTS)
    assert [{"text": text} | answer for text, answer in zip(TEXTS, answers, strict=True)] == written
    assert answers[0]["probability"] == pytest.approx(answers[4]["probability"], rel=1e-6), "the same text"
    others = [answer["probability"] for answer in answers[:4]]
    assert np.diff(sorted(others)).min() > 1e-5, "four that are not"


def test_rows_are_answered_as_texts_are(predictor):
    rows = [{"number": i, "text": text, "sentiment": None} for i, text in enumerate(TEXTS)]
    assert predictor(rows) == predictor(tuple(TEXTS)) == predictor(rows)


def test_an_answer_does_not_depend_on_its_company(predictor):
    alone = [predictor([text])[0] for text in TEXTS]
    close(predictor(TEXTS * 40), alone * 40)


def test_nothing_is_answered_by_nothing(predictor):
    assert predictor([]) == [] == predictor(())


def test_nothing_is_compiled_after_the_first_calls(predictor):
    calls = [["one"], TEXTS, TEXTS * 50, ["a long one " * 40], ["short"] * 80]
    for texts in calls:
        predictor(texts)
    again = [[text.upper() + " too" for text in texts] for texts in calls]
    assert count_compilations(lambda: [predictor(texts) for texts in again]) == 0
    assert count_compilations(lambda: [predictor(["x"] * n) for n in (1, 2, 3, 5, 8, 13, 100)]) == 0


def test_an_export_answers_as_its_run(predictor, finished):
    close(Predictor.open(finished / "export")(TEXTS[:2]), predictor(TEXTS[:2]))


def test_it_knows_the_run_that_made_its_model(predictor, finished):
    """Which says what the model began with; a directory is no run's."""
    assert str(predictor.run) == str(finished) and Predictor.open(finished / "export").run is None


def test_mode_predict_takes_a_directory_too(predictor, finished, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:2]))
    argv = ["--mode=predict", f"--workdir={finished / 'export'}", f"--input={tmp_path / 'texts.txt'}"]
    assert cli.main(["run.py", *argv, f"--output={tmp_path / 'answers.jsonl'}"], None) == 0
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    close(written, [{"text": text} | answer for text, answer in zip(TEXTS[:2], predictor(TEXTS[:2]), strict=True)])


def close(found: Any, wanted: Any) -> None:
    """Answers are the same, numbers in them up to rounding."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            close(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other)
    else:
        assert found == (pytest.approx(wanted, rel=1e-4, abs=1e-5) if isinstance(wanted, float) else wanted)


WORDS = ["alpha", "beta"]
CASES: dict[str, tuple[config.Task, list[Any]]] = {
    "classes": (config.SequenceClassification(labels=("no", "yes"), problem="single_label"), ["a", "b c", "d" * 9]),
    "pairs": (
        config.SequenceClassification(labels=("no", "yes"), problem="single_label", text="one", text_pair="two"),
        [{"one": "a", "two": "b"}, {"one": "b", "two": "a"}],
    ),
    "scores": (config.SequenceClassification(problem="regression"), ["a", "b c"]),
    "several": (config.SequenceClassification(labels=tuple("xyz"), problem="multi_label"), ["a", "b c"]),
    "entities": (
        config.TokenClassification(labels=("O", "B-X", "I-X"), problem="entities"),
        [{"tokens": WORDS}, {"tokens": WORDS * 40}],
    ),
    "words": (config.TokenClassification(labels=("N", "V"), problem="words"), ["alpha beta", "gamma " * 90]),
    "answers": (
        config.QuestionAnswering(unanswerable="no", stride=8),
        [{"question": "who?", "context": "it was me"}, {"question": "what?", "context": "a thing of the past " * 20}],
    ),
    "masked": (config.MaskedLM(), ["a text of some words", "another text, of other words"]),
    "masked, with what follows": (
        config.NextSentence(),
        ["a text of some words. And more.", "other words"],
    ),
    "choices": (
        config.MultipleChoice(),
        [{"context": "so", "choices": ["a", "b"]}, {"context": "and so", "choices": ["a", "b " * 50, "c " * 50]}],
    ),
    "embeddings": (config.SentenceEmbedding(pooling="cls"), ["a", "b c"]),
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Path:
    """A folder of directories of small random models, one a case, as a run exports them."""
    assert MINILM
    folder, model = tmp_path_factory.mktemp("exports"), models.build(TINY)
    for name, (options, _) in CASES.items():
        task, published = tasks.build(options), tables.build(options).published(model, 64)
        extra = {"thresholds": dict.fromkeys("xyz", 0.25)} if name == "several" else {}
        kind = f"Bert{task.hf_class or 'Model'}"
        hf, params = TINY | {**published.settings} | extra, random_params(task, model, seed=0)
        export.export(folder / name, params, hf, kind, MINILM, "A test.", files=published.files)
    return folder


@pytest.mark.parametrize("name", once(CASES, "pairs", "several", "entities", "answers", "choices"))
def test_a_directory_says_its_task(exports, name):
    """Inputs together and alone have the same answers, one each, which differ."""
    options, inputs = CASES[name]
    columns = {
        "pairs": config.SequenceClassification(text="one", text_pair="two"),
        "answers": config.QuestionAnswering(stride=8),
    }
    predictor = Predictor.open(str(exports / name), task=columns.get(name))
    wanted = dataclasses.replace(options, thresholds=(0.25,) * 3) if name == "several" else options
    assert predictor.table.options == wanted
    together = predictor(inputs)
    # Which tokens of a text are hidden depends on its place among the texts.
    alone = inputs[:1] if isinstance(options, config.MaskedLM) else inputs
    close(together[: len(alone)], [predictor([one])[0] for one in alone])
    assert len({json.dumps(answer) for answer in together}) == len(inputs)


@pytest.mark.parametrize("name", once(CASES, "several", "choices"))
def test_a_graph_answers_as_the_program_does(exports, name):
    """The engine of a directory's ONNX graph, for every task."""
    options, inputs = CASES[name]
    directory = exports / name
    onnx.write(directory, *answers.of_directory(directory, options), hub.digest(directory))
    close(*(Predictor.open(directory, task=options, engine=engine)(inputs) for engine in ("onnx", "jax")))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (("O", "B-X", "I-X"), "entities"),
        (("O", "B-X", "I-X", "L-X", "U-X"), "entities"),
        (("B-X", "M-X", "E-X", "S-X", "O"), "entities"),
        (("U-X", "O"), "entities"),
        (("L-ORG", "NN", "O"), "words"),
        (("O", "b-per", "i-per"), "words"),
        (("NOUN", "VERB"), "words"),
    ],
)
def test_tags_of_every_scheme_that_is_read_are_tags(labels, problem, tmp_path):
    hf = {"architectures": ["BertForTokenClassification"], "id2label": dict(enumerate(labels))}
    assert task_of(hf, tmp_path) == config.TokenClassification(labels=labels, problem=problem)


TWO = {"id2label": {"1": "b", "0": "a"}}


@pytest.mark.parametrize(
    ("hf", "options"),
    [
        (TWO, {"labels": ("a", "b"), "problem": "single_label"}),
        ({}, {"labels": ("LABEL_0", "LABEL_1"), "problem": "single_label"}),
        (TWO | {"problem_type": "multi_label_classification"}, {"labels": ("a", "b"), "problem": "multi_label"}),
        ({"id2label": {"0": "LABEL_0"}}, {"problem": "regression"}),
        (TWO | {"problem_type": "regression"}, {"problem": "regression"}),
        (
            {"id2label": {"0": "a"}, "problem_type": "multi_label_classification"},
            {"labels": ("a",), "problem": "multi_label"},
        ),
    ],
)
def test_what_a_classifier_says_of_its_labels(hf, options, tmp_path):
    found = task_of({"architectures": ["BertForSequenceClassification"]} | hf, tmp_path)
    assert found == config.SequenceClassification(**options)


@pytest.mark.parametrize(
    ("modes", "found"),
    [
        (("mean_tokens",), "mean"),
        (("cls_token",), "cls"),
        (("lasttoken",), "last"),
        (("max_tokens",), "pooling by max_tokens; it must be one of mean_tokens, cls_token, lasttoken"),
        (("mean_tokens", "cls_token"), "pooling by cls_token, mean_tokens; it must be"),
        ((), "pooling by nothing; it must be"),
    ],
)
def test_what_sentence_transformers_says_of_its_pooling(modes, found, tmp_path):
    names = ("mean_tokens", "cls_token", "max_tokens", "lasttoken")
    values = {f"pooling_mode_{name}": name in modes for name in names} | {"include_prompt": True}
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(values))
    if found in ("mean", "cls", "last"):
        assert task_of({"architectures": ["BertModel"]}, tmp_path) == config.SentenceEmbedding(pooling=found)
        return
    with pytest.raises(UserError, match=found):
        task_of({"architectures": ["BertModel"]}, tmp_path)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["Transformer", "Pooling", "Dense", "Normalize"], "modules.json: a module Dense stands behind the pooling"),
        ([], "modules.json holds a JSON dict, not a list of objects"),
        (["Transformer", "Pooling", "Normalize"], ""),
    ],
)
def test_what_stands_behind_the_pooling_is_computed_or_refused(kinds, said, tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    modules = [{"idx": at, "type": f"sentence_transformers.models.{kind}"} for at, kind in enumerate(kinds)]
    (tmp_path / "modules.json").write_text(json.dumps(modules or {}))
    if not said:
        assert task_of({"architectures": ["BertModel"]}, tmp_path) == config.SentenceEmbedding(pooling="mean")
        return
    with pytest.raises(UserError, match=said):
        task_of({"architectures": ["BertModel"]}, tmp_path)


def test_what_a_path_names(tmp_path, monkeypatch):
    """A run, which is there or was meant; or the directory of a model, one in a package, or a name on the Hub."""
    monkeypatch.chdir(tmp_path)
    contents = {"runs/run": '{"task": {}}', "broken": "{", "models/bert": '{"model_type": "bert"}', "empty": None}
    for name, content in contents.items():
        (tmp_path / name).mkdir(parents=True)
        if content is not None:
            (tmp_path / name / "config.json").write_text(content)
    for path in ("runs/run", str(tmp_path / "runs/run"), "broken", "empty", "./nowhere", "nowhere", "/no/such/run"):
        assert str(run_in(path)) == str(tmp_path / path)
    for path in ("models/bert", str(tmp_path / "models/bert"), "google-bert/bert-base-cased", "pkg:a", "pkg:a/b/model"):
        assert run_in(path) is None


def test_a_task_may_be_given_with_options_of_its_own(tmp_path):
    """But not another one than that of the class."""
    hf = {"architectures": ["BertForTokenClassification"], "id2label": {"0": "NN", "1": "VB"}}
    asked = config.TokenClassification(tokens="w", tags="t")
    found = config.TokenClassification(tokens="w", tags="t", labels=("NN", "VB"), problem="words")
    assert task_of(hf, tmp_path, asked) == found
    for other in (config.SequenceClassification(), config.SentenceEmbedding()):
        with pytest.raises(UserError, match="the class of TokenClassification; task is a S"):
            task_of(hf, tmp_path, other)


@pytest.mark.parametrize(
    ("labels", "said", "found"),
    [
        (("O", "U-X", "B-X", "L-X"), "U-X", ["So", "it", "is"]),
        (("O", "B-X", "M-X", "E-X"), "M-X", ["So it is"]),
    ],
)
def test_a_tagger_of_bilou_or_bmes_answers_entities(labels, said, found, tmp_path):
    """One that always says the same tag: a unit is an entity, and so is what goes on."""
    assert MINILM
    options, model = config.TokenClassification(labels=labels), models.build(TINY)
    task, published = tasks.build(options), tables.build(options).published(model, 64)
    params = random_params(task, model, seed=0)
    bias = np.where(np.asarray(labels) == said, 50, 0).astype(np.float32)
    params["classifier"] = {"kernel": params["classifier"]["kernel"] * 0, "bias": bias}
    export.export(
        tmp_path / "x", params, TINY | {**published.settings}, "BertForTokenClassification", MINILM, "A test."
    )
    answer = Predictor.open(tmp_path / "x")(["So it is"])[0]
    assert answer["prediction"] == [said] * 3
    assert [(one["label"], one["text"]) for one in answer["entities"]] == [("X", text) for text in found]


def test_a_directory_that_says_no_task(tiny_model, exports, tmp_path):
    with pytest.raises(UserError, match="names BertModel, which answers nothing by itself; give the folder of a run"):
        Predictor.open(tiny_model)
    with pytest.raises(UserError, match="the class of SequenceClassification; task is a MaskedLM"):
        Predictor.open(exports / "classes", task=config.MaskedLM())
    vectors = Predictor.open(tiny_model, task=config.SentenceEmbedding())(["a"])
    assert len(vectors[0]["embedding"]) == TINY["hidden_size"]
    headless = shutil.copytree(tiny_model, tmp_path / "headless")
    values = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps(values | {"architectures": ["BertForSequenceClassification"]}))
    with pytest.raises(UserError, match=r"headless: the weights have no .*classifier/.*; what is not trained"):
        Predictor.open(headless)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_language_model_is_told_by_its_class(name, tmp_path):
    assert task_of({"architectures": [name]}, tmp_path) == config.CausalLM()
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')
    assert task_of({"architectures": [name]}, tmp_path) == config.SentenceEmbedding(pooling="last")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label must name each class: 0, 1, ...; it is"),
        ({"architectures": None}, "names no class, which answers nothing"),
        (
            {"architectures": None},
            r"\(ForSequence.*, ForCausalLM, LMHeadModel, ForMultipleChoice\)",
        ),
        ({"architectures": ["BertForNextSentencePrediction"]}, "names BertForNextSentencePrediction, which"),
    ],
)
def test_a_config_that_cannot_be_read(changes, said, tmp_path):
    hf = {"architectures": ["BertForTokenClassification"]} | changes
    with pytest.raises(UserError, match=said):
        task_of(hf, tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("a text", "a str is one input; give a list of them"),
        ({"text": "a"}, "a dict is one input; give a list of them"),
        (["a", ""], "texts, row 2: column 'text' holds empty text; 1 of 2 rows"),
        (["a", None, "b"], "texts, row 2: 'None' is a NoneType, not a text"),
        ([1, 2], "rows, row 1: '1' is not a dict of columns and values"),
        ([{"text": "a"}, "b"], "rows, row 2: 'b' is not a dict"),
        ([{"text": "a"}, {"text": 2}], "rows, row 2: column 'text' is a number (2), but text in row 1"),
        ([{"text": "a"}, {"text": None}], "rows, row 2: column 'text' holds null"),
        ([{"text": "a"}, {"sentence": "b"}], "rows, row 2: column 'text' holds null"),
        ([{"sentence": "a"}], "rows has no column 'text', which the run reads; it has 'sentence'"),
    ],
)
def test_a_mistake_names_its_row(predictor, data, said):
    with pytest.raises(UserError) as raised:
        predictor(data)
    assert said in str(raised.value)


def test_texts_for_a_task_that_reads_more(exports, finished):
    with pytest.raises(UserError, match=r"the model reads 2 columns; give rows, \{'question': ..., 'context': ...\}"):
        Predictor.open(exports / "answers")(["who?"])
    with pytest.raises(UserError, match=r"is the folder of a run, whose config.json says its task"):
        Predictor.open(finished, task=config.MaskedLM())


@pytest.mark.parametrize("packing", ["auto", "off"])
def test_shapes_are_few_and_hold_every_input(packing):
    experiment = config.Experiment(data=config.Data(max_length=100, packing=packing))
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        sizes = rng.integers(3, rng.integers(4, 101), rng.integers(1, 200))
        shape = shape_for(Items(np.arange(len(sizes) + 1), sizes), experiment, parts=2)
        assert shape.length >= sizes.max() and shape.rows % 2 == 0
        seen.add(shape)
    assert len(seen) == 4
    assert {shape.length for shape in seen} == {32, 104}
    assert all(shape.slots == 1 for shape in seen) == (packing == "off")
    assert max(shape.rows * shape.length for shape in seen) <= (32 * 104 if packing == "off" else 32 * 32 + 2 * 104)


def test_examples_that_stay_together_may_be_longer_than_max_length():
    experiment = config.Experiment(data=config.Data(max_length=64))
    items = Items(np.asarray([0, 3, 5]), np.asarray([150, 90]))
    assert shape_for(items, experiment, parts=1) == BatchShape(1, 256, 16)
    assert shape_for(items, config.Experiment(data=config.Data(max_length=64, packing="off")), parts=1).slots == 4
