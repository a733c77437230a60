"""What can be wrong with a model or with data, and how a test brings it about."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runs import ROOT

CONFIGS = ROOT / "configs"
GOOD = "text,label\n" + "".join(f"{word} number {i},{word}\n" for i in range(12) for word in ("good", "bad"))


class Room(NamedTuple):
    """Where a test works: an empty folder, a small model, a cache, and the folder of a finished run."""

    path: Path
    model: Path
    cache: Path
    run: Path

    def write(self, name: str, content: str | bytes) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def copy(self, folder: Path, name: str) -> Path:
        return shutil.copytree(folder, self.path / name)

    def train(self, *flags: str, data: Path | None = None) -> list[str]:
        """A command line that trains for two steps; `flags` replace its own."""
        data = data or self.write("good.csv", GOOD)
        own = {
            "--config": f"{CONFIGS / 'text_files.py'}:{data}",
            "--workdir": str(self.path / "run"),
            "--config.model.path": str(self.model),
            "--config.data.cache": str(self.cache),
            "--config.data.max_length": "16",
            "--config.data.shapes": "1",
            "--config.data.test_examples": "4",
            "--config.train.batch_size": "8",
            "--config.train.steps": "2",
        }
        given = own | dict(flag.split("=", 1) for flag in flags)
        return [f"{key}={value}" for key, value in given.items()]


Setup = Callable[[Room], list[str]]
"""Makes the situation, and returns the command line."""


def cut(file: Path) -> None:
    """Leaves the first half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flags(*values: str) -> Setup:
    """A training run that is right but for these flags."""
    return lambda room: room.train(*values)


def data(name: str, content: str | bytes, *values: str) -> Setup:
    """A training run on this file."""
    return lambda room: room.train(*values, data=room.write(name, content))


def folder(files: dict[str, str], *values: str) -> Setup:
    """A training run on a folder of these files."""
    return lambda room: room.train(
        *values, data=[room.write(f"data/{name}", text) for name, text in files.items()].pop().parent
    )


def experiment_file(body: str, head: str = "def get_config():") -> Setup:
    """A training run of a config file with this function."""
    program = f"from jaxft.config import *\n\n\n{head}\n    {body}\n"
    return lambda room: room.train(f"--config={room.write('mine.py', program)}")


def model(change: Callable[[Path], object]) -> Setup:
    """A training run from a copy of the model that has been changed."""

    def setup(room: Room) -> list[str]:
        directory = room.copy(room.model, "changed")
        change(directory)
        return room.train(f"--config.model.path={directory}")

    return setup


def model_config(**changes: object) -> Setup:
    """A training run from a copy of the model with another config.json."""

    def change(directory: Path) -> None:
        file = directory / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return model(change)


def on_run(mode: str, *values: str) -> Setup:
    """Something that is done with the finished run."""
    return lambda room: [f"--mode={mode}", f"--workdir={room.run}", *values]


def predict(name: str, content: str | bytes, *values: str) -> Setup:
    """Predictions for this file."""
    return lambda room: on_run("predict", f"--input={room.write(name, content)}", *values)(room)


def torn(room: Room) -> Path:
    """A copy of the finished run, its config.json cut in half."""
    directory = room.copy(room.run, "torn")
    cut(directory / "config.json")
    return directory


def without_checkpoints(room: Room) -> Path:
    """The folder of a run that has just begun."""
    return room.write("new/config.json", (room.run / "config.json").read_bytes()).parent


def csv(*rows: str) -> str:
    return "\n".join(("text,label", *rows)) + "\n"


Rows = dict[str, tuple[Setup, list[str]]]
"""Name -> the situation, and what the line must say."""

MODELS: Rows = {
    "a folder that is not there": (
        lambda room: room.train(f"--config.model.path={room.model}er"),
        ["model.path: there is no", "tinyer", "did you mean 'tiny'?"],
    ),
    "a file": (
        lambda room: room.train(f"--config.model.path={room.model}/config.json"),
        ["config.json is a file; give the directory"],
    ),
    "no model": (lambda room: room.train(f"--config.model.path={room.path}"), ["no config.json in"]),
    "no weights": (
        model(lambda directory: (directory / "model.safetensors").unlink()),
        ["no weights in", "changed: neither model.safetensors nor flax_model.msgpack"],
    ),
    "pickled weights": (
        model(lambda directory: (directory / "model.safetensors").rename(directory / "pytorch_model.bin")),
        ["changed has pytorch_model.bin", "python -c", "from_pretrained", "safe_serialization=True"],
    ),
    "half of the weights": (
        model(lambda directory: cut(directory / "model.safetensors")),
        ["model.safetensors is damaged, cut short", "fetch it again"],
    ),
    "another model's weights": (model_config(hidden_size=64), ["must be [30522, 64] by config.json", "[30522, 32]"]),
    "a decoder that has no padding": (
        model_config(model_type="llama", pad_token_id=None),
        ["config.json: pad_token_id is missing, and Llama answers at the last token that is no padding; set it"],
    ),
    "another kind of model": (
        model_config(model_type="berd"),
        ["changed/config.json: model_type 'berd' is not supported", "did you mean 'bert'?"],
    ),
    "half a config.json": (
        model(lambda directory: cut(directory / "config.json")),
        ["changed/config.json is not valid JSON", "fetch it again"],
    ),
    "no tokenizer": (
        model(lambda directory: [file.unlink() for name in ("vocab*", "tokenizer*") for file in directory.glob(name)]),
        ["no tokenizer in", "changed: it needs one of tokenizer.json"],
    ),
    "a tokenizer that is larger than the embedding": (
        model_config(vocab_size=30000),
        ["changed: the tokenizer has 30522 entries", "embedding (30000)"],
    ),
    "a tokenizer of another family": (
        model_config(pad_token_id=1),
        ["changed: the tokenizer is of another family", "('[PAD]') is id 0, but config.json says pad_token_id 1"],
    ),
    "heads that do not share the hidden size": (
        model_config(num_attention_heads=5),
        ["changed/config.json: the hidden size, 32, must be a multiple of the number of heads, 5"],
    ),
    "positions that the weights lack": (
        model_config(max_position_embeddings=80),
        ["position_embeddings", "must be [80, 32] by config.json", "[64, 32]"],
    ),
    "too few positions": (flags("--config.data.max_length=65"), ["config.data.max_length is 65", "only 64 positions"]),
    "too few for any text": (flags("--config.data.max_length=3"), ["config.data.max_length is 3", "at least 4"]),
}

LINES = [{"text": f"number {i}", "label": "ab"[i % 2]} for i in range(8)]


def jsonl(row: int, **changed: object) -> str:
    """Eight good lines, one of them changed."""
    rows = [line | changed if i == row else line for i, line in enumerate(LINES, 1)]
    return "".join(json.dumps(line) + "\n" for line in rows)


SCORES = "text,label\n" + "".join(f"number {i},{i}.5\n" for i in range(8))
REGRESSION, SEVERAL = "--config.task.problem=regression", "--config.task.problem=multi_label"

DATA: Rows = {
    "no such file": (
        lambda room: room.train(data=room.write("reviews.csv", GOOD).with_name("review.csv")),
        ["config.data.source: there is no", "review.csv", "did you mean 'reviews.csv'?"],
    ),
    "no such split": (
        folder({"training.csv": GOOD}, "--config.data.validation=training"),
        ["config.data.train is 'train'", "did you mean 'training'?"],
    ),
    "no text column": (
        data("a.csv", "sentence,label\nx,1\n"),
        ["a.csv has no column 'text'; it has 'sentence', 'label'", "config.task.text"],
    ),
    "no second text column": (
        flags("--config.task.text_pair=text2"),
        ["good.csv has no column 'text2'; it has 'text', 'label'", "config.task.text_pair"],
    ),
    "no label column": (
        flags("--config.task.label=stars"),
        ["good.csv has no column 'stars'; it has 'text', 'label'", "config.task.label"],
    ),
    "no label column in validation": (
        folder({"train.csv": GOOD, "dev.csv": "text\nx\n"}),
        ["dev.csv has no column 'label'; it has 'text'"],
    ),
    "an empty training split": (data("a.csv", "text,label\n"), ["a.csv (the train split) has no rows"]),
    "an empty test split": (
        folder({"train.csv": GOOD, "test.csv": "text,label\n"}),
        ["test.csv (the test split) has no rows"],
    ),
    "too few rows to carve from": (
        data("a.csv", csv("x,1", "y,2"), "--config.data.test_examples=1"),
        ["a.csv has 2 examples", "leaves none to train on", "config.data.validation_examples"],
    ),
    "null for text": (
        data("a.jsonl", jsonl(5, text=None)),
        ["a.jsonl, row 5: column 'text' holds null", "1 of 8 rows"],
    ),
    "empty text": (data("a.csv", csv("x,1", " ,2")), ["a.csv, row 2: column 'text' holds empty text", "1 of 2 rows"]),
    "true for text": (
        data("a.jsonl", '{"text": true, "label": "a"}\n{"text": false, "label": "b"}\n'),
        ["a.jsonl, row 1: column 'text' must hold text", "bool values such as True"],
    ),
    "a number among text": (
        data("a.jsonl", jsonl(3, text=7)),
        ["a.jsonl, line 3: column 'text' is a number (7), but text in line 1"],
    ),
    "no UTF-8": (
        data("a.csv", csv("good,1", "caf\xe9,2").encode("latin-1")),
        ["a.csv is not utf-8: byte 0xe9 at offset 21 (line 3)", "config.data.encoding"],
    ),
    "no label": (data("a.jsonl", jsonl(8, label=None)), ["a.jsonl, row 8: no label in 'label'"]),
    "an empty label": (data("a.csv", csv("x,a", "y,")), ["a.csv, row 2: no label in 'label'"]),
    "a label that training never saw": (
        folder({"train.csv": GOOD, "dev.csv": csv("x,good", "y,goood")}),
        ["dev.csv, row 2: label 'goood' is not among", "did you mean 'good'?"],
    ),
    "a label that was not named": (
        flags("--config.task.labels=('good', 'ugly')"),
        ["good.csv, row 2: label 'bad'", "config.task.labels; there are: good, ugly"],
    ),
    "one label only": (data("a.csv", csv("x,1", "y,1")), ["a.csv: all labels in 'label' are '1'", "two or more"]),
    "fractions for classes": (
        data("a.csv", SCORES),
        ["a.csv, row 1: label 0.5 in 'label'", "config.task.problem=regression"],
    ),
    "lists for classes": (data("a.jsonl", jsonl(1, label=[1])), ["a.jsonl, line 2: column 'label' is text"]),
    "objects for every class": (
        data("a.jsonl", '{"text": "x", "label": {"a": 1}}\n{"text": "y", "label": {"a": 2}}\n'),
        ["a.jsonl, row 1: label {'a': 1} in 'label' is a dict"],
    ),
    "an empty label among several": (
        data("a.csv", 'text,label\nx,"a,,b"\ny,a\n', SEVERAL),
        ["a.csv, row 1: 'label' holds 'a,,b', with an empty label in it"],
    ),
    "null for several labels": (
        data("a.jsonl", jsonl(2, label=None), SEVERAL),
        ["a.jsonl, row 2: no label in 'label'; write an empty list for none"],
    ),
    "a label of several that training never saw": (
        folder({"train.csv": 'text,label\nx,"a,b"\n', "dev.csv": 'text,label\nx,"a,c"\n'}, SEVERAL),
        ["dev.csv, row 1: label 'c' is not among", "there are: a, b"],
    ),
    "no label at all": (data("a.csv", csv("x,", "y,"), SEVERAL), ["a.csv: no labels in 'label'"]),
    "a number other than 0 and 1 for a label": (
        data("a.csv", "text,joy,anger\nx,0,1\ny,1,2\n", "--config.task.label_columns=('joy', 'anger')"),
        ["a.csv, row 2: 'anger' is '2'; a column of a label holds 0 or 1"],
    ),
    "no such column of a label": (
        flags("--config.task.label_columns=('joy', 'anger')"),
        ["good.csv has no column 'joy'; it has 'text', 'label'", "config.task.label_columns"],
    ),
    "too few class weights": (
        flags("--config.task.class_weights=(1.0, 2.0, 3.0)"),
        ["config.task.class_weights has 3 numbers for 2 labels: bad, good"],
    ),
    "smoothing of scores": (
        data("a.csv", SCORES, REGRESSION, "--config.task.label_smoothing=0.1"),
        ["config.task.label_smoothing is set, but the problem is regression"],
    ),
    "words for scores": (flags(REGRESSION), ["good.csv, row 1: label 'good' in 'label' is not a finite number"]),
    "null for a score": (
        data("a.csv", SCORES + "x,\n", REGRESSION),
        ["a.csv, row 9: label None in 'label' is not a finite number"],
    ),
    "infinity for a score": (
        data("a.jsonl", '{"text": "x", "label": 1.0}\n{"text": "y", "label": Infinity}\n', REGRESSION),
        ["a.jsonl, row 2: label inf in 'label' is not a finite number"],
    ),
    "true for a score": (
        data("a.jsonl", '{"text": "x", "label": true}\n' * 9, REGRESSION),
        ["a.jsonl, row 1: label True in 'label' is not a finite number"],
    ),
}
