"""The folder that a run leaves behind; its files are named in docs/design.md."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft import config
from jaxft.errors import UserError

WRITTEN = (
    *("config.json", "metrics.jsonl", "results.json", "checkpoints", "checkpoints-unreadable", "export", "report"),
    *("adapter", "tensorboard", "plan.json", ".config.json", ".results.json", ".export.new", ".export.old"),
)
"""Everything that a run writes into its folder."""


class Workdir:
    """Reads and writes the files of one run. Each write is whole or not at all."""

    def __init__(self, path: str | Path):
        """Raises UserError for a bucket: object stores can neither append a line nor swap two folders."""
        if "://" in str(path):
            raise UserError(
                f"--workdir {path}: a run is written to a file system; mount the bucket (gcsfuse, mount-s3) or take a "
                "shared disk, and give that folder"
            )
        self.path = Path(path).expanduser().absolute()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

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
            if held is None and any(entry.name != ".config.json" for entry in self.path.iterdir()):
                raise UserError(f"{self.path} is not empty and holds no run; choose another --workdir")
            if held is not None and self._has_saved() and (changed := config.differences(held, experiment)):
                raise UserError(
                    f"{self.path} holds a different experiment ({'; '.join(changed[:3])}); "
                    f"choose another --workdir, or delete what is there by --overwrite"
                )
            self._write("config.json", config.to_dict(experiment))
        except OSError as error:
            raise UserError(f"--workdir {self.path}: {error.strerror}; choose a folder that can be written") from error

    def _delete(self) -> None:
        if foreign := sorted(entry.name for entry in self.path.iterdir() if entry.name not in WRITTEN):
            raise UserError(
                f"--overwrite: {self.path} holds {foreign[0]}, which no run has written; "
                "choose another --workdir, or take it out of there"
            )
        # config.json last: cut off before that, the folder is still known as a run's. The folder itself may be a mount.
        for entry in sorted(self.path.iterdir(), key=lambda entry: entry.name == "config.json"):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _has_saved(self) -> bool:
        return self.export.exists() or any(entry.name.isdigit() for entry in self.checkpoints.glob("*"))

    def experiment(self) -> config.Experiment:
        """The experiment in config.json, with everything in it that the data decided.

        Raises:
          UserError: there is none, or it is not one.
        """
        file = self.path / "config.json"
        if not file.exists():
            raise UserError(f"{self.path} holds no run (no config.json); give the --workdir of one")
        values = _read(file)
        if not isinstance(values, dict) or not {"model", "data", "train"} <= values.keys():
            raise UserError(f"{file} is not that of a run; choose another --workdir")
        return config.from_dict(values)

    def results(self) -> dict[str, float] | None:
        """results.json of a finished run, else None."""
        file = self.path / "results.json"
        return _read(file) if file.exists() else None

    def write_results(self, results: Mapping[str, float]) -> None:
        self._write("results.json", dict(results))

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

    def _write(self, name: str, value: dict[str, Any]) -> None:
        temporary = self.path / f".{name}"
        temporary.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, self.path / name)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: such a value becomes null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); restore it, or start anew by --overwrite") from error
