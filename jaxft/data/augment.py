"""More training texts by small changes of those there are: EDA (Wei and Zou 2019).

A copy of a row has each of its texts changed by one operation, which is drawn: a share of the words is replaced by
synonyms, or as many synonyms of its words are put in somewhere, or as many pairs of words change places, or each word
is left out with that probability. What becomes of a text is a function of it, of the seed and of the copy's number.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxft.config import Data
from jaxft.data import splits
from jaxft.data.sources import Split
from jaxft.errors import UserError

Synonyms = Mapping[str, Sequence[str]]
"""Word in small letters -> others that say the same."""

Operation = Callable[[list[str], float, Synonyms, np.random.Generator], list[str]]
"""`(words, share, synonyms, generator) -> words`."""


def augmented(prepared: Mapping[str, Split], inputs: Sequence[str], data: Data, seed: int) -> tuple[Split, list[str]]:
    """Returns the training split with `data.augment` copies of each row behind it, and a line for the log.

    A copy that says what a row of any split does already, or another copy, is left out: so nothing of validation or
    test comes into training by it, and they have no copies.

    Args:
      prepared: the splits of a run, as `splits.prepare` makes them.
      inputs: the columns with texts.

    Raises:
      UserError: the file of synonyms cannot be used.
    """
    train = prepared["train"]
    if not data.augment:
        return train, []
    count = train.table.num_rows
    table = copied(train.table, inputs, data.augment, data.augment_share, synonyms_of(data), seed)
    whole = pa.concat_tables([train.table, table])
    others = [split.table for key, split in prepared.items() if key != "train"]
    own, *elsewhere = splits.input_ids([whole, *others], inputs)
    first = np.zeros(len(own), bool)
    first[np.unique(own, return_index=True)[1]] = True
    first &= ~np.isin(own, np.concatenate(elsewhere)) if elsewhere else True
    kept = np.concatenate([np.arange(count), count + np.flatnonzero(first[count:])])
    from_row = np.arange(count) if train.rows is None else train.rows
    rows = np.concatenate([from_row, np.tile(from_row, data.augment)])
    line = f"{len(kept) - count:,} training texts made of {count:,} (EDA)"
    return train._replace(table=whole.take(pa.array(kept)), rows=rows[kept]), [line]


def copied(
    table: pa.Table, inputs: Sequence[str], copies: int, share: float, synonyms: Synonyms, seed: int
) -> pa.Table:
    """Returns so many copies of all rows of a table, one after the other, with their texts changed."""
    count = table.num_rows
    table = table.take(pa.array(np.tile(np.arange(count), copies)))
    for name in inputs:
        texts = table.column(name).to_pylist()
        made = [changed(text, at // count, share, synonyms, seed) for at, text in enumerate(texts)]
        table = table.set_column(table.column_names.index(name), name, pa.array(made, table.column(name).type))
    return table


def synonyms_of(data: Data) -> dict[str, list[str]]:
    """Returns those of the file that `data.synonyms` names, if it names one; see `read_synonyms`."""
    return read_synonyms(data.synonyms) if data.synonyms else {}


def read_synonyms(path: str) -> dict[str, list[str]]:
    """Returns what a file says, a line a word: the word, and then its synonyms, set off by tabs.

    Raises:
      UserError: it cannot be read, or a line has no synonym.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config.data.synonyms {path}: it cannot be read ({error}); give a text file") from error
    found = {}
    for number, line in enumerate(lines, 1):
        word, *others = (part.strip() for part in line.split("\t"))
        if not word or not all(others) or not others:
            raise UserError(f"{path}, line {number}: {line!r} is not a word, a tab and its synonyms, set off by tabs")
        found.setdefault(word.lower(), []).extend(others)
    if not found:
        raise UserError(f"config.data.synonyms {path} is empty; unset it, or give synonyms")
    return found


def changed(text: str, copy: int, share: float, synonyms: Synonyms, seed: int) -> str:
    """Returns the text as a copy of that number has it."""
    words = text.split()
    rng = np.random.default_rng([seed, splits.STREAMS["augment"], copy, zlib.crc32(text.encode())])
    operations = OPERATIONS if any(word.lower() in synonyms for word in words) else OPERATIONS[2:]
    return " ".join(operations[rng.integers(len(operations))](words, share, synonyms, rng)) if words else text


def some(words: list[str], share: float) -> int:
    """Returns how many words of a text are changed: one at least."""
    return max(round(share * len(words)), 1)


def replaced(words: list[str], share: float, synonyms: Synonyms, rng: np.random.Generator) -> list[str]:
    """Returns the words, some of them replaced by a synonym."""
    known = [at for at, word in enumerate(words) if word.lower() in synonyms]
    words = list(words)
    for at in rng.permutation(known)[: some(words, share)]:
        words[at] = str(rng.choice(synonyms[words[at].lower()]))
    return words


def inserted(words: list[str], share: float, synonyms: Synonyms, rng: np.random.Generator) -> list[str]:
    """Returns the words, and among them synonyms of some."""
    known = [word.lower() for word in words if word.lower() in synonyms]
    found = list(words)
    for _ in range(some(words, share)):
        synonym = str(rng.choice(synonyms[known[rng.integers(len(known))]]))
        found.insert(int(rng.integers(len(found) + 1)), synonym)
    return found


def swapped(words: list[str], share: float, synonyms: Synonyms, rng: np.random.Generator) -> list[str]:
    """Returns the words, some pairs of which have changed places."""
    words = list(words)
    for _ in range(some(words, share) if len(words) > 1 else 0):
        one, other = rng.choice(len(words), 2, replace=False)
        words[one], words[other] = words[other], words[one]
    return words


def left_out(words: list[str], share: float, synonyms: Synonyms, rng: np.random.Generator) -> list[str]:
    """Returns the words that remain where each is left out with the probability `share`; one at least."""
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw >= share]
    return kept or [words[rng.integers(len(words))]]


OPERATIONS: tuple[Operation, ...] = (replaced, inserted, swapped, left_out)
"""Those that need synonyms first."""
