"""A run's folder in an object store, by the path library that orbax uses: objects appear whole, folders by a mark."""

import contextlib
import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from jaxft.errors import UserError

STORES = {"gs": "gcsfs", "s3": "s3fs"}
"""Of a scheme, the package that reads and writes there; our extra has the scheme's name."""

KNOWN_TO_ORBAX = ("gs",)
"""Where orbax writes checkpoints itself, each process its part."""

MARKS = {"export": "config.json", "adapter": "adapter_config.json", "report": "index.html"}
"""The file of a folder that is put last and taken away first: without it the others are no model and no page."""

CHECKPOINT_MARK = "_CHECKPOINT_METADATA"
"""The same, of a checkpoint: orbax takes no folder without it for one."""

REFUSALS = ("Forbidden", "PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "annot connect")
"""Words in the errors of orbax's libraries that say nothing about what is in the store."""


class Bucket:
    """A folder `gs://BUCKET/PATH` or `s3://BUCKET/PATH`.

    Names of files and folders are relative to it. Each method raises UserError where the store refuses or cannot be
    reached (it has been tried again by then).
    """

    def __init__(self, url: str):
        """Raises UserError for another store, and where the package for this one is missing."""
        scheme = url.partition("://")[0]
        if scheme not in STORES:
            raise UserError(f"--workdir {url}: {scheme}:// is not known; give a folder, gs://BUCKET/PATH or s3://...")
        if importlib.util.find_spec(STORES[scheme]) is None:
            raise UserError(f"--workdir {url}: {STORES[scheme]} is not installed; try: pip install 'jaxft[{scheme}]'")
        import fsspec.config

        # Other processes write there too: a list that has been kept would hide it.
        fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False
        self.path = epath.Path(url)
        self.known_to_orbax = scheme in KNOWN_TO_ORBAX

    def __str__(self) -> str:
        return str(self.path)

    def names(self, folder: str = "") -> set[str]:
        """Of what lies directly in the folder."""
        with self._told("read"):
            path = self.path / folder
            return {entry.name for entry in path.iterdir()} if path.exists() else set()

    def has(self, name: str) -> bool:
        """Whether a file, or a folder with its mark, is there."""
        with self._told("read"):
            return (self.path / name / _mark(name)).exists()

    def fetch(self, name: str, folder: Path) -> None:
        """Copies what is there into a local folder."""
        if self.has(name):
            with self._told("read"):
                _copy(self.path / name, folder / name)

    def put(self, folder: Path, name: str) -> None:
        """Copies a file or a folder of a local folder here; a folder that has a mark replaces what was there."""
        source, target = folder / name, self.path / name
        with self._told("written"):
            if mark := _mark(name):
                self._remove(name)
            _copy(source, target, mark)

    def remove(self, name: str) -> None:
        """Deletes a file or a folder, if it is there."""
        with self._told("written"):
            self._remove(name)

    def _remove(self, name: str) -> None:
        path, mark = self.path / name, self.path / name / _mark(name)
        if mark != path and mark.exists():
            mark.unlink()
        if path.exists():
            path.rmtree() if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of gcsfs, of google-auth, of aiohttp: whatever they raise
            raise refused(str(self), what, error) from error


def refused(url: str, what: str, error: Exception) -> UserError:
    """What to tell of a store that has not let itself be read or written (`what`)."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"--workdir {url}: cannot be {what} ({reason}); check that the bucket exists, that you may use it "
        "(gcloud auth application-default login, aws configure) and the network; the same command resumes"
    )


def _mark(name: str) -> str:
    return CHECKPOINT_MARK if re.fullmatch(r"checkpoints/\d+", name) else MARKS.get(name, "")


def _copy(source: Path | epath.Path, target: Path | epath.Path, last: str = "") -> None:
    if not source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as data, target.open("wb") as out:
            shutil.copyfileobj(data, out, 2**24)
        return
    for entry in sorted(source.iterdir(), key=lambda entry: (entry.name == last, entry.name)):
        _copy(entry, target / entry.name)
