"""What a table makes of a model's outputs, worked out by hand: answers, plots, what an export says. Nothing is run."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import support
from runs import MINILM

from jaxft import config, hub, models, tables
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError

MODEL = models.build(support.SMALL)
NONE = Features(np.zeros(1, np.int64), {}, {})
"""Features of a table whose answers need none."""


def classes(problem: str, *names: str, **options: Any) -> tables.Table:
    return tables.build(config.SequenceClassification(problem=problem, labels=names, **options))


def answers(table: tables.Table, features: Features = NONE, split: dict[str, list] | None = None, **outputs: Any):
    arrays = {name: np.asarray(value, np.float32) for name, value in outputs.items()}
    return list(table.predictions(arrays, features, Split(pa.table(split or {}), "here")))


def approximately(value: Any) -> Any:
    return pytest.approx(value, abs=1e-6)


def test_one_class_of_several():
    found = answers(classes("single_label", "a", "b"), logits=np.log([[1, 3], [4, 1]]))
    assert [one["prediction"] for one in found] == ["b", "a"]
    assert [one["probability"] for one in found] == approximately([0.75, 0.8])
    assert [one["probabilities"]["a"] for one in found] == approximately([0.25, 0.8])
    assert [one["probabilities"]["b"] for one in found] == approximately([0.75, 0.2])


@pytest.mark.parametrize(("thresholds", "held"), [((), ["a"]), ((0.8, 0.2), ["b"]), ((0.7, 0.2), ["a", "b"])])
def test_several_labels(thresholds, held):
    """Those whose probabilities, 3/4 and 1/4, reach their thresholds, 1/2 each where none are chosen."""
    found = answers(classes("multi_label", "a", "b", thresholds=thresholds), logits=np.log([[3, 1 / 3]]))
    assert found == [{"prediction": held, "probabilities": approximately({"a": 0.75, "b": 0.25})}]


def test_a_score():
    assert answers(classes("regression"), logits=[[1.5], [-2]]) == [{"score": 1.5}, {"score": -2.0}]


def test_thresholds_are_decided_where_several_labels_hold_and_none_are_given():
    table = classes("multi_label", "a", "b")
    assert table.undecided() == {"a": 0.5, "b": 0.5}
    assert table.decide({"b": 0.75, "a": 0.25, "c": 1}).options.thresholds == (0.25, 0.75)  # pyright: ignore
    assert table.decide({"a": 0.25}) is table
    assert classes("multi_label", "a", "b", thresholds=(0.1, 0.2)).undecided() == {}
    single = classes("single_label", "a", "b")
    assert single.undecided() == {} and single.decide({"a": 0.25, "b": 0.75}) is single
    asked = tables.build(config.QuestionAnswering(unanswerable="yes"))
    assert asked.undecided() == {"no_answer": 0.0}
    assert asked.decide({"no_answer": 1.5}).undecided() == {}
    assert tables.build(config.QuestionAnswering(unanswerable="no")).undecided() == {}


def test_what_is_supposed_where_there_are_no_data():
    wanted = [
        (config.SequenceClassification(), {"problem": "single_label", "labels": ("0", "1")}),
        (config.SequenceClassification(problem="regression"), {}),
        (config.SequenceClassification(problem="multi_label"), {"labels": ("0", "1")}),
        (config.SequenceClassification(labels=("a", "b")), {"problem": "single_label"}),
        (config.SequenceClassification(label_columns=("x", "y")), {"problem": "multi_label", "labels": ("x", "y")}),
        (config.TokenClassification(), {"problem": "words", "labels": ("0", "1")}),
        (config.TokenClassification(problem="entities", labels=("O", "B-X")), {}),
        (config.QuestionAnswering(), {"unanswerable": "no"}),
        (config.QuestionAnswering(unanswerable="yes"), {}),
        (config.MaskedLM(), {}),
    ]
    assert [tables.build(options).assume() for options, _ in wanted] == [values for _, values in wanted]


def test_what_an_export_says_of_its_classes():
    kinds = {
        "single_label": "single_label_classification",
        "multi_label": "multi_label_classification",
        "regression": "regression",
    }
    for problem, kind in kinds.items():
        names = () if problem == "regression" else ("a", "b")
        settings = classes(problem, *names).published(MODEL, 64).settings
        assert settings["problem_type"] == kind
        assert list(settings["id2label"].values()) == list(names or ("LABEL_0",))
        assert settings["label2id"] == {name: i for i, name in enumerate(names or ("LABEL_0",))}


def test_what_a_report_draws():
    logits = {"logits": np.log(np.asarray([[1, 3], [4, 1]], np.float32))}
    features = Features(np.asarray([0, 1, 2]), {}, {"labels": np.asarray([1, 1])})
    split = Split(pa.table({}), "here")
    single = classes("single_label", "a", "b").plots(logits, features, split)
    assert single["labels"].tolist() == [1, 1] and single["names"] == ("a", "b")
    np.testing.assert_allclose(single["probabilities"], [[0.25, 0.75], [0.8, 0.2]], rtol=1e-6)
    assert classes("multi_label", "a", "b").plots(logits, features, split) == {"names": ("a", "b")}
    scores = classes("regression").plots(logits, features, split)
    assert scores["scores"].tolist() == logits["logits"][:, 0].tolist() and scores.keys() == {"labels", "scores"}
    tags = ("O", "B-LOC", "I-LOC", "B-A")
    for problem, names in (("words", tags), ("entities", ["A", "LOC"])):
        table = tables.build(config.TokenClassification(labels=tags, problem=problem))
        assert table.plots({}, NONE, split) == {"names": names}


@pytest.mark.parametrize("key", ["text", "text_pair", "label"])
def test_a_column_that_is_missing_is_named_by_its_key(key):
    table = tables.build(config.SequenceClassification(text="t", text_pair="p", label="l"))
    columns = {"text": "t", "text_pair": "p", "label": "l"}
    raw = pa.table({name: ["x"] for name in "tpl" if name != columns[key]})
    with pytest.raises(UserError, match=rf"no column '{columns[key]}'.*config\.task\.{key}"):
        table.read(Split(raw, "here", key="train"))
    if key == "label":
        assert table.read(Split(raw, "here"), labelled=False).table["t"].to_pylist() == ["x"]


def test_tags_and_entities_of_words():
    """Of two rows; of the first the second word has no token: it is no entity."""
    tags = ("O", "B-LOC", "I-LOC")
    features = Features(np.asarray([0, 4, 6]), {"words": np.asarray([-1, 0, 2, -1, 0, 1])}, {"row": np.asarray([0, 1])})
    logits = np.log([[9, 9, 9], [1, 8, 1], [1, 2, 7], [9, 9, 9], [1, 6, 3], [2, 2, 6]])
    table = tables.build(config.TokenClassification(labels=tags, problem="entities"))
    read = table.read(Split(pa.table({"tokens": [["Ob", "\x07", "Rio"], ["New", "York"]]}), "here"), labelled=False)
    first, second = table.predictions({"logits": logits.astype(np.float32)}, features, read)
    assert first["prediction"] == ["B-LOC", "O", "I-LOC"] and second["prediction"] == ["B-LOC", "I-LOC"]
    assert [(one["text"], one["start"], one["end"]) for one in first["entities"]] == [("Ob", 0, 2), ("Rio", 5, 8)]
    assert [one["score"] for one in first["entities"]] == approximately([0.8, 0.7])
    [york] = second["entities"]
    assert (york["label"], york["text"], york["start"], york["end"]) == ("LOC", "New York", 0, 8)
    assert york["score"] == approximately(0.6)
    words = tables.build(config.TokenClassification(labels=tags, problem="words"))
    found = list(words.predictions({"logits": logits.astype(np.float32)}, features, read))
    assert found[1] == {
        "prediction": ["B-LOC", "I-LOC"],
        "words": ["New", "York"],
        "probabilities": approximately([0.6, 0.6]),
    }


def test_windows_share_as_many_tokens_as_asked():
    assert MINILM is not None
    tokenizer = hub.load_tokenizer(MINILM)
    words = [f"{n % 10}" for n in range(30)]
    for stride in (0, 4):
        table = tables.build(config.TokenClassification(labels=("O",), problem="words", stride=stride))
        split = table.read(Split(pa.table({"tokens": [words]}), "here"), labelled=False)
        ids = [one[1:-1] for one in table.features(split, tokenizer, 12, labelled=False)["input_ids"]]
        whole = tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
        step = 10 - stride
        assert ids == [whole[start : start + 10] for start in range(0, 30 - stride, step)]
