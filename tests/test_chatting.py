"""A conversation in the terminal: what is said goes through the chat template, and answers are shown as they grow."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import chat_templates
import chats
import decoders
import pyarrow as pa
import pytest

from jaxft import config, modes
from jaxft.data.chat_template import Template
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.generate import conversing
from jaxft.generate import rows as generated
from jaxft.generate.conversing import Shown, Talk, settled
from jaxft.generate.options import Options
from jaxft.generate.writing import Written
from jaxft.hub.directory import CHAT_TEMPLATE
from jaxft.predict.predictor import Predictor
from jaxft.tables.chat import Chat

SHORT = Options(max_new_tokens=4)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    return Predictor.open(chats.save_decoder(tmp_path_factory.mktemp("chat") / "model"))


def test_answers_are_those_of_the_rendered_conversation(predictor):
    """Shown piece by piece; the next turn has all of it before it."""
    talk, pieces = Talk(predictor, SHORT, system="Count."), []
    first = talk.reply("after one", pieces.append)
    assert ("".join(pieces) == first.completion and first.tokens == 4) or first.ended
    assert talk.messages == [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": "after one"},
        {"role": "assistant", "content": first.completion},
    ]
    with predictor.tokenizer() as tokenizer:
        asked = talk.messages[:2]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    from jaxft.generate.writing import written

    (alone,) = written(talk.engine, [ids], (), SHORT)
    assert sum(alone.log_probs[: first.tokens]) == pytest.approx(first.log_probability, abs=1e-4)
    talk.messages = []
    assert talk.reply("after one", pieces.append) != first and len(talk.messages) == 2


def test_a_word_ends_an_answer(predictor):
    """Nothing of it or behind it is shown."""
    how: dict[str, Any] = {"max_new_tokens": 30, "temperature": 1.0}
    free = Talk(predictor, Options(**how)).reply("after one", lambda _: None)
    word = next(letter for letter in free.completion if letter.isascii() and letter.isprintable())
    pieces: list[str] = []
    short = Talk(predictor, Options(**how, stop=(word,))).reply("after one", pieces.append)
    assert "".join(pieces) == short.completion == free.completion[: free.completion.index(word)]
    assert short.tokens < free.tokens and short.ended


def test_the_template_begins_a_text_and_not_the_tokenizer(tmp_path, monkeypatch):
    """One that begins every text would do it twice."""
    directory = decoders.save(tmp_path)
    (directory / CHAT_TEMPLATE).write_text("<s>{% for one in messages %}{{ one.content }}{% endfor %}")
    asked = []

    def written(engine, prompt, *_):
        asked.append(prompt)
        return Written([5], [-1.0], False), None

    monkeypatch.setattr(conversing, "written", written)
    talk = Talk(Predictor.open(directory), SHORT)
    talk.reply("the cat", lambda _: None)
    with talk.predictor.tokenizer() as tokenizer:
        assert asked == [tokenizer("the cat")["input_ids"]] and asked[0].count(tokenizer.bos_token_id) == 1


def test_lines_are_answered_until_there_is_none(predictor, monkeypatch, capsys):
    """The prompt is shown in a terminal alone; an empty line, the end of the input and Ctrl-C end it."""
    monkeypatch.setattr(Predictor, "open", lambda *_: predictor)
    replies = []

    def reply(talk: Talk, said: str, show: conversing.Show) -> None:
        replies.append(said)
        show(said.upper())
        if said == "stop":
            raise KeyboardInterrupt

    monkeypatch.setattr(Talk, "reply", reply)
    for said, shown in (("a b \nc\n", "A B\nC\n"), ("a\n\nc\n", "A\n"), ("stop\nc\n", "STOP\n")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        modes.chat("w")
        assert capsys.readouterr().out == shown
    assert replies == ["a b", "c", "a", "stop"]
    terminal = io.StringIO("a\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    modes.chat("w")
    assert capsys.readouterr().out == "> A\n> "


def test_conversations_of_a_file_are_answered(predictor, monkeypatch):
    """Each up to what the assistant says last, as one that is led in the terminal; and held against that."""
    first = Talk(predictor, SHORT).reply("after one", print)
    monkeypatch.setattr(predictor, "table", Chat(config.Chat()))
    asked, answered = chat_templates.said("user", "after one"), chat_templates.said("assistant", "two")
    rows = [[asked, answered], [asked, answered, asked]]
    split = Split(pa.table({"messages": [json.dumps(one) for one in rows]}), "a.jsonl")
    found = generated.of_rows(predictor, split, SHORT)
    assert found[0][:-1] == pytest.approx(first[:-1]) and found[0].others == first.others == ()
    assert len(found) == 2 and found[0] != found[1]
    assert generated.references(predictor, split.slice(0, 1), "") == ["two"]
    with pytest.raises(UserError, match=r"a\.jsonl, row 2: the assistant says nothing at the end"):
        generated.references(predictor, split, "")
    monkeypatch.setattr(predictor, "table", Chat(config.Chat(template="{{ nothing.at.all }}")))
    with pytest.raises(UserError, match=r"a\.jsonl, row 1: the chat template does not take it \(UndefinedError"):
        generated.of_rows(predictor, split, SHORT)


def test_what_cannot_converse(predictor, tmp_path):
    talk = Talk(predictor, SHORT)
    with pytest.raises(
        UserError, match=r"the conversation has \d+ tokens, and the model has 64 positions for them and"
    ):
        talk.reply("one " * 70, print)
    assert talk.messages == []
    picky = Talk(predictor, SHORT, system="Count.")
    with predictor.tokenizer() as tokenizer:
        refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no!') }}{% endif %}"
        picky._template = Template(tokenizer, refuses)
    with pytest.raises(UserError, match=r"the conversation: the chat template does not take it \(TemplateError: no!\)"):
        picky.reply("one", print)
    with pytest.raises(UserError, match=r"generate\.beams is 2; an answer that is shown as it is written is one"):
        Talk(predictor, Options(beams=2))
    with pytest.raises(UserError, match=r"generate\.answers is 3; an answer that is shown as it is written is one"):
        Talk(predictor, Options(answers=3, temperature=1.0))
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        Talk(Predictor.open(chats.save_decoder(tmp_path / "model", template="")), SHORT)
    with pytest.raises(UserError, match=r"generate\.max_new_tokens is 0"):
        modes.chat(str(Path("nowhere")), writing={"max_new_tokens": 0})


@pytest.mark.parametrize(
    ("text", "words", "size"),
    [
        ("the cat", (), 7),
        ("the cat\ufffd\ufffd", (), 7),
        ("the cat", ("cattle", "x"), 4),
        ("the cat", ("t", "cats"), 4),
        ("the cat", ("tt", "xat"), 6),
        ("the cat", ("other",), 7),
        ("ab", ("abcd",), 0),
        ("b", ("abcd",), 1),
        ("", ("a",), 0),
    ],
)
def test_what_is_shown_stays(text: str, words: tuple[str, ...], size: int):
    assert settled(text, words) == size


def test_what_was_shown_is_not_shown_again():
    pieces: list[str] = []
    shown = Shown(pieces.append)
    for text in ("a", "a", "abc", "ab", "xyzw", "abcd"):
        shown.upto(text)
    assert pieces == ["a", "bc", "d"]
