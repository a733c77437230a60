"""What can be wrong with text to learn a language from, and with texts that belong together."""

from mistakes import CONFIGS, Rows, Setup


def texts(config: str, content: str, *values: str, name: str = "a.csv") -> Setup:
    """A training run of a config on this file."""
    return lambda room: room.train(f"--config={CONFIGS / config}:{room.write(name, content)}", *values)


PAIRS = "anchor,positive\nx,y\n"
SCORED = "--config.task.score=score"


def chats(messages: str, *values: str) -> Setup:
    """A training run on a conversation, JSON of its messages."""
    rows = [f'{{"messages": {messages.replace("x", f"x{i}")}}}\n' for i in range(20)]
    return texts("chat.py", "".join(rows), *values, name="a.jsonl")


ASKED = '{"role": "user", "content": "x"}'
ANSWERED = '{"role": "assistant", "content": "y"}'

TEXTS: Rows = {
    "a tokenizer without a chat template": (
        chats(f"[{ASKED}, {ANSWERED}]"),
        ["the tokenizer has no chat template", "name a file of one in config.task.template"],
    ),
    "a chat template that is not there": (
        chats(f"[{ASKED}, {ANSWERED}]", "--config.task.template=nowhere.jinja"),
        ["config.task.template: there is no nowhere.jinja"],
    ),
    "a chat template that refuses": (
        chats(f"[{ASKED}, {ANSWERED}]", "--config.task.template={{ raise_exception('never') }}"),
        ["a.jsonl, row 1: the chat template does not take it (TemplateError: never)"],
    ),
    "roles in a wrong order": (
        chats(f"[{ASKED}, {ASKED}, {ANSWERED}]"),
        ["a.jsonl, row 1: 'messages': message 2 is of 'user', after one of 'user'", "it may follow"],
    ),
    "nobody who answers": (
        chats(f"[{ASKED}]"),
        ["a.jsonl, row 1: 'messages' has no message of the assistant", "leave it out"],
    ),
    "answers of which none is preferred": (
        texts("preference.py", "prompt,chosen,rejected\nx,y,z\nx,y,y\n"),
        ["a.csv, row 2: 'chosen' and 'rejected' are the same: none is preferred; leave it out"],
    ),
    "another loss of preferences": (
        texts("preference.py", "prompt,chosen,rejected\nx,y,z\n", "--config.task.loss=kto"),
        ["config.task.loss is 'kto'", "dpo"],
    ),
    "an empty completion": (
        texts("chat.py", "prompt,completion\nx,y\nz,\n", "--config.task.messages="),
        ["a.csv, row 2: 'completion'", "is empty; fill it, or leave the row out"],
    ),
    "the tail of conversations": (
        chats(f"[{ASKED}, {ANSWERED}]", "--config.data.truncate=tail"),
        ["config.data.truncate is 'tail', but conversations are cut at their end alone; unset it"],
    ),
    "no text to learn from": (
        texts("mlm.py", "body\nx\n"),
        ["a.csv has no column 'text'; it has 'body'", "config.task.text"],
    ),
    "empty text to learn from": (
        texts("mlm.py", "text\nx\n \n"),
        ["a.csv, row 2: column 'text' holds empty text"],
    ),
    "a text file without text": (texts("mlm.py", "\n\n", name="a.txt"), ["a.txt is empty"]),
    "lines where documents are asked for": (
        texts(
            "next_sentence.py",
            "".join(f"Line {i}.\n" for i in range(30)),
            "--config.data.documents=false",
            name="a.txt",
        ),
        ["a.txt: no text in 'text' has two sentences", "config.data.documents=true"],
    ),
    "too much to hide": (
        texts("mlm.py", "text\nx\n", "--config.task.mask_fraction=1"),
        ["config.task.mask_fraction is 1", "it must be at most 0.9"],
    ),
    "one text where two belong together": (
        texts("embeddings.py", PAIRS, "--config.task.texts=('anchor',)"),
        ["config.task.texts names 1 columns; it must name two or three"],
    ),
    "three texts with a score": (
        texts("embeddings.py", PAIRS, "--config.task.texts=('anchor', 'positive', 'x')", SCORED),
        ["config.task.texts names 3 columns; it must name two"],
    ),
    "no second text": (
        texts("embeddings.py", "anchor,other\nx,y\n"),
        ["a.csv has no column 'positive'; it has 'anchor', 'other'", "config.task.texts"],
    ),
    "an empty second text": (
        texts("embeddings.py", PAIRS + "x,\n"),
        ["a.csv, row 2: column 'positive' holds empty text"],
    ),
    "no score": (
        texts("embeddings.py", PAIRS, SCORED),
        ["a.csv has no column 'score'; it has 'anchor', 'positive'", "config.task.score"],
    ),
    "a score that is no cosine": (
        texts("embeddings.py", "anchor,positive,score\nx,y,0.5\nx,z,4.2\n", SCORED),
        ["a.csv, row 2: score 4.2 in 'score'; it must be a number from -1 to 1"],
    ),
}
