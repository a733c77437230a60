"""A calibration in the directory of its model: `calibration.json`, which holds for the very weights beside it."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxft import hub
from jaxft.errors import UserError
from jaxft.out.files import GRAPHS, ONNX
from jaxft.storage import fingerprint
from jaxft.sure.calibration import Calibration

FLOAT32, INT8 = "float32", "int8"
"""What computes the logits: jax, or a graph that gives the same; or one that is a little off, calibrated by itself."""


def kind_of(engine: str) -> str:
    """Returns under which name the calibration of an engine is kept."""
    return INT8 if engine == INT8 else FLOAT32


def read(directory: Path, engine: str) -> tuple[Calibration | None, list[str]]:
    """Returns the calibration that the answers of an engine are to have, and what there is to say.

    None: there is none, or it is of other weights, which the lines then say.

    Raises:
      UserError: the file is damaged.
    """
    file, kind = directory / hub.CALIBRATION, kind_of(engine)
    if not file.is_file():
        return None, []
    values = hub.read_json(file)
    if kind not in values:
        return None, [f"{file} is of {' and '.join(values)}; answers of {kind} are as the model gives them"]
    try:
        applied: dict[str, Any] = dict(values[kind]["applied"])
        applied["energies"] = tuple(applied["energies"])
        found = Calibration(**applied)
        weights, origin = values[kind]["weights"], values[kind]["fitted_on"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged, or of another version; delete it, and calibrate anew") from error
    if weights != _weights(directory, kind):
        return None, [f"{file} is of other weights than are there now, and is not used; --mode=calibrate makes it anew"]
    return found, [f"answers are calibrated on {origin}: {found.line()}"]


def write(directory: Path, engine: str, calibration: Calibration, about: Mapping[str, Any]) -> Path:
    """Writes a calibration beside its model, in place of that of the same engine, and returns where.

    Args:
      about: what else there is to say: `fitted_on`, and what was measured.
    """
    file, kind = directory / hub.CALIBRATION, kind_of(engine)
    values = hub.read_json(file) if file.is_file() else {}
    applied = dataclasses.asdict(calibration)
    values[kind] = {"weights": _weights(directory, kind), "applied": applied, **about}
    temporary = file.with_name(f".{file.name}")
    temporary.write_bytes(json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n")
    os.replace(temporary, file)
    return file


def _weights(directory: Path, kind: str) -> str:
    """A hash of the files that the logits are computed with."""
    return fingerprint.of_files([directory / ONNX / GRAPHS[INT8]]) if kind == INT8 else hub.digest(directory)
