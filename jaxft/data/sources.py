"""Reads whatever the user has into Arrow tables, one a split, or says exactly which file, row and column is at fault.

CSV and JSON lines are parsed by the standard library: Arrow's own parsers accept broken quoting, turn text such as
2020-01-01 into timestamps, and count rows where a user needs line numbers.
"""

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
from pyarrow import parquet

from jaxft import paths
from jaxft.config import Data
from jaxft.errors import UserError, nearest

T = TypeVar("T")
pc: Any = pyarrow.compute  # its functions are made at run time, where no type checker sees them

KEYS = ("train", "validation", "test")
ALIASES = {"validation": ("valid", "val", "dev")}
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*DELIMITERS, ".json", ".jsonl", ".ndjson", ".parquet")
BATCH = 1 << 16  # rows that become one Arrow chunk
SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?")
# What makes a CSV column numeric. No leading zeros, at most 15 digits before a point: codes and long ids stay text.
NUMBERS = {
    r"^-?(0|[1-9]\d{0,17})$": pa.int64(),
    r"^-?((0|[1-9]\d{0,14})(\.\d*)?|\.\d+)([eE][+-]?\d+)?$": pa.float64(),
}


class Split(NamedTuple):
    """The examples of one split.

    `origin` is the file or data set they come from; `rows[i]` is the row of example i there (None: row i itself).
    """

    table: pa.Table
    origin: str
    rows: np.ndarray | None = None

    def where(self, row: int) -> str:
        """Names an example to the user: `reviews.csv, row 17`, counted from 1, the header not counted."""
        return f"{self.origin}, row {(row if self.rows is None else int(self.rows[row])) + 1}"

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at `indices`, which still know the row they came from."""
        rows = indices if self.rows is None else self.rows[indices]
        return Split(self.table.take(pa.array(indices, pa.int64())), self.origin, rows)


def read(data: Data) -> dict[str, Split]:
    """Reads the splits that `data.source` has; `splits.prepare` carves those that it lacks.

    Args:
      data: which source, which of its splits (`train`, `validation`, `test`), and how its files are encoded.

    Returns:
      "train" and, where there are such, "validation" and "test". Class ids of Hugging Face data are replaced by the
      classes' names, -1 (a hidden label) by null.

    Raises:
      UserError: the source does not exist, has no such split, or a file of it is broken; names file and line.
    """
    path = paths.resolve(data.source)
    if path is None and paths.looks_local(data.source):
        raise UserError(f"config.data.source: {paths.missing(data.source)}")
    if path is not None and data.subset:
        raise UserError(f"config.data.subset is {data.subset!r}, but {path} is not a Hub data set; leave it empty")
    if path is None or (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        splits = _from_datasets(path, data)
    else:
        splits = (_from_file if path.is_file() else _from_folder)(path, data)
    for key, split in splits.items():
        if not split.table.num_rows:
            raise UserError(f"{split.origin} (the {key} split) has no rows")
    return splits


def require_columns(split: Split, columns: Mapping[str, str]) -> None:
    """Checks that a split has every column of `columns`: config key -> name, e.g. `{"task.text": "sentence"}`, or "".

    Raises:
      UserError: a column is missing; names the columns there are and the config key.
    """
    have = split.table.column_names
    delimited = split.origin.removesuffix(".gz").endswith(tuple(DELIMITERS))
    hint = ", or, if the file has no header line, name its columns in config.data.columns" if delimited else ""
    for key, column in columns.items():
        if column and column not in have:
            listed = f"it has {', '.join(repr(name[:40]) for name in have[:20])}; set config.{key} to one of them{hint}"
            raise UserError(f"{split.origin} has no column {column!r}; {listed}")


def check_text(split: Split, column: str) -> None:
    """Checks that a column holds nothing but non-empty text.

    Raises:
      UserError: names the first bad row, what it holds, and how many there are.
    """
    values = split.table[column]
    if not (pa.types.is_null(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        row = max(pc.index(pc.is_valid(values), True).as_py(), 0)
        raise UserError(
            f"{split.where(row)}: column {column!r} must hold text, but all {len(values)} rows hold {values.type} "
            f"values such as {str(values[row].as_py())[:40]}; name another column or turn the values into text"
        )
    text = values.cast(pa.large_string())
    bad = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(text), ""), True)
    row = pc.index(bad, True).as_py()
    if row >= 0:
        what, count = "empty text" if text[row].is_valid else "null", f"{pc.sum(bad).as_py()} of {len(bad)} rows"
        hint = f"{count} are null or empty; remove these rows or fill them"
        raise UserError(f"{split.where(row)}: column {column!r} holds {what}; {hint}")


def read_lines(file: str, column: str, encoding: str) -> Split:
    """Each line of a text file as an example with one column.

    Raises:
      UserError: the file cannot be read or is empty.
    """
    path = Path(file).expanduser()
    lines = _decode(path, encoding).splitlines()
    if not lines:
        raise UserError(f"{path} is empty")
    return Split(pa.table({column: pa.array(lines, pa.large_string())}), path.name)


def _select(there: Mapping[str, T], data: Data, origin: str) -> dict[str, T]:
    """Picks train, validation and test among the splits that a source has, by the names that the experiment gives."""
    chosen = {}
    for key in KEYS:
        name = getattr(data, key)
        found = next((n for n in (name, *(ALIASES.get(key, ()) if name == key else ())) if n in there), None)
        if found is not None:
            chosen[key] = there[found]
        elif key == "train" or name not in ("", key):
            raise UserError(f"config.data.{key} is {name!r}, but {origin} has no such split; {nearest(name, there)}")
    return chosen


def _from_datasets(path: Path | None, data: Data) -> dict[str, Split]:
    """A `save_to_disk` folder, or without a path a Hub data set."""
    import datasets

    name = path.name if path else f"{data.source} ({data.subset})" if data.subset else data.source
    try:
        found = datasets.load_from_disk(str(path)) if path else datasets.load_dataset(data.source, data.subset or None)
    except Exception as error:  # of many kinds: no network, no such name, no such subset, a script, broken files
        if path is not None:
            raise UserError(f"cannot read the save_to_disk folder {path} ({_short(error)}); save it again") from error
        raise UserError(
            f"config.data.source: there is no file or folder {Path(data.source).absolute()}, and the Hugging Face Hub "
            f"did not give {name!r} ({_short(error)}); check the name, config.data.subset and the network, or give "
            "a local file, a folder, a save_to_disk folder or pkg://PACKAGE/PATH"
        ) from error
    there: Any = found if isinstance(found, dict) else {data.train: found}
    chosen = _select(there, data, name)
    return {key: Split(_plain(one.with_format("arrow")[:]), f"{name}, {key}") for key, one in chosen.items()}


def _from_file(path: Path, data: Data) -> dict[str, Split]:
    chosen = {"train": [path]}
    for key in KEYS[1:]:
        name = getattr(data, key)
        if name not in ("", key):
            if not (path.parent / name).is_file():
                raise UserError(f"config.data.{key} is {name!r}; {paths.missing(path.parent / name)}")
            chosen[key] = [path.parent / name]
    return _read_all(chosen, data)


def _from_folder(folder: Path, data: Data) -> dict[str, Split]:
    """Files or folders of classes named after splits, or else folders of classes, which are all training data."""
    there: dict[str, list[Path]] = {}
    for entry in sorted(folder.iterdir()):
        usable = _classes(entry) if entry.is_dir() else _suffix(entry)
        if usable:
            there.setdefault(_stem(entry), []).append(entry)
    there |= {n: [folder / n] for n in (data.train, data.validation, data.test) if n and (folder / n).is_file()}
    if data.train not in there and _classes(folder):
        there = {data.train: [folder]}
    if not there:
        raise UserError(
            f"config.data.source: {folder} holds no data; it needs files named after splits (train.csv, dev.tsv, "
            "test.jsonl, train.parquet) or a folder of .txt files a class"
        )
    chosen = _select(there, data, str(folder))
    for key, files in chosen.items():
        if files[0] != folder / getattr(data, key):  # a part of several may be asked for by its whole name
            _check_shards(key, files)
    return _read_all(chosen, data)


def _suffix(path: Path) -> str:
    """The suffix that says how to read a file, `.gz` aside; empty: none that we read."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES and not name.endswith(".parquet.gz") else ""


def _stem(path: Path) -> str:
    """`train` of train.csv.gz, of train-00000-of-00003.parquet and of a folder train."""
    if path.is_dir():
        return path.name
    stem = path.name[: path.name.lower().rindex(_suffix(path))]
    shard = SHARD.fullmatch(stem)
    return shard["stem"] if shard else stem


def _check_shards(key: str, files: Sequence[Path]) -> None:
    shards = [SHARD.match(file.name) for file in files]
    kinds = {(int(shard["count"]), _suffix(file)) if shard else file for shard, file in zip(shards, files, strict=True)}
    if len(kinds) > 1:
        both = f"{files[0].name} and {files[1].name}"
        raise UserError(f"{files[0].parent} has both {both}; name the right one in config.data.{key}")
    count = int(shards[0]["count"]) if shards[0] else 1
    if count != len(files):
        raise UserError(f"{files[0].parent} has {len(files)} of the {count} parts of {_stem(files[0])}; add the others")


def _classes(folder: Path) -> list[Path]:
    """The subfolders that hold text files, in the order of their names."""
    return sorted(d for d in folder.iterdir() if d.name[0] != "." and d.is_dir() and any(d.glob("*.txt")))


def _read_all(chosen: Mapping[str, Sequence[Path]], data: Data) -> dict[str, Split]:
    tables = {key: _concat([_read_one(file, data) for file in files], files) for key, files in chosen.items()}
    tables |= _numbers({key: table for key, table in tables.items() if _suffix(chosen[key][0]) in DELIMITERS})
    origins = {key: re.sub(r"-\d+-of-", "-*-of-" if len(f) > 1 else r"\g<0>", f[0].name) for key, f in chosen.items()}
    return {key: Split(table, origins[key]) for key, table in tables.items()}


def _concat(tables: Sequence[pa.Table], files: Sequence[Path]) -> pa.Table:
    try:
        if any(set(table.column_names) != set(tables[0].column_names) for table in tables):
            raise pa.ArrowInvalid(f"they have different columns: {[table.column_names for table in tables]}")
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"the parts {files[0]} to {files[-1].name} do not fit together ({_short(error)})") from error


def _read_one(path: Path, data: Data) -> pa.Table:
    """Reads one file, or one folder of class folders."""
    suffix = _suffix(path)
    if path.is_dir():
        return _class_texts(path, data.encoding)
    if suffix == ".parquet":
        try:
            return _plain(parquet.ParquetFile(path).read())
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"cannot read {path} as Parquet ({_short(error)})") from error
    if not suffix:
        raise UserError(f"{path} is no file that can be read; it must end in {', '.join(SUFFIXES)} (or .gz after that)")
    text = _decode(path, data.encoding)
    if not text.strip():
        raise UserError(f"{path} is empty")
    return _delimited(text, path, data.columns) if suffix in DELIMITERS else _json(text, path.name)


def _decode(path: Path, encoding: str) -> str:
    """The text of a file, a byte order mark left out; never guesses and never replaces a byte."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
        return raw.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise UserError(f"config.data.encoding is {encoding!r}; {error} (e.g. utf-8, cp1252, mac_roman)") from error
    except UnicodeDecodeError as error:
        byte, line = error.object[error.start], error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not {encoding}: byte 0x{byte:02x} at offset {error.start} (line {line}); set "
            "config.data.encoding to what the file is encoded in (e.g. cp1252, latin-1, mac_roman)"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path} ({_short(error)})") from error


def _class_texts(folder: Path, encoding: str) -> pa.Table:
    texts, labels = [], []
    for one in _classes(folder):
        for file in sorted(one.glob("*.txt")):
            text = _decode(file, encoding)
            if not text.strip():
                raise UserError(f"{file} is empty; remove it or fill it")
            texts.append(text[:-2] if text.endswith("\r\n") else text.removesuffix("\n"))
            labels.append(one.name)
    return pa.table({"text": pa.array(texts, pa.large_string()), "label": pa.array(labels, pa.string())})


def _delimited(text: str, path: Path, columns: Sequence[str]) -> pa.Table:
    """Parses CSV (RFC 4180) or TSV (no quoting); every cell stays the text that it is."""
    delimiter = DELIMITERS[_suffix(path)]
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(2**31 - 1)  # the default takes a document of more than 128 KiB for an error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)

    def rows() -> Iterator[list[str]]:
        line, width = 1, len(columns)
        try:
            for row in reader:
                width = width or len(row)
                if row and len(row) != width:
                    source = "config.data.columns names" if columns else "the first line has"
                    raise UserError(f"{path.name}, line {line} has {len(row)} cell(s), but {source} {width}")
                if row:
                    yield row
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{path.name}, line {line}: broken quotes in the row that begins here ({error})") from error

    parsed = rows()
    names = list(columns) or next(parsed)
    twice = max(names, key=names.count)
    if names.count(twice) > 1:
        raise UserError(f"{path.name}: two columns are named {twice!r}; rename one, or set config.data.columns")
    tables = [pa.table({name: pa.array([], pa.string()) for name in names})]
    while batch := list(itertools.islice(parsed, BATCH)):
        tables.append(pa.table([pa.array(cells, pa.string()) for cells in zip(*batch, strict=True)], names=names))
    return pa.concat_tables(tables)


def _numbers(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """Makes columns of nothing but numbers, in every split, int64 or float64; an empty cell becomes null in them."""
    for name in dict.fromkeys(name for table in tables.values() for name in table.column_names):
        keys = [key for key, table in tables.items() if name in table.column_names]
        cells = pa.chunked_array([chunk for key in keys for chunk in tables[key][name].chunks], pa.string())
        cells = cells.filter(pc.not_equal(cells, ""))
        fitting = (kind for regex, kind in NUMBERS.items() if pc.all(pc.match_substring_regex(cells, regex)).as_py())
        kind = next(fitting, None) if len(cells) else None
        for key in keys if kind else ():
            column = tables[key][name]
            column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column).cast(kind)
            tables[key] = tables[key].set_column(tables[key].column_names.index(name), name, column)
    return tables


def _json(text: str, origin: str) -> pa.Table:
    """Parses JSON lines, or a file that is one array of objects; a key that an object lacks is null there."""
    kinds = {int: "a number", float: "a number", str: "text", bool: "true/false", list: "a list", dict: "an object"}
    columns: dict[str, list[Any]] = {}
    first: dict[str, tuple[str, str]] = {}
    count = 0
    for count, (place, row) in enumerate(_objects(text, origin), 1):
        for name, value in row.items():
            column = columns.setdefault(name, [])
            column.extend([None] * (count - 1 - len(column)))
            column.append(value)
            kind = kinds.get(type(value))
            if kind and first.setdefault(name, (kind, place))[0] != kind:
                above = " in ".join(first[name])
                raise UserError(f"{origin}, {place}: column {name!r} is {kind} ({str(value)[:40]}), but {above}")
    arrays = {}
    for name, column in columns.items():
        try:
            arrays[name] = pa.array(column + [None] * (count - len(column)))
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise UserError(f"{origin}: column {name!r} holds what Arrow cannot store ({_short(error)})") from error
    return pa.table(arrays)


def _objects(text: str, origin: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSON file, with the name of its place."""
    whole = text.lstrip().startswith("[")
    for number, part in enumerate([text] if whole else io.StringIO(text), 1):
        if part.isspace():
            continue
        try:
            value = json.loads(part)
        except json.JSONDecodeError as error:
            line = error.lineno if whole else number
            raise UserError(
                f"{origin}, line {line}, column {error.colno}: broken JSON ({error.msg}); "
                "each line must be one JSON object, or the file one array of them"
            ) from error
        for row, one in enumerate(value, 1) if whole else ((number, value),):
            place = f"{'row' if whole else 'line'} {row}"
            if not isinstance(one, dict):
                raise UserError(f"{origin}, {place}: {str(one)[:40]!r} is not a JSON object of columns and values")
            yield place, one


def _plain(table: pa.Table) -> pa.Table:
    """Names in place of class ids (null in place of -1), values in place of dictionary codes, and no metadata."""
    described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        feature = features.get(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        elif isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and pa.types.is_integer(column.type):
            ids = pc.if_else(pc.less(column, 0), pa.scalar(None, column.type), column)
            column = pc.take(pa.array(feature["names"], pa.string()), ids)
        columns.append(column)
    return pa.table(columns, names=table.column_names)


def _short(error: BaseException) -> str:
    """The kind of an error and the beginning of its first line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:160]}"
