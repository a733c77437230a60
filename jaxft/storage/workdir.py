"""The folder that a run leaves behind; its files are named in docs/design.md."""

import itertools
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from etils import epath

from jaxft import config
from jaxft.errors import UserError

WRITTEN = (
    *("config.json", "metrics.jsonl", "results.json", "checkpoints", "checkpoints-unreadable", "export", "report"),
    *("adapter", "tensorboard", "profile", "evaluations", "extensions.json", "plan.json"),
    *(".config.json", ".results.json", ".extensions.json", ".export.new", ".export.old"),
)
"""Everything that a run writes into its folder."""

RECORDS = ("config.json", "metrics.jsonl", "results.json", "extensions.json")
"""What a bucket's run is known by."""


class Workdir:
    """Reads and writes the files of one run. Each write is whole or not at all.

    That of a bucket is written to a folder of this machine first: an object cannot grow, and folders cannot be swapped.
    `publish` puts it into the bucket. Checkpoints orbax writes there by itself, but not to S3.
    """

    def __init__(self, path: str | Path):
        """A folder, or that of a bucket (see `jaxft.storage.bucket`), of which the records are fetched.

        Raises:
          UserError: a bucket that cannot be used.
        """
        self._bucket = None
        if "://" not in str(path):
            self.path = Path(path).expanduser().absolute()
            return
        from jaxft.storage.bucket import Bucket

        self._bucket = Bucket(str(path))
        if jax.process_count() > 1 and not self._bucket.known_to_orbax:
            raise UserError(
                f"--workdir {path}: one process alone can write to this store; for several give gs://BUCKET/PATH or a "
                "folder that all of them share, or mount the bucket (mount-s3)"
            )
        self._room = tempfile.TemporaryDirectory(prefix="jaxft-")
        self.path = Path(self._room.name)
        for name in RECORDS:
            self._bucket.fetch(name, self.path)

    def __str__(self) -> str:
        return str(self._bucket or self.path)

    @property
    def checkpoints(self) -> epath.Path:
        """Where orbax writes them; those that it cannot write to the bucket have been fetched."""
        if self._bucket and self._bucket.known_to_orbax:
            return self._bucket.path / "checkpoints"
        folder = epath.Path(self.path / "checkpoints")
        if self._bucket and not folder.exists():
            folder.mkdir()
            for step in self._bucket.names("checkpoints"):
                self._bucket.fetch(f"checkpoints/{step}", self.path)
        return folder

    @property
    def export(self) -> Path:
        """Where it is written; see `exported`."""
        return self.path / "export"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    def exported(self) -> Path | None:
        """The export, once there is one."""
        if self._bucket and not self.export.exists():
            self._bucket.fetch("export", self.path)
        return self.export if self.export.exists() else None

    def publish(self, *names: str) -> None:
        """Puts files and folders that have been written into the bucket, if the run is in one, in this order."""
        for name in names:
            if self._bucket and (self.path / name).exists():
                self._bucket.put(self.path, name)

    def publish_progress(self) -> None:
        """The log as it is, then the checkpoints that are whole: each finds in the bucket the lines that it counts."""
        self.publish("metrics.jsonl", "tensorboard", "checkpoints-unreadable")
        if self._bucket and not self._bucket.known_to_orbax:
            here = {entry.name for entry in self.checkpoints.iterdir() if entry.name.isdecimal()}
            for step in sorted(here, key=int):
                if not self._bucket.has(f"checkpoints/{step}"):
                    self._bucket.put(self.path, f"checkpoints/{step}")
            for step in self._bucket.names("checkpoints") - here:
                self._bucket.remove(f"checkpoints/{step}")

    def claim(self, experiment: config.Experiment, overwrite: bool) -> None:
        """Makes the folder this experiment's: new, begun by it before, or begun by another that saved nothing.

        Raises:
          UserError: it holds a different experiment, something else, or cannot be written.
        """
        try:
            if overwrite and (self.path / "config.json").exists():
                self._delete()
            self.path.mkdir(parents=True, exist_ok=True)
            held = self.experiment() if (self.path / "config.json").exists() else None
            if held is None and self._names() - {".config.json"}:
                raise UserError(f"{self} is not empty and holds no run; choose another --workdir")
            if held is not None and self._has_saved() and (changed := config.differences(held, experiment)):
                on = "" if config.beyond_length(changed) else "go on with it by --extend, "
                raise UserError(
                    f"{self} holds a different experiment ({'; '.join(changed[:3])}); {on}choose another --workdir, or "
                    "delete what is there by --overwrite"
                )
            self._write("config.json", config.to_dict(experiment))
        except OSError as error:
            raise UserError(f"--workdir {self}: {error.strerror}; choose a folder that can be written") from error

    def extend(self, experiment: config.Experiment, record: Mapping[str, Any]) -> None:
        """Makes the run that of this experiment, which is longer: no longer finished, its results kept on record.

        Cut off in between, it is still the shorter run, finished or one to be finished.

        Args:
          record: what it was before, for `extensions`.

        Raises:
          UserError: the folder cannot be written.
        """
        records = self.extensions()
        record = {**record, "results": self.results()}
        try:
            if not records or records[-1] != record:
                self._write("extensions.json", [*records, record])
            self._remove("results.json")
            self._write("config.json", config.to_dict(experiment))
        except OSError as error:
            raise UserError(f"--workdir {self}: {error.strerror}; choose a folder that can be written") from error

    def extensions(self) -> list[dict[str, Any]]:
        """What the run was each time before it was made longer, in order: its length, and its results."""
        file = self.path / "extensions.json"
        return _read(file) if file.exists() else []

    def _remove(self, name: str) -> None:
        if self._bucket:
            self._bucket.remove(name)
        (self.path / name).unlink(missing_ok=True)

    def _names(self) -> set[str]:
        return self._bucket.names() if self._bucket else {entry.name for entry in self.path.iterdir()}

    def _delete(self) -> None:
        names = self._names()
        if foreign := sorted(names - set(WRITTEN)):
            raise UserError(
                f"--overwrite: {self} holds {foreign[0]}, which no run has written; "
                "choose another --workdir, or take it out of there"
            )
        # config.json last: cut off before that, the folder is still known as a run's. The folder itself may be a mount.
        for name in sorted(names, key=lambda name: name == "config.json"):
            if self._bucket:
                self._bucket.remove(name)
            entry = self.path / name
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)

    def _has_saved(self) -> bool:
        return self.exported() is not None or any(entry.name.isdigit() for entry in self.checkpoints.glob("*"))

    def experiment(self) -> config.Experiment:
        """The experiment in config.json, with everything in it that the data decided.

        Raises:
          UserError: there is none, or it is not one.
        """
        file = self.path / "config.json"
        if not file.exists():
            raise UserError(f"{self} holds no run (no config.json); give the --workdir of one")
        values = _read(file)
        if not isinstance(values, dict) or not {"model", "data", "train"} <= values.keys():
            raise UserError(f"{file} is not that of a run; choose another --workdir")
        return config.from_dict(values)

    def results(self) -> dict[str, float] | None:
        """results.json of a finished run, else None."""
        file = self.path / "results.json"
        return _read(file) if file.exists() else None

    def write_results(self, results: Mapping[str, float]) -> None:
        """The last of a run; in a bucket all the rest comes before it."""
        self.publish("metrics.jsonl", "tensorboard", "profile", "export", "adapter", "report")
        self._write("results.json", dict(results))

    def write_evaluation(self, file: Path, values: Mapping[str, Any]) -> str:
        """Writes what a file was measured as into `evaluations/`, in place of what was written of this very file.

        What several runs answered together, which `runs` of the values names, has a place of its own.

        Returns:
          Where: a name that begins with the file's.
        """
        (self.path / "evaluations").mkdir(exist_ok=True)
        mine = {"file": str(file), **values}
        for number in itertools.count(1):
            name = f"evaluations/{file.name}{f'-{number}' if number > 1 else ''}.json"
            if self._bucket:
                self._bucket.fetch(name, self.path)
            held = _read(self.path / name) if (self.path / name).exists() else mine
            if isinstance(held, dict) and all(held.get(key) == mine.get(key) for key in ("file", "runs")):
                break
        self._write(name, mine)
        return f"{self}/{name}"

    def log(self, step: int, split: str, values: Mapping[str, float]) -> int:
        """Appends a line to metrics.jsonl; returns the file's length in bytes."""
        line = json.dumps({"step": step, "split": split, **_finite(values)}) + "\n"
        with open(self.path / "metrics.jsonl", "ab") as file:
            file.write(line.encode())
            return file.tell()

    def truncate_log(self, size: int) -> None:
        """Takes back the lines written after a checkpoint."""
        file = self.path / "metrics.jsonl"
        if file.exists():
            os.truncate(file, min(size, file.stat().st_size))

    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        file = self.path / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _write(self, name: str, value: Any) -> None:
        file = self.path / name
        temporary = file.with_name(f".{file.name}")
        temporary.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, file)
        self.publish(name)


def _finite(value: Any) -> Any:
    """JSON has no NaN: such a value becomes null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); restore it, or start anew by --overwrite") from error
