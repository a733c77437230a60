"""Texts that a model continues: words and tokens that end them, files of prompts, and what cannot be continued."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pyarrow as pa
import pytest

import jaxft
from jaxft import config, hub, modes, tables
from jaxft.cli import modes as cli_modes
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.generate import answers, options, rows
from jaxft.generate.answers import Answer, answer, continued, encoded, first_of, stop_tokens
from jaxft.generate.options import Options
from jaxft.generate.writing import Written
from jaxft.metrics import texts
from jaxft.predict.predictor import Predictor
from jaxft.storage.workdir import Workdir


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    return decoders.save(tmp_path_factory.mktemp("decoder"), pad_token_id=None)


@pytest.fixture(scope="module")
def predictor(decoder) -> Predictor:
    return Predictor.open(decoder)


def test_texts_are_continued(predictor, decoder):
    """Without an id for padding too; by a predictor or its directory, and prompts in any order."""
    asked = ["the cat", "dogs run on the", "I"]
    found = jaxft.generate(predictor, asked, max_new_tokens=6)
    assert [one.tokens for one in found] == [6, 6, 6] and not any(one.ended for one in found)
    assert all(one.completion for one in found) and found == jaxft.generate(decoder, asked, max_new_tokens=6)
    again = jaxft.generate(predictor, asked[::-1], max_new_tokens=6)
    assert [one.completion for one in again[::-1]] == [one.completion for one in found]
    assert [one.log_probability for one in again[::-1]] == pytest.approx([one.log_probability for one in found])
    assert jaxft.generate(predictor, [], max_new_tokens=6) == []


def test_a_word_ends_an_answer_before_it(predictor):
    """It is no part of the text; the tokens that make it whole are counted."""
    (free,) = jaxft.generate(predictor, ["the cat"], max_new_tokens=20)
    word = free.completion[4:6]
    (short,) = jaxft.generate(predictor, ["the cat"], max_new_tokens=20, stop=word)
    assert short.ended and short.completion == free.completion[: free.completion.index(word)]
    assert 0 < short.tokens < 20 and short.log_probability > free.log_probability
    (same,) = jaxft.generate(predictor, ["the cat"], max_new_tokens=20, stop=("never said", word))
    assert same == short


class Letters:
    """A tokenizer of single letters, which writes a blank before a text's first one where none stands there."""

    eos_token_id, eos_token, adds_end = 0, "$", False

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) if letter != "$" else 0 for letter in text] + [0] * self.adds_end}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, filter(None, ids))).lstrip()


def ids(text: str) -> list[int]:
    return Letters()(text)["input_ids"]


def test_an_answer_is_what_stands_behind_its_prompt():
    """Blanks at its beginning are kept, which the tokenizer drops where a text begins."""
    assert continued(Letters(), ids("ab"), ids(" cd")) == " cd"
    assert continued(Letters(), ids("  "), ids("cd")) == "cd"
    changed = Letters()
    changed.decode = lambda ids, skip_special_tokens: "x" if len(ids) == 2 else "yz"
    assert continued(changed, ids("ab"), ids("cde")) == "yz"


def test_prompts_are_not_ended():
    """Neither by a tokenizer that ends every text; what the user has written stays."""
    tokenizer = Letters()
    assert encoded(tokenizer, "ab") == [97, 98] and encoded(tokenizer, "ab$") == [97, 98, 0]
    tokenizer.adds_end = True
    assert encoded(tokenizer, "ab") == [97, 98]
    assert encoded(tokenizer, "") == [0]
    tokenizer.eos_token_id = None  # pyright: ignore[reportAttributeAccessIssue]
    assert encoded(tokenizer, "ab") == [97, 98, 0]


def test_where_a_word_begins():
    assert first_of("the cat", ["at", "t", "x"]) == 0 and first_of("the cat", ["cat"]) == 4
    assert first_of("the cat", ["dog"]) is None is first_of("the cat", [])


def test_an_answer_ends_with_the_token_that_makes_a_word_whole():
    found = Written(ids("one. two"), [-0.5] * 8, False)
    text = lambda tokens: Letters().decode(tokens, True)  # noqa: E731
    assert answer(found, text, ["e. "]) == Answer("on", -2.5, 5, True)
    assert answer(found, text, ["o"]) == Answer("", -0.5, 1, True)
    assert answer(found, text, []) == answer(found, text, ["x"]) == Answer("one. two", -4.0, 8, False)
    assert answer(found._replace(ended=True), text, ["x"]).ended


def test_which_tokens_end_an_answer(tmp_path):
    """What generation_config.json says goes before config.json; the token that ends texts of training always does."""
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    assert stop_tokens(tmp_path, Letters()) == (0, 7)
    file = tmp_path / hub.GENERATION
    file.write_text(json.dumps({"eos_token_id": [9, 4, 9]}))
    assert stop_tokens(tmp_path, Letters()) == (0, 4, 9)
    file.write_text(json.dumps({}))
    bare = Letters()
    bare.eos_token_id = None  # pyright: ignore[reportAttributeAccessIssue]
    assert stop_tokens(tmp_path, bare) == ()
    file.write_text(json.dumps({"eos_token_id": "<end>"}))
    with pytest.raises(
        UserError, match=r"generation_config\.json: eos_token_id must be a token's id, or a list of ids"
    ):
        stop_tokens(tmp_path, bare)


def test_what_ends_answers_is_kept(decoder, tmp_path):
    """In an export, beside the tokenizer that it came with."""
    from jaxft.hub import export

    source = tmp_path / "source"
    source.mkdir()
    for file in decoder.glob("tokenizer*"):
        (source / file.name).write_bytes(file.read_bytes())
    export.export(tmp_path / "without", {"a": np.zeros(2)}, {}, "X", source, "")
    (source / hub.GENERATION).write_text('{"eos_token_id": [5]}')
    export.export(tmp_path / "with", {"a": np.zeros(2)}, {}, "X", source, "")
    assert not (tmp_path / "without" / hub.GENERATION).exists()
    assert hub.read_json(tmp_path / "with" / hub.GENERATION) == {"eos_token_id": [5]}


def test_a_file_of_prompts_is_continued(predictor, decoder, tmp_path, monkeypatch):
    """A JSON line each, blank ones without an answer; without the option what the model says of the text."""
    monkeypatch.setattr(Predictor, "open", lambda *_, **__: predictor)
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(["the cat", " ", "I"])))
    out = tmp_path / "out.jsonl"
    modes.predict(str(decoder), str(asked), str(out), writing={"max_new_tokens": 5})
    said = [json.loads(line) for line in out.read_text().splitlines()]
    whole = jaxft.generate(predictor, ["the cat", "I"], max_new_tokens=5)
    assert said == [
        {"text": "the cat", "n": 0, **parts(whole[0])},
        {"text": " ", "n": 1, **dict.fromkeys(parts(whole[0]))},
        {"text": "I", "n": 2, **parts(whole[1])},
    ]
    two = {"max_new_tokens": 5, "beams": 2, "answers": 2}
    modes.predict(str(decoder), str(asked), str(out), writing=two)
    said = [json.loads(line) for line in out.read_text().splitlines()]
    whole = jaxft.generate(predictor, ["the cat", "I"], **two)
    assert said[0] == {"text": "the cat", "n": 0, **parts(whole[0]), "others": [parts(whole[0].others[0])]}
    assert said[1]["others"] is None and said[2]["others"] == [parts(whole[1].others[0])]
    assert whole[0].others[0].completion != whole[0].completion and len(whole[0].others) == 1
    modes.predict(str(decoder), str(asked), str(out))
    assert "perplexity" in out.read_text() and "completion" not in out.read_text()
    with pytest.raises(UserError, match=r"generate\.beams is 0"):
        modes.predict(str(decoder), str(asked), str(out), writing={"beams": 0})


def parts(one: Answer) -> dict[str, Any]:
    """Those of a row of JSON."""
    return {name: value for name, value in one._asdict().items() if name != "others"}


def test_answers_are_held_against_references(predictor, monkeypatch):
    """Of the column that is named, whatever blanks are around them; perplexity and the like beside them."""
    asked = ["the cat", "I"]
    first, second = (one.completion for one in jaxft.generate(predictor, asked, max_new_tokens=5))
    split = rows_split(text=asked, answer=[f" {first}", "no such answer"])
    both = rows.compared(predictor, split, Options(max_new_tokens=5), "answer")
    assert both == ([first, second], [f" {first}", "no such answer"]) and texts.measured(*both)["exact_match"] == 0.5
    with pytest.raises(UserError, match="rows, row 2: column 'answer' holds empty text"):
        rows.compared(predictor, rows_split(text=asked, answer=["a", " "]), Options(), "answer")
    with pytest.raises(UserError, match=r"generate\.reference"):
        rows.compared(predictor, split, Options(), "anwser")


def rows_split(**columns: list[str]) -> Split:
    return Split(pa.table(columns), "rows")


def test_what_is_measured_needs_a_file_and_a_column(predictor, tmp_path, monkeypatch):
    evaluate = partial(modes.evaluate, tmp_path, inputs="a.csv")
    with pytest.raises(UserError, match=r"texts of a file continued and measured; give --input$"):
        modes.evaluate(tmp_path, writing={}, reference="answer")
    with pytest.raises(UserError, match=r"--generate\.reference is held against what is written; give --generate"):
        evaluate(reference="answer")
    with pytest.raises(UserError, match=r"generate\.rows is 0"):
        evaluate(reference="answer", writing={"rows": 0})
    with pytest.raises(UserError, match=r"generate\.answers: one answer to each text is measured; leave it out"):
        evaluate(reference="answer", writing={"answers": 2})
    monkeypatch.setattr(Predictor, "open", lambda *_, **__: predictor)
    monkeypatch.setattr(Workdir, "experiment", lambda _: predictor.experiment)
    file = tmp_path / "asked.csv"
    file.write_text("text,answer\nthe cat,dog\nI,run\n")
    with pytest.raises(UserError, match=r"has texts continued and measured; give --generate\.reference, the column"):
        modes.evaluate(tmp_path, inputs=file, writing={})
    found = modes.evaluate(tmp_path, inputs=file, writing={"max_new_tokens": 3}, reference="answer")
    assert {"input/perplexity", "input/rougeL", "input/exact_match", "input/chrf"} <= found.keys()
    assert found["input/exact_match"] == 0 and "input/letters" not in found

    def letters(written: list[str], asked: list[str]) -> float:
        assert len(written) == 2 and asked == ["dog", "run"]
        return sum(map(len, asked))

    how = {"inputs": file, "writing": {"max_new_tokens": 3}, "reference": "answer"}
    assert modes.evaluate(tmp_path, **how, metric=letters)["input/letters"] == 6
    with pytest.raises(UserError, match="returned 'perplexity', which is the name of another metric"):
        modes.evaluate(tmp_path, **how, metric=lambda written, asked: {"perplexity": 1.0})
    with pytest.raises(UserError, match=r"no_such_module cannot be imported \(ModuleNotFoundError: No"):
        modes.evaluate(tmp_path, **how, metric="no_such_module:f")
    with pytest.raises(UserError, match=r"--generate\.metric measures what is written; give --generate"):
        evaluate(metric="a:b")
    assert {"input/perplexity"} == {"input/perplexity", "input/bleu"} & modes.evaluate(tmp_path, inputs=file).keys()


def test_what_cannot_be_continued(predictor, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"prompt 1 \(from 0\) has 71 tokens, and the model has 64 positions for them"):
        jaxft.generate(predictor, ["I", "x" * 70])
    with pytest.raises(UserError, match="the prompts are one text, 'the cat'; give a list of texts"):
        jaxft.generate(predictor, "the cat")
    check = lambda *lengths: answers.check_lengths(answers.writer(predictor), lengths, "row {}".format)  # noqa: E731
    check(63, 1)
    with pytest.raises(UserError, match="row 1 has 64 tokens, and the model has 64 positions"):
        check(63, 64)
    with pytest.raises(UserError, match="row 0 has no tokens, so that there is nothing to continue; write a word"):
        check(0)
    monkeypatch.setattr(answers.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="texts are written by one process; there are 2: start one alone"):
        answers.writer(predictor)


def test_who_writes_no_text(predictor, monkeypatch):
    engine = predictor.engine
    task = engine.task
    monkeypatch.setattr(type(engine), "task", property(lambda _: Classes()))
    with pytest.raises(UserError, match="this model was trained as a Classes, which scores no words that come next"):
        answers.writer(predictor)
    monkeypatch.setattr(type(engine), "task", property(lambda _: task))
    monkeypatch.setattr(predictor, "engine", object())
    with pytest.raises(UserError, match="texts are written by one model that jax computes; take --engine=jax"):
        answers.writer(predictor)


class Classes:
    hf_class = "ForSequenceClassification"


def test_rows_of_another_task_are_not_continued(predictor, monkeypatch):
    """Of which the column that is read holds no prompt."""
    monkeypatch.setattr(predictor, "table", tables.build(config.MaskedLM()))
    split = predictor.split_of(["the cat"])
    with pytest.raises(UserError, match="those of the tasks CausalLM and Chat; this one is MaskedLM"):
        rows.of_rows(predictor, split, Options())


def test_rows_without_their_column_are_not_continued(predictor):
    split = predictor.split_of(["the cat"])
    other = split._replace(table=split.table.rename_columns(["other"]))
    with pytest.raises(UserError, match="has no column 'text', which the run reads"):
        rows.of_rows(predictor, other, Options())


def test_words_on_the_command_line():
    assert options.words_of("") == ()
    assert options.words_of("END,\\n\\n,a b") == ("END", "\n\n", "a b") and options.words_of("\\t") == ("\t",)
    assert options.words_of("a,,b") == ("a", "", "b")


def test_options_on_the_command_line():
    """They are those of the class, and its defaults; all are in vain without a length."""
    from absl import flags

    from jaxft.cli import arguments

    values = flags.FlagValues()
    arguments.define(values, ["run.py"])
    named = {f"generate.{name}" for name in (*cli_modes.GENERATE, "reference", "metric")}
    assert named == {name for name in values if name.startswith("generate.")}
    assert {*cli_modes.GENERATE} == set(Options.__dataclass_fields__)
    values(["run.py"])
    defaults: dict[str, Any] = {name: values[f"generate.{name}"].default for name in cli_modes.GENERATE}
    defaults |= {"max_new_tokens": Options.max_new_tokens, "stop": ()}
    assert Options(**defaults) == Options()
    assert cli_modes._written(values) is None and cli_modes._said(values) == {}
    values(["run.py", "--generate.max_new_tokens=7"])
    assert cli_modes._written(values) == cli_modes._said(values) == {"max_new_tokens": 7}
    values(["run.py", "--generate.stop=a,b", "--generate.top_p=1.0"])
    assert cli_modes._written(values) == {"max_new_tokens": 7, "stop": ("a", "b"), "top_p": 1.0}
    values(["run.py", "--generate.max_new_tokens=0"])
    assert cli_modes._said(values) == {"stop": ("a", "b"), "top_p": 1.0}
    with pytest.raises(UserError, match=r"--generate.top_p says how to write; give --generate.max_new_tokens"):
        cli_modes._written(values)
