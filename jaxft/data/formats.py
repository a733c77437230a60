"""Files as Arrow tables: CSV, TSV, JSON lines, Parquet, CoNLL columns, lines of text, folders of text files a class.

CSV and JSON lines are parsed by the standard library: Arrow's own parsers accept broken quoting, turn text such as
2020-01-01 into timestamps, and count rows where a user needs line numbers.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
from pyarrow import parquet

from jaxft.config import Data
from jaxft.data import conll, delimited, json_rows
from jaxft.data.delimited import DELIMITERS
from jaxft.errors import UserError

pc: Any = pyarrow.compute  # its functions are made at run time, where no type checker sees them

CONLL = (".conll", ".iob", ".bio")
SUFFIXES = (*DELIMITERS, ".json", ".jsonl", ".ndjson", ".parquet", ".txt", *CONLL)


def suffix_of(path: Path) -> str:
    """The suffix that says how to read a file, `.gz` aside; empty: none that we read."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES and not name.endswith(".parquet.gz") else ""


def class_folders(folder: Path) -> list[Path]:
    """The subfolders that hold text files, in the order of their names."""
    return sorted(d for d in folder.iterdir() if d.name[0] != "." and d.is_dir() and text_files(d))


def text_files(folder: Path) -> list[Path]:
    """The files of a folder whose names end in .txt, whatever their case, in the order of their names."""
    return sorted(file for file in folder.iterdir() if file.name.lower().endswith(".txt"))


def read_table(path: Path, data: Data, notes: list[str]) -> pa.Table:
    """Reads one file, or one folder of class folders.

    Args:
      notes: what there is to say of it is put at its end.
    """
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
        return conll.read(text, path.name, data.columns, notes)
    if suffix in DELIMITERS:
        return delimited.read(text, path.name, suffix, data, notes)
    return of_rows(json_rows.objects(text, path.name), path.name)


def concat(tables: Sequence[pa.Table], files: Sequence[Path]) -> pa.Table:
    try:
        if any(set(table.column_names) != set(tables[0].column_names) for table in tables):
            raise pa.ArrowInvalid(f"they have different columns: {[table.column_names for table in tables]}")
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"the parts {files[0]} to {files[-1].name} do not fit together ({short(error)})") from error


def decode(path: Path, encoding: str) -> str:
    """The text of a file, a byte order mark left out; never guesses and never replaces a byte."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix.lower() == ".gz" else raw
        return raw.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise UserError(f"config.data.encoding is {encoding!r}; {error} (e.g. utf-8, cp1252, mac_roman)") from error
    except UnicodeDecodeError as error:
        byte, line = error.object[error.start], error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} is not {encoding}: byte 0x{byte:02x} at offset {error.start} (line {line}); set "
            "config.data.encoding to what the file is encoded in (e.g. cp1252, latin-1, mac_roman)"
        ) from error
    except UnicodeError as error:
        raise UserError(f"{path} is not {encoding} ({short(error)}); set config.data.encoding to what it is") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path} ({short(error)})") from error


def _class_texts(folder: Path, encoding: str) -> pa.Table:
    texts, labels = [], []
    for one in class_folders(folder):
        for file in text_files(one):
            text = decode(file, encoding)
            if not text.strip():
                raise UserError(f"{file} is empty; remove it or fill it")
            texts.append(text[:-2] if text.endswith("\r\n") else text.removesuffix("\n"))
            labels.append(one.name)
    return pa.table({"text": pa.array(texts, pa.large_string()), "label": pa.array(labels, pa.string())})


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
        column = json_rows.spans(column)
        try:
            arrays[name] = pa.array(column + [None] * (count - len(column)))
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise UserError(f"{origin}: column {name!r} holds what Arrow cannot store ({short(error)})") from error
    return pa.table(arrays)


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
