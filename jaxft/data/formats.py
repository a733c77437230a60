"""Files as Arrow tables: CSV, TSV, JSON lines, Parquet, CoNLL columns, lines of text, folders of text files a class.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from pyarrow import parquet

from jaxft.config import Data
from jaxft.data import squad
from jaxft.errors import UserError

pc: Any = pyarrow.compute  # its functions are made at run time, where no type checker sees them

DELIMITERS = {".csv": ",", ".tsv": "\t"}
CONLL = (".conll", ".iob", ".bio")
SUFFIXES = (*DELIMITERS, ".json", ".jsonl", ".ndjson", ".parquet", ".txt", *CONLL)
BATCH = 1 << 16  # rows that become one Arrow chunk
# What makes a CSV column numeric. No leading zeros, at most 15 digits before a point: codes and long ids stay text.
NUMBERS = {
    r"^-?(0|[1-9]\d{0,17})$": pa.int64(),
    r"^-?((0|[1-9]\d{0,14})(\.\d*)?|\.\d+)([eE][+-]?\d+)?$": pa.float64(),
}


def suffix_of(path: Path) -> str:
    """The suffix that says how to read a file, `.gz` aside; empty: none that we read."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES and not name.endswith(".parquet.gz") else ""


def class_folders(folder: Path) -> list[Path]:
    """The subfolders that hold text files, in the order of their names."""
    return sorted(d for d in folder.iterdir() if d.name[0] != "." and d.is_dir() and any(d.glob("*.txt")))


def read_table(path: Path, data: Data) -> pa.Table:
    """Reads one file, or one folder of class folders."""
    suffix = suffix_of(path)
    if path.is_dir():
        return _class_texts(path, data.encoding)
    if suffix == ".parquet":
        try:
            return plain(parquet.ParquetFile(path).read())
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"cannot read {path} as Parquet ({short(error)})") from error
    if not suffix:
        raise UserError(f"{path} is no file that can be read; it must end in {', '.join(SUFFIXES)} (or .gz after that)")
    text = decode(path, data.encoding)
    if not text.strip():
        raise UserError(f"{path} is empty")
    if suffix == ".txt":
        rows = re.split(r"\n(?:[^\S\n]*\n)+" if data.documents else r"\n", text.replace("\r\n", "\n").strip("\n"))
        return pa.table({"text": pa.array([row for row in rows if row.strip()], pa.large_string())})
    if suffix in CONLL:
        return _conll(text, path.name, data.columns)
    return _delimited(text, path, data.columns) if suffix in DELIMITERS else _json(text, path.name)


def concat(tables: Sequence[pa.Table], files: Sequence[Path]) -> pa.Table:
    try:
        if any(set(table.column_names) != set(tables[0].column_names) for table in tables):
            raise pa.ArrowInvalid(f"they have different columns: {[table.column_names for table in tables]}")
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"the parts {files[0]} to {files[-1].name} do not fit together ({short(error)})") from error


def with_numbers(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
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


def decode(path: Path, encoding: str) -> str:
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
        raise UserError(f"cannot read {path} ({short(error)})") from error


def _class_texts(folder: Path, encoding: str) -> pa.Table:
    texts, labels = [], []
    for one in class_folders(folder):
        for file in sorted(one.glob("*.txt")):
            text = decode(file, encoding)
            if not text.strip():
                raise UserError(f"{file} is empty; remove it or fill it")
            texts.append(text[:-2] if text.endswith("\r\n") else text.removesuffix("\n"))
            labels.append(one.name)
    return pa.table({"text": pa.array(texts, pa.large_string()), "label": pa.array(labels, pa.string())})


def _delimited(text: str, path: Path, columns: Sequence[str]) -> pa.Table:
    """Parses CSV (RFC 4180) or TSV (no quoting); every cell stays the text that it is."""
    delimiter = DELIMITERS[suffix_of(path)]
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


def _conll(text: str, origin: str, columns: Sequence[str]) -> pa.Table:
    """A line a word, its cells separated by a tab or by blanks; an empty line ends a sentence, which is a row.

    Where no columns are named, the first is `tokens`, the last `tags` and those between are `column2` and so on.
    """
    names, sentences, open_one = list(columns), [], False
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            open_one = False
            continue
        cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        if not names:
            names = ["tokens", *(f"column{i}" for i in range(2, len(cells))), *(["tags"] if len(cells) > 1 else [])]
        if len(cells) != len(names):
            source = "config.data.columns names" if columns else "the first line has"
            raise UserError(f"{origin}, line {number} has {len(cells)} cell(s), but {source} {len(names)}")
        if "" in cells:
            raise UserError(f"{origin}, line {number}: cell {cells.index('') + 1} is empty; fill it or remove the line")
        if not open_one:
            sentences.append([])
        open_one = True
        sentences[-1].append(cells)
    parts = (
        zip(*(zip(*sentence, strict=True) for sentence in sentences), strict=True) if sentences else [[]] * len(names)
    )
    return pa.table({name: pa.array(part, pa.list_(pa.string())) for name, part in zip(names, parts, strict=True)})


def _json(text: str, origin: str) -> pa.Table:
    """Parses JSON lines, a file that is one array of objects, or SQuAD."""
    return of_rows(_objects(text, origin), origin)


def of_rows(rows: Iterable[tuple[str, Mapping[str, Any]]], origin: str) -> pa.Table:
    """Returns the table of rows, each with the name of its place; a key that a row lacks is null there.

    Raises:
      UserError: a column that holds values of several kinds, or what Arrow cannot store.
    """
    kinds = {int: "a number", float: "a number", str: "text", bool: "true/false", list: "a list", dict: "an object"}
    columns: dict[str, list[Any]] = {}
    first: dict[str, tuple[str, str]] = {}
    count = 0
    for count, (place, row) in enumerate(rows, 1):
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
            raise UserError(f"{origin}: column {name!r} holds what Arrow cannot store ({short(error)})") from error
    return pa.table(arrays)


def _objects(text: str, origin: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSON file, or each question of one in the format of SQuAD, with the name of its place."""
    try:
        data = squad.articles(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{origin}, line {error.lineno}, column {error.colno}: broken JSON ({error.msg})") from error
    if data is not None:
        yield from squad.questions(data, origin)
        return
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


def plain(table: pa.Table) -> pa.Table:
    """Names in place of class ids (null in place of -1), values in place of dictionary codes, and no metadata."""
    described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features", {})
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        feature = features.get(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        elif isinstance(feature, dict) and len(column):
            column = _named(column, feature)
        columns.append(column)
    return pa.table(columns, names=table.column_names)


def _named(column: Any, feature: Mapping[str, Any]) -> Any:
    """Names in place of class ids, also in lists of them."""
    inner = feature.get("feature")
    if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and pa.types.is_list(column.type):
        lists = pa.concat_arrays(column.chunks)
        return pa.ListArray.from_arrays(lists.offsets, _named(lists.values, inner), mask=lists.is_null())
    if feature.get("_type") == "ClassLabel" and pa.types.is_integer(column.type):
        ids = pc.if_else(pc.less(column, 0), pa.scalar(None, column.type), column)
        return pc.take(pa.array(feature["names"], pa.string()), ids)
    return column


def short(error: BaseException) -> str:
    """The kind of an error and the beginning of its first line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:160]}"
