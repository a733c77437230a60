"""What a model says of examples, kept on disk by content: of its weights, its task and dtype, and their tokens."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxft.data.features import Features
from jaxft.predict.engine import CompiledEngine
from jaxft.storage import fingerprint


def file_of(engine: CompiledEngine, features: Features, cache: str, room: str) -> Path | None:
    """Returns the file of what an engine says of these examples; None: nothing is kept.

    Args:
      cache: a folder; empty: nothing is kept.
      room: the folder below it.
    """
    if not cache or jax.process_count() > 1:
        return None
    columns = fingerprint.of_columns({"offsets": features.offsets, **features.tokens})
    said = [engine.fingerprint, columns, str(engine.composed.run.dtype)]
    return Path(cache).expanduser() / room / f"{fingerprint.of_values(said)}.npz"


def keep(file: Path, answered: dict[str, Any]) -> None:
    """Writes the file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as out:
            np.savez(out, **answered)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
