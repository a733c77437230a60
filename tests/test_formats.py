"""Files as people have them: other delimiters, shapes of JSON, comments, suffixes in capitals, spans of doccano."""

import json
from pathlib import Path

import pytest

from jaxft.config import Data
from jaxft.data.sources import Split, read
from jaxft.errors import UserError


def source(folder: Path, name: str, content: str, **knobs) -> Split:
    (folder / name).write_text(content, encoding="utf-8")
    return read(Data(source=str(folder / name), **knobs))["train"]


ROWS = {"text": ["a, b", "c; d"], "label": ["1", "0"]}

DELIMITED = {
    "semicolons": ("a.csv", 'text;label\n"a, b";1\n"c; d";0\n', {}, ";"),
    "semicolons, no quotes": ("a.csv", 'text;label\na, b;1\n"c; d";0\n', {}, ";"),
    "tabs": ("a.csv", "text\tlabel\na, b\t1\nc; d\t0\n", {}, "\t"),
    "bars": ("a.csv", "text|label\na, b|1\nc; d|0\n", {}, "|"),
    "commas in a .tsv": ("a.tsv", 'text,label\n"a, b",1\nc; d,0\n', {}, ","),
    "semicolons, no header": (
        "a.csv",
        '"a, b";1\n"c; d";0\n',
        {"columns": ("text", "label")},
        ";",
    ),
    "named, no header": ("a.csv", 'a, b;1\n"c; d";0\n', {"columns": ("text", "label"), "delimiter": ";"}, ""),
    "named": ("a.csv", 'text;label\na, b;1\n"c; d";0\n', {"delimiter": ";"}, ""),
    "named, a tab": ("a.csv", "text\tlabel\na, b\t1\nc; d\t0\n", {"delimiter": "\\t"}, ""),
    "commas": ("a.csv", 'text,label\n"a, b",1\nc; d,0\n', {}, ""),
}


@pytest.mark.parametrize(("name", "content", "knobs", "noted"), DELIMITED.values(), ids=DELIMITED)
def test_what_separates_cells(tmp_path, name, content, knobs, noted):
    split = source(tmp_path, name, content, **knobs)
    assert split.table.to_pydict() == ROWS
    said = f"{name}: cells are separated by {noted!r}, as its first lines tell; else set data.delimiter"
    assert split.notes == ((said,) if noted else ())


def test_what_separates_as_many_cells_as_there_are_names(tmp_path):
    """Semicolons would separate two."""
    split = source(tmp_path, "a.csv", "a;b|c|d\ne;f|g|h\n", columns=("x", "y", "z"))
    assert split.table.to_pydict() == {"x": ["a;b", "e;f"], "y": ["c", "g"], "z": ["d", "h"]}


def test_one_column_of_text_is_not_split(tmp_path):
    """Nor is it where each text has one semicolon, as the header has none."""
    content = "text\n" + "".join(f"{i}; x\n" for i in range(9))
    assert source(tmp_path, "a.csv", content).table["text"].to_pylist() == [f"{i}; x" for i in range(9)]
    with pytest.raises(UserError, match=r"a\.csv, line 3 has 2 cell\(s\), but the first line has 1"):
        source(tmp_path, "a.csv", "text\nx\na, b\n")


def test_a_delimiter_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.delimiter is ', '; it must be one character"):
        source(tmp_path, "a.csv", "a, b\n1, 2\n", delimiter=", ")


OBJECTS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
TABLE = {"text": ["a", "b"], "label": [1, 0]}


@pytest.mark.parametrize("indent", [None, 2])
def test_json_with_a_field_of_data(tmp_path, indent):
    content = json.dumps({"version": 1, "data": OBJECTS}, indent=indent)
    assert source(tmp_path, "a.json", content).table.to_pydict() == TABLE
    with pytest.raises(UserError, match=r"a\.json, data\[1\]: column 'label' is text \(x\), but a number in data\[0\]"):
        source(tmp_path, "a.json", content.replace('"label": 0', '"label": "x"'))


def test_one_object_is_a_row(tmp_path):
    """Lists of words are a row too, whose columns are of one length."""
    rows = {"tokens": ["a", "b"], "tags": ["O", "O"]}
    assert source(tmp_path, "a.json", json.dumps(rows)).table.to_pylist() == [rows]
    held = {"data": "x", "text": "a"}
    assert source(tmp_path, "b.json", json.dumps(held)).table.to_pylist() == [held]


@pytest.mark.parametrize("content", ["[" * 99_999, '{"a": ' * 99_999, "1" * 5_000, f'{{"data": [{"1" * 5_000}]}}'])
def test_json_that_python_cannot_hold(tmp_path, content):
    with pytest.raises(UserError, match=r"a\.json"):
        source(tmp_path, "a.json", content)


def test_spans_as_doccano_writes_them(tmp_path):
    lines = [{"text": "Ann in Rome", "label": [[0, 3, "PER"], [7, 11, "LOC"]]}, {"text": "none", "label": []}]
    split = source(tmp_path, "a.jsonl", "\n".join(map(json.dumps, [*lines, {"text": "x", "label": None}])))
    assert split.table["label"].to_pylist() == [
        [{"start": 0, "end": 3, "label": "PER"}, {"start": 7, "end": 11, "label": "LOC"}],
        [],
        None,
    ]
    with pytest.raises(UserError, match=r"a\.jsonl: column 'label' holds what Arrow cannot store"):
        source(tmp_path, "a.jsonl", json.dumps({"label": [[0, 3, "PER"], [0, "PER"]]}))


COMMENTS = {
    "of as many cells": ("# id 0 domain=en\njohn _ _ B-PER\n\n# id 1 domain=en\nx _ _ O\n", [["john"], ["x"]], 2),
    "of more": ("# sent_id = 1\njohn\tB-PER\n# a note\nx\tO\n", [["john", "x"]], 2),
    "of one": ("#begin document (x);\njohn B-PER\n#end\n", [["john"]], 2),
    "words": ("# O\n#1 B-X\nx B-X\n\n# B-X\nx O\n", [["#", "#1", "x"], ["#", "x"]], 0),
    "a word in a sentence": ("x O\n# B-Y\n", [["x", "#"]], 0),
    "words alone": ("#\n#tag\n\nx\n", [["#", "#tag"], ["x"]], 0),
}


@pytest.mark.parametrize(("content", "words", "count"), COMMENTS.values(), ids=COMMENTS)
def test_comments_of_conll(tmp_path, content, words, count):
    split = source(tmp_path, "a.conll", content)
    assert split.table["tokens"].to_pylist() == words
    said = f"a.conll: {count} lines that begin with # are comments, and left out"
    assert split.notes == ((said,) if count else ())


def test_suffixes_in_capitals(tmp_path):
    for name, content in {
        "A.TXT": "a\n\nb\n",
        "A.CSV": "text\na\nb\n",
        "A.TSV": "text\na\nb\n",
        "A.JSONL": '{"text": "a"}\n{"text": "b"}\n',
    }.items():
        assert source(tmp_path, name, content).table["text"].to_pylist() == ["a", "b"]
    for part in ("pos", "neg"):
        (tmp_path / "classes" / part).mkdir(parents=True)
        (tmp_path / "classes" / part / "1.TXT").write_text(part)
    found = read(Data(source=str(tmp_path / "classes")))["train"].table
    assert found.to_pydict() == {"text": ["neg", "pos"], "label": ["neg", "pos"]}


def test_splits_without_labels_are_to_be_left_out(tmp_path):
    """What a competition or GLUE has: a test file without labels, or with -1."""
    from jaxft import config, tables
    from jaxft.tables import labels

    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\n")
    (tmp_path / "test.csv").write_text("text\nc\n")
    options = config.SequenceClassification()
    hint = "if its labels are hidden, leave it out by --config.data.test=, and predict on it"
    with pytest.raises(UserError, match=f"test.csv has no column 'label'.*{hint}"):
        tables.build(options).read(read(Data(source=str(tmp_path)))["test"])
    (tmp_path / "test.csv").write_text("text,label\nc,-1\n")
    splits = {name: tables.build(options).read(split) for name, split in read(Data(source=str(tmp_path))).items()}
    with pytest.raises(UserError, match=f"test.csv, row 1: label '-1' is not among those of train.csv; {hint}"):
        tables.build(options).resolve(splits)
    options = config.SequenceClassification(problem="regression")
    splits = {name: tables.build(options).read(split) for name, split in read(Data(source=str(tmp_path))).items()}
    with pytest.raises(UserError, match=f"test.csv: all scores in 'label' are -1, as training has none; {hint}"):
        labels.resolve(options, splits)
    unlabelled = splits["test"]._replace(table=splits["test"].table.drop(["label"]), key="train")
    with pytest.raises(UserError) as raised:
        tables.build(options).read(unlabelled)
    assert hint not in str(raised.value)


def test_an_error_is_a_line_whatever_the_data_hold(tmp_path):
    rows = [{"a": 1}, {"a": "x\ny\u2028\ud83d\u202e"}]
    with pytest.raises(UserError) as raised:
        source(tmp_path, "a.json", json.dumps(rows))
    assert r"column 'a' is text (x\ny\u2028\ud83d\u202e), but a number in row 1" in str(raised.value)
