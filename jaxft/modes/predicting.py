"""--mode=predict: answers for new inputs."""

import errno
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from jaxft.config import Data
from jaxft.data import formats, sources
from jaxft.devices import distributed
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.generate.options import check_bounds
from jaxft.generate.rows import completions
from jaxft.generate.settings import settled
from jaxft.predict.dropout import dropping
from jaxft.predict.predictor import JAX, Predictor
from jaxft.storage import paths


def predict(
    workdir: str,
    inputs: str,
    output: str = "",
    adapter: str = "",
    engine: str = JAX,
    runs: Sequence[str] = (),
    writing: Mapping[str, Any] | None = None,
    dropout: int = 0,
) -> None:
    """Writes a JSON line for each example of a text file (a line an example), CSV or JSON lines file.

    Args:
      workdir: of a run, or the directory of a trained model; see `Predictor.open`.
      inputs: the file; its columns are those the run was trained on, labels not needed.
      output: a file, written whole or not at all; empty: standard output.
      adapter: the directory of an adapter, see `jaxft.hub.adapters`, put on the run's base model in place of its own.
      engine, runs: what computes, and what answers with it; see `Predictor.open`.
      writing: of a language model: the answer is what it continues a text with, by these options, see
        `jaxft.generate.options.Options`, and for the others as its directory says; None: it is what the model says of
        the text.
      dropout: passes with dropout of which answers are the mean, see `jaxft.predict.dropout`; 0: one without.

    Raises:
      UserError: the file cannot be read or lacks a column, the adapter does not fit, or the output cannot be written.
    """
    paths.file_of("--input", inputs)
    check_bounds(writing or {})
    if writing is not None and dropout:
        raise UserError(
            "--predict.dropout is not for texts that are written; leave out --generate.max_new_tokens, or it"
        )
    predictor = Predictor.open(workdir, adapter, engine=engine, runs=runs)
    predictor = dropping(predictor, dropout) if dropout else predictor
    split, answer = read_inputs(inputs, predictor), predictor.answers
    if writing is not None:
        answer = partial(completions, predictor, options=settled(writing, predictor.directory))
    rows = zip(split.table.to_pylist(), _answers(split, predictor, answer), strict=True)

    def write() -> None:
        with opened(output) as out:
            for row, answer in rows:
                out.write(json.dumps(beside(row, answer), ensure_ascii=False, default=str) + "\n")

    distributed.once(write)


def read_inputs(inputs: str, predictor: Predictor) -> sources.Split:
    """Returns the rows of a file: a line each of a text file, else those of a table.

    Raises:
      UserError: it cannot be read.
    """
    return rows_of(inputs, predictor.experiment.data, predictor.table.inputs[0])


def rows_of(inputs: str, data: Data, column: str) -> sources.Split:
    """Returns the same of a file that no model is to read yet.

    Args:
      data: how it is read.
      column: what the lines of a text file are a column of.
    """
    if formats.suffix_of(Path(inputs)) == ".txt":
        encoding = sources.encoding_of(inputs, otherwise=data.encoding)
        return sources.read_lines(inputs, column, encoding)
    return sources.read_input(inputs, data)


def _answers(
    split: sources.Split, predictor: Predictor, answer: Callable[[sources.Split], Iterator[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Returns an answer for each row; a blank one has an empty answer.

    Raises:
      UserError: all rows are blank.
    """
    blank = sources.blank(split, predictor.table.inputs)
    if not blank.any():
        return answer(split)
    if blank.all():
        raise UserError(f"{split.origin} is empty: its {len(blank):,} rows hold no {predictor.table.inputs[0]!r}")
    say(f"{split.origin}: {blank.sum():,} of {len(blank):,} rows are blank; their answers are null")
    return with_empty(answer(split.take(np.flatnonzero(~blank))), blank)


def beside(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """Returns a row with its answer; a column of the row that has the name of a part of it is `input.NAME` there."""
    return {f"input.{name}" if name in answer else name: value for name, value in row.items()} | answer


def with_empty(answers: Iterator[dict[str, Any]], blank: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yields the answers in order, and among them, where `blank` (`[n]`) says so, one whose parts are null.

    Args:
      answers: one or more, all with the same parts.
    """
    first = next(answers)
    left = itertools.chain([first], answers)
    for one in blank:
        yield dict.fromkeys(first) if one else next(left)


@contextmanager
def opened(output: str) -> Iterator[TextIO]:
    """Opens a file that appears whole at the end or not at all, or standard output where it has no name.

    Raises:
      UserError: it cannot be written.
    """
    if not output:
        yield sys.stdout
        return
    file = Path(output).expanduser()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        out = open(temporary, "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"--output {file}: {error.strerror}; choose a file that can be written") from error
    try:
        with out:
            yield out
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink()
        raise
