"""A model's directory: where it is, and its config.json.

Pickled weights (`pytorch_model.bin`) are refused: unpickling runs code from the file.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from jaxft.errors import UserError
from jaxft.storage.paths import looks_local, missing, resolve

SAFETENSORS = "model.safetensors"

FLAX = "flax_model.msgpack"

CARD = "README.md"

CALIBRATION = "calibration.json"
"""What `jaxft.sure` keeps beside a model."""

GENERATION = "generation_config.json"
"""How a decoder is meant to write: which tokens end its answers. Not every one has it."""

CHAT_TEMPLATE = "chat_template.jinja"
"""Goes before the template that tokenizer_config.json may have."""

VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model"),
    *("tokenizer.model", "spm.model"),
)

TOKENIZER_FILES = (
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", CHAT_TEMPLATE),
)


def locate(path: str, revision: str) -> Path:
    """The directory of a model: a local one, or the snapshot of a Hub model, downloaded unless it is cached.

    Raises:
      UserError: no such directory, a file, an unknown Hub model, or the Hub cannot be reached.
    """
    local = resolve(path)
    if local is None and looks_local(path):
        raise UserError(f"model.path: {missing(path)}")
    if local is None:
        return _snapshot(path, revision)
    if not local.is_dir():
        raise UserError(f"model.path: {local} is a file; give the directory that holds config.json and the weights")
    return local


def _snapshot(name: str, revision: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    def fetch(weights: str) -> Path:
        stem, suffix = weights.split(".")
        beside = ["config.json", CARD, CALIBRATION, GENERATION, *TOKENIZER_FILES]
        files = [*beside, weights, f"{stem}-*-of-*.{suffix}", f"{weights}.index.json"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))

    # OWNER/NAME with a directory OWNER here may well have been meant as a local path.
    nowhere = missing(name) if "/" in name and Path(name).parent.is_dir() else f"there is no directory {name!r}"
    wrong = f"model.path: {nowhere}; as a name on the Hub"
    try:
        for weights in (SAFETENSORS, FLAX):
            directory = fetch(weights)
            if (directory / weights).exists() or (directory / f"{weights}.index.json").exists():
                return directory
    except errors.HFValidationError as error:
        raise UserError(f"{wrong} it is malformed (OWNER/NAME)") from error
    except errors.GatedRepoError as error:
        raise UserError(f"{wrong} it is gated: accept its terms on its page there, then `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{wrong} it is unknown; if the model is private, `hf auth login` first") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"model.revision: the Hub model {name!r} has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        why = f"it is not in the cache (revision {revision!r})"
        raise UserError(f"{wrong} {why}, and the Hub cannot be reached (or HF_HUB_OFFLINE is set)") from error
    except Exception as error:  # the Hub client lets through whatever its HTTP library of the day raises
        raise UserError(f"{wrong} it could not be fetched: {first_line(error)}") from error
    advice = conversion(name, f"./{name.split('/')[-1]}", directory)
    raise UserError(f"Hub model {name!r} at {revision!r} has neither {SAFETENSORS} nor {FLAX}. {advice}")


def read_config(directory: Path) -> dict[str, Any]:
    """The values of config.json.

    Raises:
      UserError: there is none, or it is not a JSON object.
    """
    if not (directory / "config.json").exists():
        raise UserError(f"no config.json in {directory}; is it the directory of a Hugging Face model?")
    return read_json(directory / "config.json")


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      UserError: it holds none.
    """
    values = _json(file)
    if not isinstance(values, dict):
        raise UserError(f"{file} holds a JSON {type(values).__name__}, not an object; fetch it again")
    return values


def read_json_objects(file: Path) -> list[dict[str, Any]]:
    """The list of objects that a JSON file holds.

    Raises:
      UserError: it holds none.
    """
    values = _json(file)
    if not (isinstance(values, list) and all(isinstance(one, dict) for one in values)):
        raise UserError(f"{file} holds a JSON {type(values).__name__}, not a list of objects; fetch it again")
    return values


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{file} is not valid JSON ({first_line(error)}); it may be cut short: fetch it again"
        ) from error


def conversion(source: str, target: str, directory: Path, tf: bool = False) -> str:
    """The command that turns weights jaxft refuses into safetensors."""
    names = read_json(directory / "config.json").get("architectures") if (directory / "config.json").exists() else None
    cls = names[0] if names and str(names[0]).isidentifier() else "AutoModel"
    code = f"from transformers import {cls} as M; M.from_pretrained({source!r}{', from_tf=True' * tf})"
    code += f".save_pretrained({target!r}, safe_serialization=True)"
    if source != target:
        code += (
            f"; from transformers import AutoTokenizer as T; T.from_pretrained({source!r}).save_pretrained({target!r})"
        )
    where = "transformers<5, torch and tensorflow" if tf else "transformers and torch"
    what = "Convert them" if source == target else f"Convert it and set model.path={target}"
    return f"{what} in an environment with {where}: python -c {shlex.quote(code)}"


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
