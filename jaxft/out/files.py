"""Files that appear in a model's directory whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxft.errors import UserError


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
