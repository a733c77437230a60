"""The fewest words whose replacement changes an answer: the search by hand, a planted word, and the page."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from runs import MINILM, TINY
from support import random_params
from test_explain import SHORT, shortcut
from test_explain_page import Parsed

import jaxft
from jaxft import cli, config, models, tasks
from jaxft.errors import UserError
from jaxft.explain import counterfactual, guesses, page
from jaxft.explain.counterfactual import Change, Counterfactual
from jaxft.explain.explainer import Explained, Explanation
from jaxft.explain.options import Options
from jaxft.explain.units import Unit
from jaxft.hub import export
from jaxft.predict.predictor import Predictor


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    return shortcut(tmp_path_factory.mktemp("shortcut") / "model")


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    """A small random model that guesses hidden words."""
    params = random_params(tasks.build(config.MaskedLM()), models.build(TINY), seed=0)
    directory = tmp_path_factory.mktemp("masked") / "model"
    assert MINILM
    export.export(directory, params, TINY, "BertForMaskedLM", MINILM, "A test.")
    return directory


def judge(needed: int, asked: list[int]) -> counterfactual.Say:
    """A model that says no once so many of the words 1, 3, 4 and 6 are x, each of which makes yes less likely."""

    def say(variants: Sequence[tuple[Change, ...]]) -> list[dict[str, float]]:
        asked.append(len(variants))
        counts = [sum(one.word == "x" and one.unit in (1, 3, 4, 6) for one in changes) for changes in variants]
        return [{"yes": 0.9 - 0.45 * count / needed, "no": 0.1 + 0.45 * count / needed} for count in counts]

    return say


@pytest.mark.parametrize("needed", [1, 2, 3, 4])
def test_the_fewest_changes_are_found(needed):
    """Seven words, each of which may be a or x: fourteen texts, then four of them with one word more, pairs once."""
    asked: list[int] = []
    found = counterfactual.fewest([["a", "x"]] * 7, "yes", judge(needed, asked))
    assert asked[:2] == [14, 42][: min(needed, 2)] and len(asked) == min(needed, 3)
    assert len(found) == (3 if needed < 4 else 0)
    for changes, said in found:
        places = [one.unit for one in changes]
        assert len(places) == needed and places == sorted({*places} & {1, 3, 4, 6})
        assert {one.word for one in changes} == {"x"} and said["no"] > said["yes"]
    assert counterfactual.fewest([[], []], "yes", judge(1, asked)) == []


def test_the_surest_of_other_answers_comes_first():
    chances = {"a": 0.6, "b": 0.9, "c": 0.7, "d": 0.45, "e": 0.65}

    def say(variants: Sequence[tuple[Change, ...]]) -> list[dict[str, float]]:
        return [{"yes": 1 - chances[one.word], "no": chances[one.word]} for (one,) in variants]

    found = counterfactual.fewest([["a", "b"], ["c", "d", "e"]], "yes", say)
    assert [changes[0].word for changes, _ in found] == ["b", "c", "e"]


def test_words_are_put_in_their_places():
    row = {"one": "a good, good day", "two": "bad"}
    units = [Unit("good", "one", 2, 6), Unit("good", "one", 8, 12), Unit("bad", "two", 0, 3)]
    changes = (Change(0, "terrible"), Change(1, "x"), Change(2, "best"))
    assert counterfactual.replaced(row, units, changes) == {"one": "a terrible, x day", "two": "best"}
    assert row["one"] == "a good, good day"


def test_likely_words_are_the_first_of_pytorch_that_are_words(masked, torch):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained(str(masked)).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(str(masked))
    language, texts = counterfactual.language_model(str(masked)), ["A good [MASK], I said", "[MASK]"]
    for text, words in zip(texts, guesses.likeliest(language, texts), strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            scores = model(**encoded).logits[0][encoded["input_ids"][0] == tokenizer.mask_token_id][0]
        top = tokenizer.convert_ids_to_tokens(scores.topk(guesses.TOP).indices.tolist())
        assert words == [token for token in top if token.isalpha()] and 3 < len(words) < guesses.TOP
    row, units = {"text": texts[0].replace("[MASK]", "Day")}, [Unit("Day", "text", 7, 10)]
    (found,) = counterfactual.candidates(language, row, units)
    assert (
        found == [word.capitalize() for word in guesses.likeliest(language, texts[:1])[0]][: counterfactual.CANDIDATES]
    )
    row = {"text": texts[0].replace("[MASK]", found[1])}
    (others,) = counterfactual.candidates(language, row, [Unit(found[1], "text", 7, 7 + len(found[1]))])
    assert others[:2] == [found[0], found[2]], "a word is not replaced by itself"


def test_a_planted_word_is_what_has_to_go(planted, masked, tmp_path):
    (tmp_path / "texts.txt").write_text(f"{SHORT[0]}\n", encoding="utf-8")
    argv = ["run.py", "--mode=explain", f"--workdir={planted}", f"--input={tmp_path / 'texts.txt'}"]
    argv += ["--explain.method=leave_one_out", f"--explain.counterfactuals={masked}"]
    for name in ("why.jsonl", "why.html"):
        assert cli.main([*argv, f"--output={tmp_path / name}"], None) == 0
    line = json.loads((tmp_path / "why.jsonl").read_text(encoding="utf-8"))
    assert line["answer"]["prediction"] == "yes"
    assert 1 < len(line["counterfactuals"]) <= counterfactual.SHOWN
    predictor = Predictor.open(planted)
    for one in line["counterfactuals"]:
        ((change),) = one["changes"]
        assert line["units"][change["unit"]]["text"] == "zebra"
        text = SHORT[0].replace("zebra", change["word"])
        (answer,) = predictor([text])
        assert one["row"] == {"text": text} and one["answer"] == answer["prediction"] == "no"
        assert one["probability"] == pytest.approx(answer["probabilities"]["no"], abs=1e-4)
    made = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert made.count("<del>zebra</del> <ins>") == len(line["counterfactuals"])


def test_the_page_marks_what_is_replaced():
    units = [Unit("a<b", "one", 0, 3), Unit("day", "one", 4, 7), Unit("no", "two", 0, 2)]
    changes = [Change(0, "x"), Change(2, "y>")]
    one = Counterfactual({"one": "x day", "two": "y>"}, changes, "yes", 0.75)
    explanation = Explanation("no", 0.5, 0.5, [0.1, 0.2, 0.3], None, {}, None)
    row = Explained({"one": "a<b day", "two": "no"}, {}, units, [explanation], "lime", "delete", False, 5, [one])
    made = page.made([row], Options("lime").check(), "model", "a.txt")
    assert not Parsed(made).open, "every tag is closed"
    assert "<b>yes 75.0%</b> <del>a&lt;b</del> <ins>x</ins> day | <del>no</del> <ins>y&gt;</ins></p>" in made
    without = page.made([dataclasses.replace(row, counterfactuals=[])], Options("lime").check(), "model", "a.txt")
    assert "No few words that are likely" in without and "<del>" not in without
    never = page.made([dataclasses.replace(row, counterfactuals=None)], Options("lime").check(), "model", "a.txt")
    assert "few words" not in never and "fewest" not in never


def test_mistakes_are_one_line(planted, masked):
    with pytest.raises(UserError, match=r"explain\.counterfactuals=\S+: it is a model of SequenceClassification; give"):
        jaxft.explain(str(planted), SHORT, "occlusion", counterfactuals=str(planted))
    with pytest.raises(
        UserError, match=r"explain\.counterfactuals is for SequenceClassification .*; this is MaskedLM;"
    ):
        jaxft.explain(str(masked), ["a [MASK]"], "leave_one_out", counterfactuals=str(masked))
    with pytest.raises(UserError, match=r"explain\.counterfactuals changes words, and explain\.units is sentences"):
        jaxft.explain(str(planted), SHORT, "occlusion", units="sentences", counterfactuals=str(masked))
