"""Which tokens of a conversation the assistant says, by chat templates of the shapes that public models have."""

import json
import math
from typing import Any

import chat_templates
import pyarrow as pa
import pytest
from chat_templates import CASES, CHATML, FIRST, FOUR, HELLO, LONG, SECOND, SHORT, SPECIAL, said
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from jaxft.data import messages
from jaxft.data.chat_template import Conversation, Template
from jaxft.data.conversation import of_tokens, turns
from jaxft.data.sources import Split
from jaxft.errors import UserError


def wrapped(made: Tokenizer) -> Any:
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def of_bytes(merges: bool, trim: bool = True) -> Any:
    """Tokens are bytes; or pieces of words with the blank before them, whose offsets may leave it out."""
    made = Tokenizer(tokenizer_models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim)  # pyright: ignore
    made.decoder = decoders.ByteLevel()  # pyright: ignore
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600 if merges else 256, initial_alphabet=letters, show_progress=False)  # pyright: ignore
    texts = [one["content"] for one in LONG] * 3 + [" ASSISTANT: Hello.\n\n### Response:\n", "assistant\n"] * 3
    made.train_from_iterator(texts, trainer)
    return wrapped(made)


def of_pieces() -> Any:
    """As those of Llama 2 and Mistral: blanks are letters, and one stands before the text."""
    made = Tokenizer(tokenizer_models.BPE(unk_token="<unk>", fuse_unk=False))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # pyright: ignore
    letters = sorted({letter for case in CASES.values() for letter in json.dumps(case[1:]) + case[0]} | {"▁", "\n"})
    trainer = trainers.BpeTrainer(  # pyright: ignore
        vocab_size=400, initial_alphabet=letters, special_tokens=["<unk>"], show_progress=False
    )
    made.train_from_iterator([one["content"].replace(" ", "▁") for one in LONG] * 3, trainer)
    return wrapped(made)


TOKENIZERS = {
    "bytes": of_bytes(False),
    "words": of_bytes(True),
    "words, blanks kept": of_bytes(True, trim=False),
    "pieces": of_pieces(),
}


def tokens_of_turns(tokenizer: Any, text: str, spans: list[tuple[int, int]]) -> list[str]:
    """The text of the tokens of each turn, as they stand side by side."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    owners, offsets = of_tokens(text, found["offset_mapping"], spans), found["offset_mapping"]
    places = [[at for at, owner in enumerate(owners) if owner == turn] for turn in range(len(spans))]
    assert all(part == list(range(part[0], part[-1] + 1)) for part in places), "tokens of a turn lie side by side"
    return [text[offsets[part[0]][0] : offsets[part[-1]][1]] for part in places]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", CASES)
def test_what_is_learned(name: str, kind: str):
    """The turns of the assistant with the token that ends them, whatever the template does; not a token more."""
    case, tokenizer = CASES[name], TOKENIZERS[kind]
    template = Template(tokenizer, case.template)
    text, spans = turns(template, Conversation(case.messages, case.tools), "a row")
    rendered = tokenizer.apply_chat_template(
        case.messages, tools=case.tools, chat_template=case.template, tokenize=False
    )
    assert text == rendered, "the text is that of transformers"
    assert [text[low:high] for low, high in spans] == case.learned
    found = tokens_of_turns(tokenizer, text, spans)
    if kind == "bytes":
        assert found == case.learned
    assert [one.strip() for one in found] == [one.strip() for one in case.learned]


def test_ten_families_of_templates():
    assert len({case.template for case in CASES.values()}) >= 13


def test_marks_are_those_of_transformers():
    """Of a template that marks what the assistant says, its own mask is found, token by token."""
    tokenizer = TOKENIZERS["words"]
    text, spans = turns(Template(tokenizer, chat_templates.MARKED), Conversation(LONG), "a row")
    theirs = tokenizer.apply_chat_template(
        LONG, chat_template=chat_templates.MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert found["input_ids"] == theirs["input_ids"] and 0 < sum(theirs["assistant_masks"]) < len(found["input_ids"])
    assert [owner >= 0 for owner in of_tokens(text, found["offset_mapping"], spans)] == theirs["assistant_masks"]


@pytest.mark.parametrize("template", [CHATML, chat_templates.MARKED])
def test_turns_before_a_completion_are_not_learned(template: str):
    for first in (3, 4):
        text, spans = turns(Template(TOKENIZERS["bytes"], template), Conversation(LONG, None, first), "a row")
        assert [text[low:high] for low, high in spans] == ["It is 4.<|im_end|>"]
    text, spans = turns(Template(TOKENIZERS["bytes"], template), Conversation([HELLO, SECOND, FOUR]), "a row")
    assert [text[low:high] for low, high in spans] == ["Hello.<|im_end|>", "It is 4.<|im_end|>"]


def test_turns_that_touch():
    """The first may be where the text begins, and one where the one before it ends."""
    template = (
        "{% for m in messages if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    )
    assert turns(Template(TOKENIZERS["bytes"], template), Conversation(SHORT), "a row") == (
        "Hello.It is 4.Hi thereAnd 2+2?",
        [(0, 6), (6, 14)],
    )


def test_a_template_of_the_tokenizer():
    tokenizer = of_bytes(False)
    with pytest.raises(UserError, match=r"no chat template.*config\.task\.template"):
        Template(tokenizer)
    tokenizer.chat_template = CHATML
    own, given = Template(tokenizer), Template(tokenizer, chat_templates.ZEPHYR)
    sizes = [len(token) for token in own.tokens]
    assert sizes == sorted(sizes, reverse=True), "one that begins another comes behind it"
    assert turns(own, Conversation(SHORT), "a row")[0].startswith("<|im_start|>user\nHi there<|im_end|>\n")
    assert turns(given, Conversation(SHORT), "a row")[0].startswith("<|user|>\nHi there</s>\n")


def test_one_template_of_several():
    """Some tokenizers have one of their own where tools are offered."""
    tokenizer = of_bytes(False)
    tokenizer.chat_template = {"default": CHATML, "tool_use": chat_templates.QWEN3}
    template = Template(tokenizer)
    assert "tool" not in turns(template, Conversation(SHORT), "a row")[0]
    assert '"name": "add"' in turns(template, Conversation(SHORT, chat_templates.TOOLS), "a row")[0]
    tokenizer.chat_template = {"rag": CHATML}
    with pytest.raises(UserError, match=r"a row: the chat template does not take it \(ValueError"):
        turns(Template(tokenizer), Conversation(SHORT), "a row")


REFUSED = {
    "no tools": (
        CHATML,
        Conversation(SHORT, chat_templates.TOOLS),
        r"a row: the chat template leaves out the tools; leave the row out, or name a template that has it",
    ),
    "no calls": (CHATML, chat_templates.AFTER_A_TOOL, r"leaves out the tool_calls of message 2"),
    "no system, whose letters are there": (
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
        [said("system", "a"), *SHORT],
        r"leaves out the content of message 1",
    ),
    "no system": (
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}",
        LONG,
        r"leaves out the content of message 1",
    ),
    "raises": (chat_templates.GEMMA, LONG, r"a row: the chat template does not take it \(TemplateError: System role"),
    "alternation": (
        chat_templates.LLAMA2,
        [FIRST, HELLO, HELLO],
        r"a row: the chat template does not take it \(TemplateError: roles must alternate",
    ),
    "a mistake": ("{{ messages[0].nothing.at_all }}", SHORT, r"does not take it \(UndefinedError"),
    "no Jinja": ("{% for %}", SHORT, r"does not take it \(TemplateSyntaxError"),
    "said twice": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }} {{ m.content }}\n{% endfor %}",
        SHORT,
        r"does not take it \(ValueError: the text of a turn is there more than once",
    ),
    "sorted": (
        "{% for m in messages | sort(attribute='content') %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}",
        [FIRST, FOUR, SECOND, HELLO],
        r"cannot be told",
    ),
    "a header that knows the future": (
        "{% for m in messages %}<|{{ m.role }}|>{{ messages[loop.index0].content | length }}{{ m.content }}<|end|>"
        "{% endfor %}",
        SHORT,
        r"message 2 cannot be told: it does not begin where its prompt ends; put {% generation %}",
    ),
    "a footer that counts": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{{ messages[-1].content | length }}",
        SHORT,
        r"message 4 cannot be told: it does not end as another in its place would",
    ),
    "an end that knows what follows": (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }} [end{{ '!' if loop.last else '.' }}]{% endfor %}",
        SHORT,
        r"message 2 cannot be told: it does not end as another in its place would",
    ),
    "marks of nothing": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{% if loop.last %}{{ m.content }}{% endif %}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
        "{% endfor %}",
        SHORT,
        r"its turns cannot be told: they overlap, or are empty",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certain_is_refused(name: str):
    template, given, error = REFUSED[name]
    with pytest.raises(UserError, match=error):
        asked = given if isinstance(given, Conversation) else Conversation(given)
        turns(Template(TOKENIZERS["bytes"], template), asked, "a row")


def test_a_token_is_of_the_turn_in_which_it_begins():
    text = "ab: cd.\n\n ef"
    offsets = [(0, 3), (3, 6), (6, 9), (9, 12), (12, 12)]
    assert of_tokens(text, offsets, [(4, 7), (10, 12)]) == [-1, 0, 0, 1, -1]
    assert of_tokens(text, [(7, 9), (9, 10)], [(9, 12)]) == [-1, 0], "a blank by itself is where it is"


def column(values: list[Any], name: str = "messages") -> Split:
    return Split(pa.table({name: pa.array(values)}), "a.jsonl")


def test_messages_lose_what_other_rows_have():
    """Arrow puts a null where another row has a field; in JSON a null stays."""
    rows = [[said("user", "a"), {"role": "assistant", "tool_calls": [{"f": {"x": 1}}]}], [FIRST, HELLO]]
    rows[1][1] = {**HELLO, "tool_calls": [{"f": {"y": 2}}]}
    kept = messages.with_messages(column(rows), "messages", "task.messages").table["messages"].to_pylist()
    assert json.loads(kept[0]) == [said("user", "a"), said("assistant", "", tool_calls=[{"f": {"x": 1}}])]
    assert json.loads(kept[1])[1]["tool_calls"] == [{"f": {"y": 2}}]
    texts = [json.dumps([FIRST, {**CALLED, "tool_calls": [{"x": None}]}]) for CALLED in (chat_templates.CALLED,)]
    again = messages.with_messages(column(texts), "messages", "task.messages").table["messages"].to_pylist()
    assert json.loads(again[0])[1]["tool_calls"] == [{"x": None}]
    twice = messages.with_messages(column(again), "messages", "task.messages").table["messages"].to_pylist()
    assert twice == again


WRONG = {
    "no list": (["hello"], r"a\.jsonl, row 1: 'messages' holds 'hello', which is neither a list nor JSON of one"),
    "null": ([[FIRST, HELLO], None], r"row 2: 'messages' holds 'None'; it must be a list of messages"),
    "half a character": (['[{"role": "user", "content": "\\ud83d"}]'], r"row 1: 'messages' holds half a character"),
    "nothing": ([[FIRST, HELLO], []], r"row 2: 'messages' holds '\[\]'; it must be a list of messages"),
    "an object": (['{"role": "user"}'], r"row 1: 'messages' holds .*it must be a list of messages"),
    "no message": (["[1]"], r"row 1: 'messages': message 1 is '1'; it must be an object \{role, content\}"),
    "no role": (['[{"content": "a"}]'], r"message 1 is .*; it must be an object \{role, content\}"),
    "another role": ([[said("human", "a")]], r"message 1 is of 'human'; there are: assistant, developer"),
    "a role nearly right": ([[FIRST, said("asistant", "a")]], r"message 2 is of 'asistant'; did you mean 'assistant'"),
    "parts": ([[{"role": "user", "content": [{"text": "a"}]}]], r"message 1 has the content .*; it must be a text"),
    "an empty answer": ([[FIRST, said("assistant", " \n")]], r"message 2, of 'assistant', is empty; fill it"),
    "an empty question": ([[said("user", ""), HELLO]], r"message 1, of 'user', is empty; fill it"),
    "the assistant first": (
        [[HELLO, FIRST]],
        r"message 1 is of 'assistant', at the beginning; it may follow 'user' or 'tool'",
    ),
    "twice the user": (
        [[FIRST, SECOND, HELLO]],
        r"row 1: 'messages': message 2 is of 'user', after one of 'user'; it may follow nothing or 'system' or",
    ),
    "twice the assistant": ([[FIRST, HELLO, FOUR]], r"message 3 is of 'assistant', after one of 'assistant'"),
    "a late system": ([[FIRST, said("system", "x"), HELLO]], r"message 2 is of 'system', after one of 'user'"),
    "a tool that nobody called": ([[FIRST, said("tool", "x"), HELLO]], r"message 2 is of 'tool', after one of 'user'"),
    "nobody answers": ([[FIRST]], r"row 1: 'messages' has no message of the assistant, so that there is nothing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_messages_that_are_none(name: str):
    values, error = WRONG[name]
    with pytest.raises(UserError, match=error):
        messages.with_messages(column(values), "messages", "task.messages")


def test_messages_that_are_not_there():
    with pytest.raises(UserError, match=r"has no column 'chat'; it has 'messages'; set config\.task\.messages"):
        messages.with_messages(column([[FIRST, HELLO]]), "chat", "task.messages")


def test_roles_that_follow_each_other():
    tool = [said("tool", ""), said("tool", "5")]
    for first in ("system", "developer"):
        messages.check_order([said(first, "x"), FIRST, chat_templates.CALLED, *tool, HELLO, SECOND], "a row")


def test_prompts_and_completions():
    """Texts are messages; messages stay, and go on where the prompt ends."""
    texts = Split(pa.table({"q": ["Hi there"], "a": ["Hello."]}), "a.csv")
    read = messages.with_parts(texts, "q", {"task.completion": "a"}).table
    assert json.loads(read["q"][0].as_py()) == [FIRST] and json.loads(read["a"][0].as_py()) == [HELLO]
    numbers = Split(pa.table({"q": [2.0], "a": [4]}), "a.jsonl")
    read = messages.with_parts(numbers, "q", {"task.completion": "a"}).table
    assert (json.loads(read["q"][0].as_py()), json.loads(read["a"][0].as_py())) == (
        [said("user", "2")],
        [said("assistant", "4")],
    )
    lists = Split(pa.table({"q": [LONG[:2]], "a": [LONG[2:]]}), "a.jsonl")
    read = messages.with_parts(lists, "q", {"task.completion": "a"}).table
    assert json.loads(read["q"][0].as_py()) == LONG[:2] and json.loads(read["a"][0].as_py()) == LONG[2:]
    with pytest.raises(UserError, match=r"no column 'p'.*set config\.task\.prompt"):
        messages.with_parts(lists, "p", {"task.completion": "a"})


@pytest.mark.parametrize(
    ("prompt", "answer", "error"),
    [
        ("Hi", " ", r"a\.jsonl, row 1: 'a': message 1, of 'assistant', is empty"),
        ("", "Hello.", r"a\.jsonl, row 1: 'q': message 1, of 'user', is empty"),
        ([FIRST, HELLO], "Hello.", r"'a' after 'q': message 3 is of 'assistant', after one of 'assistant'"),
        ([FIRST, HELLO], [SECOND], r"row 1: 'a' has no message of the assistant; it must be what is answered"),
        (None, "Hello.", r"'q' holds 'None'; it must be a list of messages"),
        ("Hi", None, r"'a' holds 'None'; it must be a list of messages"),
        ("Hi", True, r"'a' holds 'True'; it must be a list of messages"),
        ("Hi", math.nan, r"'a' holds 'None'; it must be a list of messages"),
    ],
)
def test_parts_that_are_no_conversation(prompt: Any, answer: Any, error: str):
    split = Split(pa.table({"q": pa.array([prompt]), "a": pa.array([answer])}), "a.jsonl")
    with pytest.raises(UserError, match=error):
        messages.with_parts(split, "q", {"task.completion": "a"})
    with pytest.raises(UserError, match=r"no column 'x'.*set config\.task\.chosen"):
        messages.with_parts(split, "q", {"task.chosen": "x"})


def test_tools():
    """JSON schemas, as lists or as JSON of them; of a row without any null."""
    split = column([chat_templates.TOOLS, None, []], "tools")
    read = messages.with_tools(split, "tools").table["tools"].to_pylist()
    assert json.loads(read[0]) == chat_templates.TOOLS and read[1:] == [None, None]
    texts = column([json.dumps(chat_templates.TOOLS), "", None], "tools")
    assert messages.with_tools(texts, "tools").table["tools"].to_pylist() == read
    assert messages.with_tools(split, "") is split
    with pytest.raises(UserError, match=r"no column 'tool'.*set config\.task\.tools"):
        messages.with_tools(split, "tool")
    for value in ('{"a": 1}', '["a"]', '[{"a": 1}, "b"]'):
        with pytest.raises(UserError, match=r"a\.jsonl, row 1: 'tools' holds .*; it must be a list of tools"):
            messages.with_tools(column([value], "tools"), "tools")
    with pytest.raises(UserError, match=r"row 1: 'tools' holds 'add', which is neither"):
        messages.with_tools(column(["add"], "tools"), "tools")
