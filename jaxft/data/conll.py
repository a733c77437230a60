"""CoNLL columns: a line a word, its cells separated by a tab or by blanks; an empty line ends a sentence."""

import re
from collections.abc import Sequence

import pyarrow as pa

from jaxft.errors import UserError

Line = tuple[int, list[str]]
"""The number of a line, from 1, and its cells; none where a sentence ends."""


def read(text: str, origin: str, columns: Sequence[str], notes: list[str]) -> pa.Table:
    """Returns a table of a row a sentence, whose columns are lists of a cell a word.

    Where no columns are named, the first is `tokens`, the last `tags` and those between are `column2` and so on. Lines
    of comment are left out, and counted in `notes`: they begin with `#` and have another number of cells than words do,
    or begin a sentence with `#` alone and end in what ends no other line, as `# id 3 domain=en`.

    Raises:
      UserError: a line with too few or too many cells, or an empty one.
    """
    lines = [(number, _cells(line)) for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1)]
    words = _without_comments(lines, len(columns))
    if len(words) < len(lines):
        notes.append(f"{origin}: {len(lines) - len(words):,} lines that begin with # are comments, and left out")
    names, sentences, open_one = list(columns), [], False
    for number, cells in words:
        if not cells:
            open_one = False
            continue
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


def _cells(line: str) -> list[str]:
    if not line.strip() or line.startswith("-DOCSTART-"):
        return []
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _without_comments(lines: Sequence[Line], width: int) -> list[Line]:
    """The lines that are words or end a sentence."""
    plain = [cells for _, cells in lines if cells and not cells[0].startswith("#")]
    width = width or (len(plain[0]) if plain else 0)
    ends = {cells[-1] for cells in plain}
    kept: list[Line] = []
    for number, cells in lines:
        if cells and cells[0].startswith("#") and width:
            begins = not kept or not kept[-1][1]
            stray = begins and cells[0] == "#" and len(cells) > 1 and cells[-1] not in ends
            if len(cells) != width or stray:
                continue
        kept.append((number, cells))
    return kept
