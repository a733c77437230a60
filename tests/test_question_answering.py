"""Question answering: what is read, what is measured, spans of several windows, and a whole run."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import assert_packed_is_padded, experiment, results

from jaxft import config, modes, tables
from jaxft.config import QuestionAnswering
from jaxft.data.features import Features
from jaxft.data.sources import Split, read
from jaxft.metrics import answers
from jaxft.tables.questions import STARTS, TEXTS

SQUAD = {
    # true answer, prediction -> exact, F1, by the definition of evaluate-v2.0.py, worked out by hand
    "the same": ("Denver Broncos", "Denver Broncos", 1, 1),
    "case, punctuation, blanks": ("Denver  Broncos", "denver broncos.", 1, 1),
    "an article": ("The Denver Broncos", "Denver a Broncos", 1, 1),
    "an article inside a word": ("theatre", "atre", 0, 0),
    "an article between hyphens": ("state-of-the-art", "state-of-art", 0, 0),  # punctuation goes first: one word each
    "a part": ("Denver Broncos", "the Broncos", 0, 2 / 3),
    "words repeated": ("to be or not to be", "to to to be", 0, 2 * 3 / 10),
    "nothing shared": ("Denver", "Carolina", 0, 0),
    "an empty prediction": ("Denver", "", 0, 0),
    "no answer": ("", "", 1, 1),
    "no answer, but a prediction": ("", "Denver", 0, 0),
    "articles alone are nothing": ("", "the", 1, 1),
    "other letters": ("Émile Zola", "émile zola", 1, 1),
    "punctuation that is not ASCII stays": ("“Zola”", "Zola", 0, 0),
    "blanks that are not ASCII": ("Émile\u00a0Zola", "Émile Zola", 1, 1),
    "numbers": ("1,000 km", "1000 km", 1, 1),
}


@pytest.mark.parametrize(("true", "predicted", "exact", "f1"), SQUAD.values(), ids=SQUAD)
def test_squad(true: str, predicted: str, exact: float, f1: float):
    assert answers.squad(true, predicted) == pytest.approx((exact, f1), abs=1e-12)


CMRC = {
    "the same": ("北京大学", "北京大学", 1, 1),
    "punctuation": ("《北京》，大学", "北京大学", 1, 1),
    "the longest run": ("北京大学", "北大学", 0, 2 * 2 / 7),
    "order counts": ("大学北京", "北京大学", 0, 2 * 2 / 8),
    "words and characters": ("iPhone 6手机", "iphone手机", 0, 2 * 2 / 7),
    "nothing shared": ("北京", "上海", 0, 0),
    "an empty prediction": ("北京", "", 0, 0),
    "no answer": ("", "", 1, 1),
}


@pytest.mark.parametrize(("true", "predicted", "exact", "f1"), CMRC.values(), ids=CMRC)
def test_cmrc(true: str, predicted: str, exact: float, f1: float):
    assert answers.cmrc(true, predicted) == pytest.approx((exact, f1), abs=1e-12)


def test_the_best_of_several_answers_counts():
    found = answers.scores(
        [["Denver", "Denver Broncos"], ["the", "x"]], ["the Broncos", "x y"], [0, 0], np.inf, "words"
    )
    assert found == pytest.approx({"exact": 0, "f1": 2 / 3})


CASES = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["a b c", "b", "x"]), st.integers(-3, 3)), min_size=1, max_size=8
)


@settings(max_examples=25)
@given(cases=CASES, threshold=st.integers(-4, 4))
def test_answers_that_may_be_missing(cases: list[tuple[bool, str, int]], threshold: int):
    """The best threshold is the best of all, and reaches what is said of it."""
    true = [["b c"] if has else [] for has, _, _ in cases]
    predicted, doubts = [text for _, text, _ in cases], [float(doubt) for *_, doubt in cases]

    def at(threshold: float | None) -> dict[str, float]:
        return answers.scores(true, predicted, doubts, threshold, "words")

    found = at(threshold)
    chosen = ["" if doubt > threshold else text for text, doubt in zip(predicted, doubts, strict=True)]
    each = [answers.squad(part[0] if part else "", text) for part, text in zip(true, chosen, strict=True)]
    assert [found["exact"], found["f1"]] == pytest.approx(np.mean(each, axis=0).tolist())
    tuned = at(None)
    assert tuned["f1"] == at(tuned.pop("threshold/no_answer"))["f1"] >= found["f1"] - 1e-12
    if all(true):
        assert found.keys() == tuned.keys() == {"exact", "f1"}
        return
    assert tuned["f1"] == pytest.approx(found["f1_best"])
    every = [at(t) for t in np.arange(-3.5, 4)]
    for name in ("exact", "f1"):
        best = max(one[name] for one in every)
        assert found[f"{name}_best"] == pytest.approx(best)
        assert at(found[f"{name}_best_threshold"])[name] == pytest.approx(best)
    assert sum(key.endswith("answerable") for key in found) == 2 + 2 * any(true)


@pytest.mark.parametrize(("nulls", "doubt"), [((9.0, 1.0, 3.0), -4.0), ((1.0, 9.0, 9.0), -4.0), ((9.0, 8.0, 7.0), 2.0)])
def test_no_answer_of_a_long_text_is_that_of_the_window_that_believes_it_least(nulls, doubt):
    """As in run_squad.py (Devlin et al. 2019): no answer has the least score of [CLS] of all windows, not the first's.

    Three windows of a text of three words, each of [CLS], one question token and a word; the best answer, of score 5,
    is the second word. Rows before and behind are of other questions.
    """
    count = 5
    scores = [2.0, *[2.0, 5.0, 4.0], 2.0]
    cls = [0.0, *nulls, 0.0]
    tokens = {
        "input_ids": np.tile([1, 2, 3], count),
        "first": np.concatenate([[-1, -1, 3 * word] for word in (0, 0, 1, 2, 0)]),
        "last": np.concatenate([[-1, -1, 3 * word + 2] for word in (0, 0, 1, 2, 0)]),
    }
    found = Features(np.arange(0, 16, 3), tokens, {"row": np.asarray([0, 1, 1, 1, 2])})
    starts = np.concatenate([[null - 1, 50.0, score - 2] for null, score in zip(cls, scores, strict=True)])
    ends = np.tile([1.0, 50.0, 2.0], count)
    split = Split(pa.table({"question": ["?"] * 3, "context": ["aa bb cc"] * 3}), "here")
    table = tables.build(QuestionAnswering(unanswerable="yes", null_threshold=0.0))
    answers = list(table.predictions({"start_logits": starts, "end_logits": ends}, found, split))
    assert [answers[1]["doubt"], answers[1]["prediction"]] == [doubt, "bb" if doubt < 0 else ""]
    assert answers[0]["prediction"] == answers[2]["prediction"] == "aa" and answers[0]["doubt"] == -2.0
    assert [one["text"] for one in answers[1]["n_best"]] == ["bb", "cc", "aa"]


@given(data=st.data())
def test_best_spans_are_those_of_all_spans(data: st.DataObject):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    longest, count = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    starts, every = [0, *data.draw(st.sets(st.integers(1, 6)))], {}
    windows = []
    for begin in starts:
        size = data.draw(st.integers(0, 7))
        s, e, first = rng.normal(size=size), rng.normal(size=size), np.arange(begin, begin + size) * 3
        windows.append(answers.Window(s, e, first, first + 2, 0.0))
        for i in range(size):
            for j in range(i, min(i + longest, size)):
                place = (int(first[i]), int(first[j]) + 2)
                every[place] = max(every.get(place, -np.inf), s[i] + e[j])
    expected = sorted(every.items(), key=lambda item: -item[1])[:count]
    found = answers.best_spans(windows, count, longest)
    assert [(s.start, s.end) for s in found] == [place for place, _ in expected]
    np.testing.assert_allclose([s.score for s in found], [score for _, score in expected])


FORMS = {
    "of SQuAD": [{"text": "Ann", "answer_start": 0}, {"text": "in Rome", "answer_start": 4}],
    "of the Hub": {"text": ["Ann", "in Rome"], "answer_start": [0, 4]},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("empty", [[], None])
def test_answers_are_lists(form, empty):
    none = empty if isinstance(form, list) or empty is None else {"text": [], "answer_start": []}
    table = pa.table({"question": ["who", "what"], "context": ["Ann in Rome"] * 2, "answers": [form, none]})
    found = tables.build(QuestionAnswering()).read(Split(table, "here")).table
    assert found[TEXTS].to_pylist() == [["Ann", "in Rome"], []]
    assert found[STARTS].to_pylist() == [[0, 4], []]


def squad(rows: list[tuple[str, str, str]]) -> str:
    """A file of SQuAD v2: question, context and answer, which is empty where there is none."""
    paragraphs = [
        {"context": c, "qas": [{"id": str(i), "question": q, "is_impossible": not a, "answers": answer}]}
        for i, (q, c, a) in enumerate(rows)
        for answer in [[{"text": a, "answer_start": c.index(a)}] if a else []]
    ]
    return json.dumps({"version": "v2.0", "data": [{"title": "x", "paragraphs": paragraphs}]}, indent=1)


def test_a_squad_file_and_a_flat_one_are_the_same(tmp_path):
    (tmp_path / "a.json").write_text(squad([("who?", "It was Ann.", "Ann"), ("when?", "It was Ann.", "")]))
    (tmp_path / "a.csv").write_text(
        "question,context,answers,answer_start\nwho?,It was Ann.,Ann,7\nwhen?,It was Ann.,,\n"
    )
    sources = [read(config.Data(source=str(tmp_path / name)))["train"] for name in ("a.json", "a.csv")]
    assert sources[0].table.column_names == ["title", "id", "question", "context", "answers"]
    assert [sources[0].table[name].to_pylist() for name in ("title", "id")] == [["x", "x"], ["0", "1"]]
    found = [tables.build(QuestionAnswering()).read(source).table.to_pydict() for source in sources]
    assert found[0] == found[1] == {
        "question": ["who?", "when?"],
        "context": ["It was Ann."] * 2,
        TEXTS: [["Ann"], []],
        STARTS: [[7], []],
    }  # fmt: skip


NAMES, PLACES = ["anna", "peter smith", "zoë"], ["paris", "new york", "rome"]


def stories(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Who went where; every third text is longer than a window; every fourth question has no answer."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        name, place = rng.choice(NAMES), rng.choice(PLACES)
        filler = ["the day was long ."] * (6 if number % 3 == 0 else 1)
        filler.insert(rng.randrange(len(filler) + 1), f"{name} went to {place} .")
        text = " ".join(filler) if number % 4 else "the day was long . " * 2
        question, answer = rng.choice([("who went ?", name), ("where to ?", place)])
        rows.append((question, text, answer if number % 4 else ""))
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, cache) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    for seed, (split, count) in enumerate({"train": 240, "dev": 24, "test": 24}.items()):
        (folder / f"{split}.json").write_text(squad(stories(count, seed)), encoding="utf-8")
    e = experiment(
        tiny_model,
        cache,
        data={"source": str(folder), "encoding": "utf-8", "max_length": 24, "shapes": 1},
        train={"epochs": 5, "eval_every": 0},
        optimizer={"learning_rate": 1e-2},
    )
    for key in ("train_examples", "validation_examples", "test_examples"):
        setattr(e.data, key, 0)
    e.task, e.model.dropout = QuestionAnswering(stride=8, n_best=4), 0.0
    modes.train(e, str(folder / "run"))
    return folder / "run"


def test_a_run_finds_answers(trained):
    found = results(trained)
    assert found["test/f1_unanswerable"] > 0.8 and found["test/f1_answerable"] > 0.8
    assert found["test/f1_best"] >= found["test/f1"] >= found["test/exact"]
    tuned = found["validation/threshold/no_answer"]  # on validation; tested and exported with it
    assert found["validation/f1"] == found["validation/f1_best"] and "test/threshold/no_answer" not in found
    assert json.loads((trained / "export" / "config.json").read_text())["thresholds"] == {"no_answer": tuned}


def test_packed_is_padded(trained, tmp_path):
    assert_packed_is_padded(trained, trained.parent / "test.json", tmp_path)


def test_predictions_have_places_and_alternatives(trained):
    rows = [("who went ?", "Zoë went to New York .", ""), ("where to ?", "the day was long . " * 3, "")]
    (trained.parent / "new.json").write_text(squad(rows), encoding="utf-8")
    modes.predict(str(trained), str(trained.parent / "new.json"), str(trained.parent / "answers.jsonl"))
    lines = (trained.parent / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    found, none = (json.loads(line) for line in lines)
    assert (found["prediction"], found["start"], found["end"], found["id"]) == ("Zoë", 0, 3, "0")
    assert found["score"] == max(one["score"] for one in found["n_best"]) <= 1
    assert len(found["n_best"]) == 4 and found["n_best"][0]["text"] == "Zoë" and found["doubt"] < 0
    assert sum(one["score"] for one in found["n_best"]) == pytest.approx(1)
    assert (none["prediction"], none["start"], none["score"]) == ("", None, None) and none["doubt"] > 0
