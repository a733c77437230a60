"""A Hugging Face model directory as parameters: where it is, what its weights are called, which of them load.

A parameter path (`bert/encoder/layer/0/output/dense/kernel`) is the name in Flax checkpoints; `torch_name` gives that
in PyTorch checkpoints. Pickled weights (`pytorch_model.bin`) are refused: unpickling runs code from the file.
"""

import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.paths import looks_local, missing, resolve
from jaxft.types import Array, Key, Params

SAFETENSORS = "model.safetensors"
FLAX = "flax_model.msgpack"
VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model"),
    *("tokenizer.model", "spm.model"),
)
TOKENIZER_FILES = (
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
)

_FLOATS = {"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"}
"""Floating-point dtypes as safetensors and as numpy name them."""


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
        files = ["config.json", *TOKENIZER_FILES, weights, f"{stem}-*-of-*.{suffix}", f"{weights}.index.json"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, ignore_patterns=["*/*"]))

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
        raise UserError(f"{wrong} it could not be fetched: {_first_line(error)}") from error
    advice = _conversion(name, f"./{name.split('/')[-1]}", directory)
    raise UserError(f"Hub model {name!r} at {revision!r} has neither {SAFETENSORS} nor {FLAX}. {advice}")


def read_config(directory: Path) -> dict[str, Any]:
    """The values of config.json.

    Raises:
      UserError: there is none, or it is not a JSON object.
    """
    if not (directory / "config.json").exists():
        raise UserError(f"no config.json in {directory}; is it the directory of a Hugging Face model?")
    return read_json(directory / "config.json")


def torch_name(path: str) -> str:
    """The PyTorch name of a parameter: kernel, embedding and scale are all called weight there."""
    *parents, last = path.split("/")
    return ".".join([*parents, "weight" if last in ("kernel", "embedding", "scale") else last])


def is_transposed(path: str) -> bool:
    """Whether PyTorch stores the axes of a parameter in reverse: kernels, [inputs, outputs] here."""
    return path.split("/")[-1] == "kernel"


class Weights:
    """The tensors of a checkpoint, addressed by parameter path and read only when asked for.

    Integer tensors (`embeddings.position_ids`) are buffers of the PyTorch module, not parameters: they are left out.
    A checkpoint saved from the bare body (BertModel) has no `bert.` in its names; paths find their tensor all the same.
    """

    def __init__(self, tensors: Mapping[str, Any], base_prefix: str, from_torch: bool):
        """Takes stored name -> a numpy array or a safetensors slice."""
        self._tensors = {name: t for name, t in tensors.items() if _dtype(t) in _FLOATS}
        self._torch = from_torch
        separator = "." if from_torch else "/"
        prefixed = any(name.startswith(base_prefix + separator) for name in self._tensors)
        self._cut = "" if prefixed else base_prefix + "/"

    def names(self) -> set[str]:
        """The stored names, with / between their parts."""
        return {name.replace(".", "/") for name in self._tensors}

    def stored_name(self, path: str) -> str | None:
        """What the checkpoint calls a parameter, with / between the parts; None: it lacks it."""
        found = self._find(path)
        return found.replace(".", "/") if found else None

    def _find(self, path: str) -> str | None:
        path = path.removeprefix(self._cut)
        spellings = [path]
        if self._torch:
            # Checkpoints converted from TensorFlow's BERT say gamma and beta for LayerNorm's scale and bias.
            head, _, last = path.rpartition("/")
            old = {"scale": "gamma", "bias": "beta"}.get(last, last)
            spellings = [torch_name(path), torch_name(f"{head}/{old}")]
        return next((name for name in spellings if name in self._tensors), None)

    def __contains__(self, path: str) -> bool:
        return self._find(path) is not None

    def _is_reversed(self, path: str) -> bool:
        return self._torch and is_transposed(path)

    def shape(self, path: str) -> tuple[int, ...]:
        tensor = self._tensors[self._find(path) or path]
        shape = tuple(tensor.shape if isinstance(tensor, np.ndarray) else tensor.get_shape())
        return shape[::-1] if self._is_reversed(path) else shape

    def read(self, path: str, index: Any) -> np.ndarray:
        """A part of a parameter, a slice a dimension, as float32; of a safetensors file only that part is read."""
        tensor = self._tensors[self._find(path) or path]
        part = tensor[index[::-1]].T if self._is_reversed(path) else tensor[index]
        return np.asarray(part).astype(np.float32, copy=False)


def open_weights(directory: Path, base_prefix: str) -> Weights:
    """The weights of a model directory: safetensors before Flax msgpack, in one file or in several with an index.

    Raises:
      UserError: no weights, pickled ones only, a file that is missing or damaged.
    """
    for main, reader in ((SAFETENSORS, _open_safetensors), (FLAX, _open_msgpack)):
        index = directory / f"{main}.index.json"
        if (directory / main).exists():
            files = [main]
        elif index.exists():
            files = sorted(set(read_json(index).get("weight_map", {}).values()))
        else:
            continue
        missing = [file for file in files if not (directory / file).exists()]
        if missing:
            raise UserError(f"{index} names {missing[0]}, which is missing ({len(missing)} of {len(files)} files are)")
        tensors = {name: tensor for file in files for name, tensor in reader(directory / file).items()}
        return Weights(tensors, base_prefix, from_torch=main == SAFETENSORS)
    pickled = sorted([*directory.glob("*.bin"), *directory.glob("*.h5")])
    expected = f"neither {SAFETENSORS} nor {FLAX}"
    if not pickled:
        raise UserError(f"no weights in {directory}: {expected}")
    advice = _conversion(str(directory), str(directory), directory, tf=all(f.suffix == ".h5" for f in pickled))
    raise UserError(f"{directory} has {pickled[0].name}, but {expected}. {advice}")


def _dtype(tensor: Any) -> str:
    return tensor.dtype.name if isinstance(tensor, np.ndarray) else tensor.get_dtype()


def _open_safetensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(str(file), framework="np")
        return {name: opened.get_slice(name) for name in sorted(opened.keys())}
    except SafetensorError as error:
        raise UserError(
            f"{file} is damaged, cut short or a Git LFS pointer: {_first_line(error)}; fetch it again"
        ) from error


def _open_msgpack(file: Path) -> dict[str, Any]:
    from flax.serialization import msgpack_restore

    try:
        tree: Any = msgpack_restore(file.read_bytes())
        tensors = nn.flatten(tree.get("params", tree))
    except Exception as error:  # msgpack and flax raise a dozen unrelated kinds on damaged bytes
        raise UserError(f"{file} is damaged or cut short: {_first_line(error)}; fetch it again") from error
    return {name: np.asarray(tensor) for name, tensor in tensors.items()}


def _conversion(source: str, target: str, directory: Path, tf: bool = False) -> str:
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


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      UserError: it holds none.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{file} is not valid JSON ({_first_line(error)}); it may be cut short: fetch it again"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds a JSON {type(values).__name__}, not an object; fetch it again")
    return values


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@dataclasses.dataclass(frozen=True)
class Accounting:
    """What became of every parameter and of every tensor of the checkpoint.

    Attributes:
      loaded: paths read from the checkpoint.
      missing: path -> shape of those that the checkpoint lacks; they are initialized.
      mismatched: head path -> (shape here, shape in the checkpoint); they are initialized too.
      unused: names in the checkpoint that no parameter asked for.
    """

    loaded: list[str]
    missing: dict[str, tuple[int, ...]]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unused: list[str]

    def lines(self) -> list[str]:
        """For the log: a line a kind, the empty ones left out."""
        new = [f"{path} {list(shape)}" for path, shape in self.missing.items()]
        other = [f"{path} {list(here)}, there {list(there)}" for path, (here, there) in self.mismatched.items()]
        groups = groupby(self.unused, key=lambda name: "/".join(name.split("/")[:2]))
        parts = [(group, list(names)) for group, names in groups]
        unused = [f"{group}/... ({len(names)} tensors)" if len(names) > 1 else names[0] for group, names in parts]
        kinds = {
            "loaded from the checkpoint": [f"{len(self.loaded)} tensors"],
            "new (initialized)": new,
            "of another shape in the checkpoint (initialized)": other,
            "unused in the checkpoint": unused,
        }
        return [f"{kind}: {', '.join(entries)}" for kind, entries in kinds.items() if entries]


def load(
    directory: Path, spec: nn.Spec, *, key: Key[Array, ""], base_prefix: str, shardings: Any = None
) -> tuple[Params, Accounting]:
    """Parameters in float32, each made where it will live: a host reads and holds its devices' shares and no more.

    (Of a Flax msgpack file a host holds the whole file meanwhile: that format cannot be read in parts.)

    Args:
      directory: of the model.
      spec: a tree of `nn.Leaf`: what to load.
      key: for parameters that the checkpoint lacks.
      base_prefix: the path under which the pretrained body lies; parameters beside it are heads, which may be missing
        or have another shape. In the body only the pooler may be missing.
      shardings: a tree of shardings like `spec`; None: everything on the default device.

    Raises:
      UserError: weights that cannot be read, are of another kind of model, lack a part of the body, or have other
        shapes than the spec.
    """
    weights = open_weights(directory, base_prefix)
    leaves = nn.flatten(spec)
    accounting = account(directory, weights, leaves, base_prefix)
    here = SingleDeviceSharding(jax.local_devices()[0])
    where = dict.fromkeys(leaves, here) if shardings is None else nn.flatten(shardings)
    with jax.transfer_guard_host_to_device("allow"):  # callbacks count as implicit transfers
        params = {
            path: jax.make_array_from_callback(leaves[path].shape, where[path], partial(weights.read, path))
            for path in accounting.loaded
        }
    new = [*accounting.missing, *accounting.mismatched]
    if new:
        initial = jax.jit(
            lambda key: {path: leaves[path].initial(nn.path_key(key, path)) for path in new},
            out_shardings={path: where[path] for path in new},
        )
        params |= initial(key)
    return nn.unflatten({path: params[path] for path in leaves}), accounting


def account(directory: Path, weights: Weights, leaves: Mapping[str, nn.Leaf], base_prefix: str) -> Accounting:
    """Which parameters the weights hold, and what else they hold.

    Raises:
      UserError: as `load` says.
    """
    body = [path for path in leaves if path.startswith(base_prefix + "/")]
    loaded = [path for path in leaves if path in weights]
    absent = {path: leaf.shape for path, leaf in leaves.items() if path not in weights}
    if not set(body) & set(loaded):
        names = _some(weights.names())
        raise UserError(f"{directory}: the weights are of another kind of model: no {base_prefix}/... among {names}")
    lost = [path for path in body if path in absent]
    # A head's checkpoint often has no pooler; anything less than all of it, or anything else, is damage.
    if lost and lost != [path for path in body if path.startswith(f"{base_prefix}/pooler/")]:
        raise UserError(
            f"{directory}: {len(lost)} of the model's {len(body)} tensors are missing from the weights: {_some(lost)}; "
            "they are incomplete, or config.json is of another model"
        )
    mismatched = {}
    for path in loaded:
        here, there = tuple(leaves[path].shape), weights.shape(path)
        if here != there and path in body:
            raise UserError(f"{directory}: {path} must be {list(here)} by config.json, but is {list(there)} there")
        if here != there:
            mismatched[path] = (here, there)
    unused = weights.names() - {weights.stored_name(path) for path in loaded}
    return Accounting([path for path in loaded if path not in mismatched], absent, mismatched, sorted(unused))


def _some(names: Iterable[str], count: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def tokenizer_files(directory: Path) -> list[Path]:
    """The files that a tokenizer is made of.

    Raises:
      UserError: there is no vocabulary among them.
    """
    if not any((directory / name).exists() for name in VOCABULARIES):
        raise UserError(f"no tokenizer in {directory}: it needs one of {', '.join(VOCABULARIES)}")
    return [directory / name for name in TOKENIZER_FILES if (directory / name).exists()]


def tokenizer(directory: Path) -> Any:
    """The tokenizer of a model directory, a `transformers.PreTrainedTokenizerBase`.

    Raises:
      UserError: no tokenizer files, or transformers cannot read them.
    """
    tokenizer_files(directory)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch, which it need not have
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # OSError, ValueError, KeyError, or a bare Exception from the Rust side
        raise UserError(f"transformers cannot read the tokenizer in {directory}: {_first_line(error)}") from error


def tokenizer_fingerprint(directory: Path) -> str:
    """A hash of the tokenizer's files (40 hex digits): made without importing transformers.

    Raises:
      UserError: no tokenizer files.
    """
    digest = hashlib.sha256()
    for file in tokenizer_files(directory):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:40]
