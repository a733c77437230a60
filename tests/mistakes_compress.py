"""What a user gets wrong when a model is to become smaller."""

import json

from mistakes import Room, Rows, Setup


def small(*values: str, source: str = "") -> Setup:
    """A model made smaller: the finished run, or its export (`source`), into a folder that is not there."""
    return lambda room: [
        "--mode=compress",
        f"--workdir={room.run / source if source else room.run}",
        *("" if any(value.startswith("--output") for value in values) else [f"--output={room.path / 'small'}"]),
        *values,
    ]


def file(name: str, content: str, *values: str) -> Setup:
    """The same of the run's export, by a file."""
    return lambda room: small(f"--input={room.write(name, content)}", *values, source="export")(room)


def of_words(room: Room) -> list[str]:
    """A model whose tokenizer knows whole words alone."""
    directory = room.copy(room.run / "export", "words")
    for name in ("vocab.txt", "special_tokens_map.json"):
        (directory / name).unlink(missing_ok=True)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    tokenizer["model"] = {"type": "WordLevel", "vocab": tokenizer["model"]["vocab"], "unk_token": "[UNK]"}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return ["--mode=compress", f"--workdir={directory}", f"--output={room.path / 'small'}", "--compress.words=used"]


COMPRESS: Rows = {
    "nothing to make smaller": (small(), ["nothing is to become smaller", "--compress.layers=N", "words=used"]),
    "no place for a smaller model": (
        lambda room: ["--mode=compress", f"--workdir={room.run}", "--compress.inner=8"],
        ["--output is missing; give a new folder for the model"],
    ),
    "a place that is taken": (
        lambda room: small(f"--output={room.write('mine/notes.txt', 'x').parent}", "--compress.inner=8")(room),
        ["mine is there already; choose a new folder"],
    ),
    "a place in no folder": (
        small("--output=/nowhere/small", "--compress.inner=8"),
        ["--output /nowhere/small: there is no folder /nowhere"],
    ),
    "more layers to keep than there are": (small("--compress.layers=3"), ["the model has 2 layers; keep 1 to 2"]),
    "fewer layers than none": (small("--compress.layers=-1"), ["--compress.layers=-1", "non-negative"]),
    "more units than there are": (small("--compress.inner=65"), ["a feed-forward net of the model has 64 units"]),
    "words of no kind": (small("--compress.words=all"), ["--compress.words is 'all'; it must be used"]),
    "a smaller model of nothing": (
        small("--workdir=/nowhere", "--compress.inner=8"),
        ["/nowhere holds no run", "--workdir"],
    ),
    "no data to choose by": (
        small("--compress.inner=8", source="export"),
        ["--input is missing: ", "export is no run, whose data could be used; give a file"],
    ),
    "texts where labels are needed": (
        file("a.csv", "text\nx\n", "--compress.inner=8"),
        ["a.csv has no column 'label', which the run reads; it has 'text'"],
    ),
    "a corpus without the column": (
        file("a.csv", "sentence\nx\n", "--compress.words=used"),
        ["a.csv has no column 'text', which the run reads; it has 'sentence'"],
    ),
    "a corpus of blank lines": (
        file("a.txt", "\n \n", "--compress.words=used"),
        ["a.txt is empty: its 2 rows hold no 'text'"],
    ),
    "a tokenizer that cannot become smaller": (of_words, ["is WordLevel; those that can be made smaller are"]),
    "a flag of compress in training": (
        lambda room: [*room.train(), "--compress.layers=1"],
        ["--compress.layers is not used by --mode=train; it is for --mode=compress"],
    ),
}
