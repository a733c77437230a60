"""--mode=attack: words are changed as the methods say, within the budget; what is said of it the model says."""

import json
import re
import shutil
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, TINY
from support import random_params

from jaxft import Predictor, cli, config, hub, models, modes, tables, tasks
from jaxft.attack import edits, outcome, search, words
from jaxft.attack.options import METHODS, Options
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.predict.engine import CompiledEngine

TEXTS = [
    "What a lovely day in the old café",
    "this is the worst phone I ever had!",
    "ok then, we shall see about that déjà vu",
    "a naïve book with a good end",
    "never again",
    "no",
]

LABELS = ("a", "b", "c")


def test_spelling_by_hand():
    assert edits.beside("g") == "fhtyvb" and edits.beside("Q") == "WA" and edits.beside("é") == edits.beside("1") == ""
    assert edits.beside("m") == "njk" and edits.beside("p") == "ol" and edits.beside("z") == "xas"
    assert edits.typos("cap") == ["csp", "cqp", "cwp", "czp"]
    assert edits.typos("to") == edits.swaps("the") == edits.deletions("at") == []
    assert edits.swaps("word") == ["wrod"] and edits.swaps("words") == ["wrods", "wodrs"]
    assert edits.deletions("word") == ["wrd", "wod"]
    assert edits.cases("iPod") == ["ipod", "IPOD", "Ipod", "IpOD"]
    assert edits.marked("good") == ["good.", "good,", "good;", "good:", "good!", "good?", '"good"', "(good)", "go-od"]
    assert edits.marked("abc")[-1] == "(abc)" and edits.marked("abcd")[-1] == "ab-cd"


def test_some_of_many_are_those_of_the_word_and_the_seed():
    made = edits.typos("wonderful")
    found = edits.some("wonderful", made, 8, seed=0)
    assert len(set(found)) == 8 and set(found) < set(made) and found == edits.some("wonderful", made, 8, seed=0)
    assert found != edits.some("wonderful", made, 8, seed=1) and found == [one for one in made if one in found]
    assert edits.some("OK", ["ok", "OK", "OK", "oK", "ok"], 8, seed=0) == ["ok", "oK"]
    assert edits.some("ab", list("xyz"), 3, seed=0) == list("xyz")


def few() -> words.Words:
    table = np.asarray([[1, 0], [0.9, 0.1], [0, 1], [-2, 0], [0.5, 0.6], [3, 0]], np.float32)
    return words.Words(["good", "fine", "bad", "worse", "größe", "Good"], table, np.vstack([table, [[0, 4]]]))


def test_words_by_hand():
    assert words.nearest(few(), "good", np.asarray([0]), 9) == ["fine", "bad", "worse"]
    assert words.nearest(few(), "evil", np.asarray([6, 2]), 2) == ["bad", "fine"]
    assert words.uphill(few(), "good", np.asarray([-1.0, 0.5]), 2) == ["worse", "bad"]
    assert words.uphill(few(), "Tall", np.asarray([1.0, 0.0]), 2) == ["Good", "Good"]
    assert words.uphill(few(), "TALL", np.asarray([-1.0, 0.0]), 1) == ["WORSE"]
    assert words.nearest(few(), "süß", np.asarray([0]), 9) == ["größe"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The directory of a small random classifier."""
    options = config.SequenceClassification(labels=LABELS, problem="single_label")
    task, hf = tasks.build(options), models.build(TINY)
    published, folder = tables.build(options).published(hf, 64), tmp_path_factory.mktemp("attacked") / "model"
    kind = "BertForSequenceClassification"
    assert MINILM
    export.export(folder, random_params(task, hf, 0), TINY | {**published.settings}, kind, MINILM, "A.")
    return folder


@pytest.fixture(scope="module")
def predictor(model) -> Predictor:
    return Predictor.open(model)


@pytest.fixture(scope="module")
def labelled(predictor, tmp_path_factory) -> Path:
    """The texts with what the model answers, but for the last, which is labelled otherwise."""
    file = tmp_path_factory.mktemp("labelled") / "rows.jsonl"
    answers = [one["prediction"] for one in predictor(TEXTS)]
    answers[-1] = "a" if answers[-1] != "a" else "b"
    rows = ({"text": text, "label": label} for text, label in zip(TEXTS, answers, strict=True))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


OPTIONS = Options(words=2, candidates=4)


@pytest.fixture(scope="module")
def found(predictor, labelled) -> list[search.Attacked]:
    return attacked(predictor, labelled)


def attacked(predictor: Predictor, file: Path, rows: slice = slice(None)) -> list[search.Attacked]:
    given = [json.loads(line) for line in file.read_text().splitlines()][rows]
    split = predictor.split_of(given)
    assert split
    labels = np.asarray([LABELS.index(row["label"]) for row in given])
    return list(search.attacked(predictor, split, labels, OPTIONS))


def test_what_is_said_is_what_the_model_says(found, predictor):
    answers = [predictor([texts])[0] for one in found for texts in (one.row, one.attacked)]
    for number, one in enumerate(found):
        before, after = answers[2 * number : 2 * number + 2]
        assert one.row == {"text": TEXTS[number]}
        assert (one.prediction, one.attacked_prediction) == (before["prediction"], after["prediction"])
        said = (before["probabilities"][one.label], after["probabilities"][one.label])
        assert (one.probability, one.attacked_probability) == pytest.approx(said, abs=1e-4)
        assert one.right == (one.prediction == one.label)
        assert one.flipped == (one.right and one.attacked_prediction != one.label)
        assert one.attacked_probability < one.probability or not one.changes
        assert len(one.changes) <= 2 and (one.right or not one.changes)


def test_sums_by_hand(found):
    right, flipped = [one for one in found if one.right], [one for one in found if one.flipped]
    assert len(right) == 5 > len(flipped) > 0
    sums = outcome.summed(found)
    made = sums.pop("by_method")
    assert sums == pytest.approx(
        {
            "rows": 6,
            "accuracy_before": 5 / 6,
            "accuracy_after": (5 - len(flipped)) / 6,
            "success": len(flipped) / 5,
            "queries": np.mean([one.queries for one in right]),
            "words_changed": np.mean([len(one.changes) for one in flipped]),
        }
    )
    assert sum(made.values()) == sum(len(one.changes) for one in flipped) and set(made) <= set(METHODS)
    nothing = outcome.summed([one for one in found if not one.right])
    assert nothing == {
        **{"rows": 1, "accuracy_before": 0, "accuracy_after": 0, "by_method": {}},
        **dict.fromkeys(("success", "queries", "words_changed")),
    }
    page = outcome.made_page(found, outcome.summed(found), OPTIONS, "a model", "rows")
    assert f"Answers that changed ({len(flipped)} of {len(flipped)})" in page and "up to 2 words" in page
    change = flipped[0].changes[0]
    assert escape(f"{change.word} to {change.by} ({change.method})") in page and "Attack on a model" in page
    text = escape(" | ".join(flipped[0].attacked.values()))
    assert f'<td class="name">{text}</td>' in page, "texts are read from the left, and wrapped"


def test_changes_are_of_words_by_their_methods(found):
    for one in found:
        text = rebuilt = one.row["text"]
        for change in one.changes:
            assert text[change.start : change.end] == change.word != change.by and change.column == "text"
            if change.method in edits.EDITS:
                assert change.by in edits.EDITS[change.method](change.word)
        for change in sorted(one.changes, key=lambda change: change.start, reverse=True):
            rebuilt = rebuilt[: change.start] + change.by + rebuilt[change.end :]
        assert rebuilt == one.attacked["text"]
    assert one.to_json()["changes"] == [change._asdict() for change in one.changes]


def test_what_it_costs(found):
    """A wrong answer one query; a text of two words that and both without a word, a gradient, and what is tried."""
    assert found[-1].queries == 1 and found[-1].attacked == found[-1].row and not found[-1].flipped
    assert 4 < found[4].queries <= 1 + 2 + 1 + 2 * 4 * len(METHODS)


@pytest.mark.matrix
def test_a_row_does_not_depend_on_its_company(found, predictor, labelled):
    (alone,) = attacked(predictor, labelled, slice(1, 2))
    assert alone.changes == found[1].changes and alone.queries == found[1].queries


def test_the_word_that_counts_most_comes_first(predictor):
    """By the probability of the label without it."""
    (reading,) = readings(predictor, TEXTS[:1])
    (state,) = states = [search._State({}, reading, 1, np.ones(3))]
    search._put_in_order(predictor, states)
    without = [" ".join(TEXTS[0].split()[:at] + TEXTS[0].split()[at + 1 :]) for at in range(8)]
    left = [answer["probabilities"]["b"] for answer in predictor(without)]
    assert state.order == list(np.argsort(left)) and state.queries == 9


def test_words_of_a_model_are_whole_and_have_its_embeddings(predictor):
    engine = predictor.engine
    assert isinstance(engine, CompiledEngine)
    tokenizer = hub.load_tokenizer(predictor.directory)  # not called yet: it pads, as its file says
    known = words.of_model(tokenizer, engine)
    ids = tokenizer.convert_tokens_to_ids(known.texts)
    assert len(known.texts) > 10_000 and all(text.isalpha() and len(text) > 1 for text in known.texts)
    np.testing.assert_array_equal(known.own, known.table[ids])
    assert "ing" in known.texts and "good" in known.texts and not [one for one in known.texts if "#" in one]


def test_slopes_are_those_of_a_difference(predictor):
    """Of the loss, where the embedding of a token that occurs once is moved in a random direction."""
    engine = predictor.engine
    assert isinstance(engine, CompiledEngine)
    (state,) = states = [search._State({}, reading, 1, np.ones(3)) for reading in readings(predictor, TEXTS[:1])]
    search._find_slopes(predictor, states)
    assert state.slopes is not None and state.queries == 2
    place, rng = 2, np.random.default_rng(0)
    direction = rng.normal(size=state.slopes.shape[1])
    token = state.reading.ids[state.reading.unit_of == place]
    assert len(token) == 1 and (state.reading.ids == token[0]).sum() == 1
    losses = [loss(engine, predictor, token[0], sign * 1e-2 * direction) for sign in (1, -1)]
    assert state.slopes[place] @ direction == pytest.approx((losses[0] - losses[1]) / 2e-2, rel=2e-2)


def readings(predictor: Predictor, texts: list[str]) -> list[Any]:
    from jaxft.explain import inputs

    return inputs.read(predictor, texts, "words")[1]


def loss(engine: CompiledEngine, predictor: Predictor, token: int, by: np.ndarray) -> float:
    """-log p of the second label where a token's embedding is moved."""
    trainable, frozen = engine.weights
    table = trainable["bert"]["embeddings"]["word_embeddings"]["embedding"]
    moved = {**trainable, "bert": {**trainable["bert"], "embeddings": {**trainable["bert"]["embeddings"]}}}
    moved["bert"]["embeddings"]["word_embeddings"] = {"embedding": table.at[token].add(by.astype(np.float32))}
    try:
        engine.weights = (moved, frozen)
        return -float(np.log(predictor(TEXTS[:1])[0]["probabilities"]["b"]))
    finally:
        engine.weights = (trainable, frozen)


def test_on_the_command_line_a_page(model, labelled, tmp_path, capsys):
    argv = ["--mode=attack", f"--workdir={model}", f"--input={labelled}", "--attack.methods=case"]
    assert cli.main(["run.py", *argv, "--attack.rows=0", f"--output={tmp_path / 'a.html'}"], None) == 0
    said = capsys.readouterr()
    assert re.search(r"^ +rows +6$", said.err, re.MULTILINE) and "accuracy after" in said.err and not said.out
    page = (tmp_path / "a.html").read_text()
    assert "rows.jsonl: up to 3 words of a text changed by case" in page and "What is left" in page
    assert cli.main(["run.py", *argv, "--attack.rows=4", "--attack.seed=1", "--attack.words=1"], None) == 0
    out = capsys.readouterr().out
    texts = [json.loads(line)["row"]["text"] for line in out.splitlines()]
    assert len(texts) == 4 and texts == [text for text in TEXTS if text in texts]
    assert any(not text.isascii() and text in out for text in texts)


def test_what_cannot_be_attacked(model, labelled, tmp_path):
    def refused(said: str, workdir: Path = model, output: str = "", inputs: Any = labelled, **options: Any) -> None:
        with pytest.raises(UserError, match=said):
            modes.attack(str(workdir), str(inputs), output, Options(**options))

    refused(r"--attack\.methods: there is no 'typos'; did you mean 'typo'", methods="swap,typos")
    refused(r"--attack\.words is 0; it must be at least 1", words=0)
    refused(r"--attack\.candidates is 0; it must be at least 1", candidates=0)
    refused(r"--output a\.txt: a page is FILE\.html, numbers are FILE\.jsonl", output="a.txt")
    refused("--input is missing: .* is no run, whose data could be used", inputs="")
    several = Predictor.open(model, runs=[shutil.copytree(model, tmp_path / "other")])
    with pytest.raises(UserError, match=r"--attack\.methods: neighbours needs the word embeddings of one model"):
        attacked(several, labelled)
    settings = json.loads((model / "config.json").read_text())
    for name, changes, said in (
        ("many", {"problem_type": "multi_label_classification"}, "this is SequenceClassification multi_label"),
        ("long", {"windows": {"combine": "mean", "stride": 4, "max_length": 32}}, "single_label in windows"),
    ):
        copy = shutil.copytree(model, tmp_path / name)
        (copy / "config.json").write_text(json.dumps(settings | changes))
        refused(said, copy)
