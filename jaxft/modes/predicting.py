"""--mode=predict: answers for new inputs."""

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from jaxft.data import sources
from jaxft.devices import distributed
from jaxft.errors import UserError
from jaxft.predict.predictor import Predictor
from jaxft.storage import paths


def predict(workdir: str, inputs: str, output: str = "", adapter: str = "") -> None:
    """Writes a JSON line for each example of a text file (a line an example), CSV or JSON lines file.

    Args:
      workdir: of a run, or the directory of a trained model; see `Predictor.open`.
      inputs: the file; its columns are those the run was trained on, labels not needed.
      output: a file, written whole or not at all; empty: standard output.
      adapter: the directory of an adapter, see `jaxft.hub.adapters`, put on the run's base model in place of its own.

    Raises:
      UserError: the file cannot be read or lacks a column, the adapter does not fit, or the output cannot be written.
    """
    if not Path(inputs).expanduser().is_file():
        raise UserError(f"--input: {paths.missing(inputs)}")
    predictor = Predictor.open(workdir, adapter)
    split = _read_inputs(inputs, predictor)
    rows = zip(split.table.to_pylist(), predictor.answers(split), strict=True)

    def write() -> None:
        with _opened(output) as out:
            for row, answer in rows:
                out.write(json.dumps(row | answer, ensure_ascii=False, default=str) + "\n")

    distributed.once(write)


def _read_inputs(inputs: str, predictor: Predictor) -> sources.Split:
    data = predictor.experiment.data
    encoding = sources.encoding_of(inputs, otherwise=data.encoding)
    if inputs.endswith(".txt"):
        return sources.read_lines(inputs, predictor.table.inputs[0], encoding)
    none = dict.fromkeys(("train", "validation", "test", "subset"), "")
    return sources.read(dataclasses.replace(data, encoding=encoding, source=inputs, **none))["train"]


@contextmanager
def _opened(output: str) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole at the end or not at all."""
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
