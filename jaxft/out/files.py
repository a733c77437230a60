"""Files beside a model: where graphs lie in its directory, and folders that appear there whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxft.errors import UserError

ONNX = "onnx"
"""Folder of the graphs in a model's directory."""

GRAPHS = {"onnx": "model.onnx", "int8": "model_quantized.onnx"}
"""Name of a format, and of the engine that reads it -> the graph, where Optimum and transformers.js look for it."""

WEIGHTS = "jaxft.weights"
"""In a graph's metadata, the digest of the weights that it was made of; see `jaxft.hub.digest`."""


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yields an empty folder, which takes the place of `folder` at the end; after an error that is as it was.

    Raises:
      UserError: it cannot be written.
    """
    new = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        yield new
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}; choose a directory that can be written") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
