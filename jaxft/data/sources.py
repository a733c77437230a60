"""Reads whatever the user has into Arrow tables, one a split, or says which file, row and column is at fault."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute

from jaxft.config import Data
from jaxft.data import formats
from jaxft.errors import UserError, nearest
from jaxft.storage import paths

T = TypeVar("T")
pc: Any = pyarrow.compute  # its functions are made at run time, where no type checker sees them

KEYS = ("train", "validation", "test")
INPUT = "input"
"""Key of a labelled file that a trained model is measured on."""
IN_MEMORY = "(rows in memory)"
"""`data.source` of a run whose data were given to `jaxft.train`."""

ALIASES = {"validation": ("valid", "val", "dev")}
SHARD = re.compile(r"(?P<stem>.+)-(?P<index>\d+)-of-(?P<count>\d+)(?:-[0-9a-f]+)?")


class Split(NamedTuple):
    """The examples of one split.

    Attributes:
      origin: the file or data set they come from.
      rows: `[n]`, the row of each example there; None: row i itself.
      key: "train", "validation", "test" or "input"; empty where it is none of them.
      cells: whether the file has no types (CSV, TSV): every value is the text of its cell.
      notes: what there is to say of how it was read, a line each.
    """

    table: pa.Table
    origin: str
    rows: np.ndarray | None = None
    key: str = ""
    cells: bool = False
    notes: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        """Ends an error about a label that a split lacks: what to do if its labels are hidden."""
        if self.key == INPUT:
            return "; if its labels are hidden, predict on it by --mode=predict"
        if self.key not in ("validation", "test"):
            return ""
        return f"; if its labels are hidden, leave it out by --config.data.{self.key}=, and predict on it"

    def noting(self, *lines: str) -> "Split":
        """The same with more notes, each of which then begins with the origin."""
        return self._replace(notes=self.notes + tuple(f"{self.origin}: {line}" for line in lines))

    def where(self, row: int) -> str:
        """Names an example to the user: `reviews.csv, row 17`, counted from 1, the header not counted."""
        return f"{self.origin}, row {(row if self.rows is None else int(self.rows[row])) + 1}"

    def slice(self, start: int, stop: int) -> "Split":
        """The examples start .. stop - 1, which still know the row they came from."""
        rows = np.arange(start, stop) if self.rows is None else self.rows[start:stop]
        return self._replace(table=self.table.slice(start, stop - start), rows=rows)

    def take(self, indices: np.ndarray) -> "Split":
        """The examples at `indices`, which still know the row they came from."""
        rows = indices if self.rows is None else self.rows[indices]
        return self._replace(table=self.table.take(pa.array(indices, pa.int64())), rows=rows)


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
    if data.source == IN_MEMORY:
        raise UserError(
            "config.data.source: the run was trained on rows in memory, which are no file; give them again: "
            "jaxft.train(..., data=...) or jaxft.evaluate(workdir, data=...)"
        )
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


def read_input(file: str, data: Data) -> Split:
    """Reads a file beside the run's own data, as these are read: their delimiter, their names of columns.

    Args:
      file: in `data.encoding`, or in UTF-8.

    Raises:
      UserError: it cannot be read, or has no rows.
    """
    encoding = encoding_of(file, otherwise=data.encoding)
    none = dict.fromkeys(("validation", "test", "subset"), "")
    split = _from_file(Path(file).expanduser(), dataclasses.replace(data, encoding=encoding, **none))["train"]
    if not split.table.num_rows:
        raise UserError(f"{split.origin} has no rows")
    return split._replace(key=INPUT)


def require_columns(split: Split, columns: Mapping[str, str]) -> None:
    """Checks that a split has every column of `columns`: config key -> name, e.g. `{"task.text": "sentence"}`, or "".

    Raises:
      UserError: a column is missing; names the columns there are and the config key.
    """
    have = split.table.column_names
    hint = ", or, if the file has no header line, name its columns in config.data.columns" if split.cells else ""
    for key, column in columns.items():
        if column and column not in have:
            listed = ", ".join(repr(name[:40]) for name in have[:20])
            if split.key == INPUT:
                raise UserError(
                    f"{split.origin} has no column {column!r}, which the run reads; it has {listed}{split.hint}"
                )
            what = f"{split.origin} has no column {column!r}; it has {listed}"
            raise UserError(f"{what}; set config.{key} to one of them{hint}{split.hint}")


def check_text(split: Split, column: str) -> None:
    """Checks that a column holds nothing but non-empty text.

    Raises:
      UserError: names the first bad row, what it holds, and how many there are.
    """
    values = split.table[column]
    if not (pa.types.is_null(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        row = max(pc.index(pc.is_valid(values), True).as_py(), 0)
        hint = "name another column or turn the values into text"
        if len(values) == 1 and (pa.types.is_list(values.type) or pa.types.is_struct(values.type)):
            hint = (
                "a file that holds a list a column must hold an object a row instead: one a line, or an array of them"
            )
        raise UserError(
            f"{split.where(row)}: column {column!r} must hold text, but all {len(values)} rows hold {values.type} "
            f"values such as {str(values[row].as_py())[:40]}; {hint}"
        )
    text = values.cast(pa.large_string())
    bad = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(text), ""), True)
    row = pc.index(bad, True).as_py()
    if row >= 0:
        what, count = "empty text" if text[row].is_valid else "null", f"{pc.sum(bad).as_py()} of {len(bad)} rows"
        hint = f"{count} are null or empty; remove these rows or fill them"
        raise UserError(f"{split.where(row)}: column {column!r} holds {what}; {hint}")


def blank(split: Split, columns: Sequence[str]) -> np.ndarray:
    """Returns of each row, `[n]`, whether all of these columns are null, or text without a character but blanks."""
    found = np.ones(split.table.num_rows, bool)
    for column in columns:
        if column not in split.table.column_names:
            return np.zeros_like(found)
        values = split.table[column]
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            values = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
            found &= pc.fill_null(pc.equal(values, ""), True).to_numpy()
        else:
            found &= pc.is_null(values).to_numpy()
    return found


def read_lines(file: str, column: str, encoding: str) -> Split:
    """Each line of a text file as an example with one column.

    Raises:
      UserError: the file cannot be read or is empty.
    """
    path = Path(file).expanduser()
    lines = formats.decode(path, encoding).replace("\r\n", "\n").removesuffix("\n").split("\n")
    if lines == [""]:
        raise UserError(f"{path} is empty")
    return Split(pa.table({column: pa.array(lines, pa.large_string())}), path.name)


def encoding_of(file: str, otherwise: str) -> str:
    """UTF-8, if that is what a file's bytes are."""
    try:
        formats.decode(Path(file).expanduser(), "utf-8")
    except UserError:
        return otherwise
    return "utf-8"


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
            raise UserError(
                f"cannot read the save_to_disk folder {path} ({formats.short(error)}); save it again"
            ) from error
        raise UserError(
            f"config.data.source: there is no file or folder {Path(data.source).absolute()}, and the Hugging Face Hub "
            f"did not give {name!r} ({formats.short(error)}); check the name, config.data.subset and the network, or "
            "give a local file, a folder, a save_to_disk folder or pkg://PACKAGE/PATH"
        ) from error
    there: Any = found if isinstance(found, dict) else {data.train: found}
    chosen = _select(there, data, name)
    tables = {key: formats.plain(one.with_format("arrow")[:]) for key, one in chosen.items()}
    return {key: Split(table, f"{name}, {key}", key=key) for key, table in tables.items()}


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
        usable = formats.class_folders(entry) if entry.is_dir() else formats.suffix_of(entry)
        if usable:
            there.setdefault(_stem(entry), []).append(entry)
    there |= {n: [folder / n] for n in (data.train, data.validation, data.test) if n and (folder / n).is_file()}
    if data.train not in there and formats.class_folders(folder):
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


def _stem(path: Path) -> str:
    """`train` of train.csv.gz, of train-00000-of-00003.parquet and of a folder train."""
    if path.is_dir():
        return path.name
    stem = path.name[: path.name.lower().rindex(formats.suffix_of(path))]
    shard = SHARD.fullmatch(stem)
    return shard["stem"] if shard else stem


def _check_shards(key: str, files: Sequence[Path]) -> None:
    kinds = {
        (int(shard["count"]), formats.suffix_of(file)) if (shard := SHARD.match(file.name)) else file for file in files
    }
    if len(kinds) > 1:
        both = f"{files[0].name} and {files[1].name}"
        raise UserError(f"{files[0].parent} has both {both}; name the right one in config.data.{key}")
    shard = SHARD.match(files[0].name)
    count = int(shard["count"]) if shard else 1
    if count != len(files):
        raise UserError(f"{files[0].parent} has {len(files)} of the {count} parts of {_stem(files[0])}; add the others")


def _read_all(chosen: Mapping[str, Sequence[Path]], data: Data) -> dict[str, Split]:
    splits = {}
    for key, files in chosen.items():
        notes: list[str] = []
        table = formats.concat([formats.read_table(file, data, notes) for file in files], files)
        origin = re.sub(r"-\d+-of-", "-*-of-" if len(files) > 1 else r"\g<0>", files[0].name)
        cells = formats.suffix_of(files[0]) in formats.DELIMITERS
        splits[key] = Split(table, origin, key=key, cells=cells, notes=tuple(notes))
    return splits
