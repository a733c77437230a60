"""Conversations as examples: what is learned of them, what is cut, what a run of them leaves."""

import json
from pathlib import Path
from typing import Any

import chats
import numpy as np
import pyarrow as pa
import pytest
import support
from chat_templates import CHATML, FIRST, FOUR, HELLO, LONG, SECOND, SHORT, TOOLS, ZEPHYR, said
from runs import assert_packed_is_padded, experiment, results, weights

from jaxft import config, hub, models, modes, tables, tasks
from jaxft.batch import IGNORED
from jaxft.data import sources, splits, truncation
from jaxft.data.features import Features, tokenize
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.hub.directory import CHAT_TEMPLATE
from jaxft.predict.directory import task_of
from jaxft.tables import census, turns
from jaxft.tables.chat import Chat
from jaxft.tasks import causal_lm


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Any:
    return hub.load_tokenizer(chats.save_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def made(split: Split, tokenizer: Any, length: int = 200, **options: Any) -> Features:
    table = tables.build(config.Chat(**options))
    read = table.read(split)
    return tokenize(read.table.num_rows, lambda a, b: table.features(read.slice(a, b), tokenizer, length), None)


def learned(features: Features, tokenizer: Any) -> list[str]:
    """Of each example the tokens that are learned, as a text."""
    labels = [features.tokens["labels"][a:b] for a, b in zip(features.offsets, features.offsets[1:], strict=False)]
    return [tokenizer.decode(part[part != IGNORED]) for part in labels]


def rows(*messages: list[dict[str, Any]], **columns: Any) -> Split:
    return Split(pa.table({"messages": [json.dumps(one) for one in messages], **columns}), "a.jsonl")


def test_conversations_become_examples(tokenizer):
    """Ids are those of transformers; labels are the ids where the assistant speaks."""
    found = made(rows(LONG, SHORT[:2]), tokenizer)
    ids = [found.tokens["input_ids"][a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)]
    assert ids == [tokenizer.apply_chat_template(one)["input_ids"] for one in (LONG, SHORT[:2])]
    assert learned(found, tokenizer) == ["Hello.<|im_end|>It is 4.<|im_end|>", "Hello.<|im_end|>"]
    where = found.tokens["labels"] != IGNORED
    assert (found.tokens["labels"][where] == found.tokens["input_ids"][where]).all()
    assert not found.tokens["token_type_ids"].any()
    assert found.examples["learned"].tolist() == [where[: found.offsets[1]].sum(), where[found.offsets[1] :].sum()]
    assert not found.examples["halved"].any() and not found.examples["lost"].any()


def test_a_long_conversation_is_no_matter(tmp_path):
    """The tokenizer says nothing of texts that are longer than it likes, as they are cut, and that is said."""
    tokenizer = hub.load_tokenizer(chats.save_tokenizer(tmp_path / "tokenizer"))
    tokenizer.model_max_length = 5
    assert made(rows(SHORT), tokenizer, 9).lengths.tolist() == [9] and not tokenizer.deprecation_warnings
    tokenizer("a b c d e f g h")
    assert tokenizer.deprecation_warnings  # where it keeps what it has said


def test_a_completion_alone_is_learned(tokenizer):
    columns = {"prompt": [LONG[:4], [FIRST]], "completion": [[FOUR], [HELLO, SECOND, FOUR]]}
    split = Split(pa.table(columns), "a.jsonl")
    found = made(split, tokenizer, messages="")
    assert learned(found, tokenizer) == ["It is 4.<|im_end|>", "Hello.<|im_end|>It is 4.<|im_end|>"]
    texts = Split(pa.table({"q": ["Hi there"], "a": ["Hello."]}), "a.csv")
    assert learned(made(texts, tokenizer, messages="", prompt="q", completion="a"), tokenizer) == ["Hello.<|im_end|>"]


def test_tools_and_a_template_of_ones_own(tokenizer):
    template = "{{ tools[0].function.name if tools else 'none' }}" + ZEPHYR
    split = rows(SHORT[:2], SHORT[:2], offered=[json.dumps(TOOLS), None])
    found = made(split, tokenizer, tools="offered", template=template)
    bounds = zip(found.offsets, found.offsets[1:], strict=False)
    texts = [tokenizer.decode(found.tokens["input_ids"][a:b]) for a, b in bounds]
    assert [text.split("<|user|>")[0] for text in texts] == ["add", "none"]
    assert learned(found, tokenizer) == ["Hello.<|im_end|>"] * 2  # the tokenizer's eos_token


def test_inputs_tell_rows_apart():
    assert tables.build(config.Chat()).inputs == ("messages",)
    assert tables.build(config.Chat(tools="t")).inputs == ("messages", "t")
    assert tables.build(config.Chat(messages="", prompt="p")).inputs == ("p", "completion")


def test_what_is_cut_is_counted(tokenizer):
    """Turns that the cut goes through, those behind it, and conversations of which nothing is left."""
    whole = made(rows(SHORT), tokenizer)
    where = np.flatnonzero(whole.tokens["labels"] != IGNORED)
    gap = int(np.flatnonzero(np.diff(where) > 1)[0])
    begins, ends = [int(where[0]), int(where[gap + 1])], [int(where[gap]) + 1, int(where[-1]) + 1]
    one, both = ends[0] - begins[0], len(where)
    expected = {
        ends[1]: (0, 0, both),
        ends[1] - 1: (1, 0, both - 1),
        begins[1] + 1: (1, 0, one + 1),
        begins[1]: (0, 1, one),
        ends[0]: (0, 1, one),
        ends[0] - 1: (1, 1, one - 1),
        begins[0] + 1: (1, 1, 1),
        begins[0]: (0, 2, 0),
    }
    for length, counts in expected.items():
        found = made(rows(SHORT), tokenizer, length)
        assert int(found.lengths[0]) == min(length, int(whole.lengths[0]))
        assert tuple(int(found.examples[name][0]) for name in ("halved", "lost", "learned")) == counts, length


def test_what_is_cut_is_said(tokenizer):
    options = config.Chat()
    whole = made(rows(SHORT, SHORT[:2]), tokenizer)
    assert census.of_tokens(options, {"train": whole}, int(whole.lengths.max())) == []
    length = int(whole.lengths[1]) - 3
    found = made(rows(SHORT, SHORT[:2]), tokenizer, length)
    line = (
        f"2 of 2 train conversations are longer than config.data.max_length {length}: 2 turns of the assistant are cut "
        "in two there, and 1 lie behind it"
    )
    assert census.of_tokens(options, {"train": found}, length) == [line]
    short = census.of_tokens(options, {"train": made(rows(SHORT, SHORT[:2]), tokenizer, 8)}, 8)
    assert short[0].endswith("; 2 conversations are left with nothing to learn")


def test_other_parts_are_not_kept():
    assert truncation.cuts(config.Chat())
    with pytest.raises(UserError, match=r"config\.data\.truncate is 'tail', but conversations are cut at their end"):
        truncation.keeping(None, config.Chat(), "tail")


def test_a_template_is_a_file_or_itself(tmp_path):
    """Resolved options hold the template, so that what a run has learned by stays known."""
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML)
    table = tables.build(config.Chat(template=str(file)))
    assert table.resolve({}).template == CHATML and tables.build(table.resolve({})).resolve({}).template == CHATML
    assert tables.build(config.Chat()).resolve({}).template == ""
    with pytest.raises(UserError, match=r"config\.task\.template: there is no .*; .*did you mean 'chat\.jinja'"):
        turns.template_of(str(tmp_path / "chat.jinj"))
    with pytest.raises(UserError, match=r"config\.task\.template: there is no"):
        turns.template_of(str(tmp_path))
    file.write_text("Hello")
    with pytest.raises(UserError, match=r"config\.task\.template: .*chat\.jinja is no template: it has no \{\{ \}\}"):
        turns.template_of(str(file))


def test_its_task_is_that_of_a_language_model():
    task = tasks.build(config.Chat())
    assert type(task) is causal_lm.CausalLM and task.hf_class == "ForCausalLM"
    hf = {"architectures": ["LlamaForCausalLM"]}
    assert task_of(hf, Path("there"), config.Chat(messages="m")) == config.Chat(messages="m")
    with pytest.raises(UserError, match="the class of CausalLM; task is a MaskedLM"):
        task_of(hf, Path("there"), config.MaskedLM())


def test_what_an_export_has():
    model = models.build(support.ARCHITECTURES["llama"])
    own, given = (tables.build(config.Chat(template=text)).published(model, 64) for text in ("", CHATML))
    assert own.files == {} and given.files == {CHAT_TEMPLATE: CHATML}
    assert given.pipeline == "text-generation" and '"role": "user"' in given.usage


def test_rows_that_agree_are_the_same():
    """Whether they are lists or JSON of them: training rows that are also in validation are left out."""
    table = tables.build(config.Chat())
    train = Split(pa.table({"messages": [SHORT, SHORT[:2]]}), "a.jsonl", key="train")
    raw = {"train": table.read(train), "validation": table.read(rows(SHORT))}
    found, notes = splits.prepare(raw, config.Data(), 0, table.inputs, splits.carving(table.options))
    assert found["train"].table.num_rows == 1 and "1" in notes[0]


def write(file: Path, conversations: list[Any]) -> Path:
    file.write_text("".join(json.dumps({"messages": one}) + "\n" for one in conversations))
    return file


def run_of(model: Path, cache: Path, source: Path, **changes: Any) -> config.Experiment:
    data = {"source": str(source), "encoding": "utf-8", "max_length": 64, "validation_examples": 8, "test_examples": 0}
    e = experiment(model, cache, data=data, **changes)
    e.task, e.data.train_examples = config.Chat(), 0
    return e


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """A finished run on counting, from a model without a template."""
    folder = tmp_path_factory.mktemp("chat")
    model = chats.save_decoder(folder / "model", template="")
    template = folder / "chatml.jinja"
    template.write_text(CHATML)
    source = write(folder / "counting.jsonl", chats.counting(200))
    train, optimizer = {"epochs": 25, "eval_every": 60}, {"learning_rate": 1e-2}
    e = run_of(model, cache, source, train=train, optimizer=optimizer)
    e.task = config.Chat(template=str(template))
    modes.train(e, str(folder / "run"))
    return folder


@pytest.mark.matrix
def test_a_run_learns_and_opens_in_pytorch(torch, trained, tmp_path):
    """Perplexities of answers are those of AutoModelForCausalLM, of the tokens that its own template marks as ours."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = results(trained / "run")
    assert found["validation/accuracy"] > 0.9 and found["validation/perplexity"] < 2
    asked = write(tmp_path / "asked.jsonl", [chats.counting(8)[3], chats.counting(8)[6]])
    modes.predict(str(trained / "run"), str(asked), str(tmp_path / "answers.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    theirs = AutoModelForCausalLM.from_pretrained(trained / "run" / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained / "run" / "export")
    assert tokenizer.chat_template == CHATML
    for messages, one in zip((chats.counting(8)[3], chats.counting(8)[6]), answers, strict=True):
        ids = tokenizer.apply_chat_template(messages)["input_ids"]
        labels, speaks = [], False
        header = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
        for at, token in enumerate(ids):
            labels.append(token if speaks else -100)
            speaks = (speaks and token != tokenizer.eos_token_id) or ids[: at + 1][-len(header) :] == header
        with torch.no_grad():
            loss = theirs(torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert one["perplexity"] == pytest.approx(float(torch.exp(loss)), rel=1e-4)
        assert one["guessed"] == sum(label != -100 for label in labels)


@pytest.mark.matrix
def test_it_answers_what_it_has_not_seen(torch, trained, tmp_path):
    """Nine of ten conversations and more to the letter, of those held back; PyTorch's class writes the same."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    held = chats.counting(240)[200:]
    file = write(tmp_path / "held.jsonl", held)
    found = modes.evaluate(str(trained / "run"), inputs=str(file), writing={"max_new_tokens": 8})
    assert found["input/exact_match"] >= 0.95
    modes.predict(str(trained / "run"), str(file), str(tmp_path / "said.jsonl"), writing={"max_new_tokens": 8})
    answers = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    theirs: Any = AutoModelForCausalLM.from_pretrained(trained / "run" / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained / "run" / "export")
    for messages, one in zip(held, answers, strict=True):
        ids = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_tensors="pt")["input_ids"]
        wrote = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, pad_token_id=0
        )
        assert tokenizer.decode(wrote[0, ids.shape[1] :], skip_special_tokens=True) == one["completion"]


@pytest.mark.matrix
def test_a_run_measures_and_predicts_the_same_packed(trained, tmp_path):
    assert_packed_is_padded(trained / "run", trained / "counting.jsonl", tmp_path)


@pytest.mark.matrix
def test_a_run_says_a_file_and_resumes(trained, cache, tmp_path, monkeypatch):
    """Stopped in the middle and started again: the same weights."""
    from jaxft.train import loop

    model = chats.save_decoder(tmp_path / "model")
    e = lambda: run_of(model, cache, trained / "counting.jsonl", train={"epochs": 4, "eval_every": 4, "save_every": 2})  # noqa: E731
    modes.train(e(), str(tmp_path / "whole"))
    plain, steps = loop.fit, []

    def stopped(step, *rest):
        def counted(state, batch):
            steps.append(1)
            if len(steps) == 9:
                raise KeyboardInterrupt
            return step(state, batch)

        return plain(counted, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("jaxft.modes.training.fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            modes.train(e(), str(tmp_path / "cut"))
    modes.train(e(), str(tmp_path / "cut"))
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    found = modes.evaluate(str(tmp_path / "cut"), inputs=str(trained / "counting.jsonl"))
    assert found["input/perplexity"] > 1


def test_what_is_asked():
    """A conversation up to what the assistant says last, and that; of prompts with completions or without."""
    table = Chat(config.Chat())
    conversations, answers = table.asked(rows(SHORT, SHORT[:3], SHORT[:2]))
    assert [one.messages for one in conversations] == [SHORT[:3], SHORT[:3], SHORT[:1]]
    assert answers == [SHORT[3]["content"], "", SHORT[1]["content"]]
    with pytest.raises(UserError, match=r"a\.jsonl, row 2: 'messages' asks nothing: end it with a message of 'user'"):
        table.asked(rows(SHORT, [said("system", "Be brief.")]))


def test_what_is_asked_of_prompts():
    called = [said("assistant", "", tool_calls=[{"name": "add"}]), said("tool", "4"), said("assistant", "It is 4.")]
    columns = {"prompt": ["Add."], "completion": [called], "tools": [json.dumps([{"name": "add"}])]}
    whole = Chat(config.Chat(messages="", tools="tools")).asked(Split(pa.table(columns), "a.jsonl"))
    assert whole[0][0].messages == [said("user", "Add."), *called[:2]] and whole[1] == ["It is 4."]
    assert whole[0][0].tools == [{"name": "add"}]
    bare = Chat(config.Chat(messages="")).asked(Split(pa.table({"prompt": ["Add."]}), "a.jsonl"))
    assert bare[0][0].messages == [said("user", "Add.")] and bare[1] == [""] and bare[0][0].tools is None


def test_a_file_is_read_whatever_its_kind(tmp_path):
    """Lists of JSON lines, and their text in a cell."""
    table, data = tables.build(config.Chat()), config.Data(source=str(write(tmp_path / "a.jsonl", [SHORT, SHORT[:2]])))
    lists = table.read(sources.read(data)["train"]).table["messages"].to_pylist()
    cell = json.dumps(SHORT).replace('"', '""')
    (tmp_path / "b.csv").write_text(f'messages\n"{cell}"\n')
    cells = table.read(sources.read(config.Data(source=str(tmp_path / "b.csv")))["train"]).table["messages"].to_pylist()
    assert [json.loads(one) for one in lists] == [SHORT, SHORT[:2]] and cells == lists[:1]
