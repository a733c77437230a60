"""The tensors of a checkpoint, by parameter path.

A parameter path (`bert/encoder/layer/0/output/dense/kernel`) is the name in Flax checkpoints; `torch_name` gives that
in PyTorch checkpoints.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.errors import UserError
from jaxft.hub.directory import FLAX, SAFETENSORS, conversion, first_line, read_json
from jaxft.models import nn
from jaxft.storage import fingerprint

_FLOATS = {"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"}
"""Floating-point dtypes as safetensors and as numpy name them."""


WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before every name."""


PREFIXES = {"gte": "new", "nomic_bert": "bert"}
"""Name of a body here -> what checkpoints of the code on the Hub, older than the transformers class, call it."""


def torch_name(path: str) -> str:
    """The PyTorch name of a parameter: kernel, embedding and scale are all called weight there."""
    *parents, last = path.split("/")
    return ".".join([*parents, "weight" if last in ("kernel", "embedding", "scale") else last])


STORED_AS_HERE = ("c_attn", "c_fc", "c_proj")
"""Dense layers of GPT-2, whose weights are `[inputs, outputs]` in PyTorch too."""


def is_transposed(path: str) -> bool:
    """Whether PyTorch stores the axes of a parameter in reverse: kernels, [inputs, outputs] here, but for GPT-2's."""
    *parents, last = path.split("/")
    return last == "kernel" and not {*parents[-1:]} & {*STORED_AS_HERE}


class Weights:
    """The tensors of a checkpoint, addressed by parameter path and read only when asked for.

    Integer tensors (`embeddings.position_ids`) are buffers of the PyTorch module, not parameters: they are left out.
    A checkpoint saved from the bare body (BertModel) has no `bert.` in its names; paths find their tensor all the same.
    """

    def __init__(self, tensors: Mapping[str, Any], base_prefix: str, from_torch: bool):
        """Takes stored name -> a numpy array or a safetensors slice.

        What all names begin with that a wrapper of the model put there, `wrapper`, is no part of them here.
        """
        tensors = {name: t for name, t in tensors.items() if _dtype(t) in _FLOATS}
        self.wrapper = _wrapper(tensors, f"{base_prefix}.") if from_torch else ""
        self._tensors = {name.removeprefix(self.wrapper): t for name, t in tensors.items()}
        self._torch = from_torch
        self._prefix = f"{base_prefix}/"
        known = [f"{name}/" for name in (base_prefix, PREFIXES.get(base_prefix)) if name]
        self._stored = next((prefix for prefix in known if any(name.startswith(prefix) for name in self.names())), "")

    def names(self) -> set[str]:
        """The stored names, with / between their parts."""
        return {name.replace(".", "/") for name in self._tensors}

    def stored_name(self, path: str) -> str | None:
        """What the checkpoint calls a parameter, with / between the parts; None: it lacks it."""
        found = self._find(path)
        return found.replace(".", "/") if found else None

    def _find(self, path: str) -> str | None:
        if path.startswith(self._prefix):
            path = self._stored + path.removeprefix(self._prefix)
        spellings = [path]
        if self._torch:
            # Checkpoints converted from TensorFlow's BERT say gamma and beta for LayerNorm's scale and bias.
            head, _, last = path.rpartition("/")
            old = {"scale": "gamma", "bias": "beta"}.get(last, last)
            # A language model's bias over the vocabulary is its decoder's too, and stored under either name.
            shared = [torch_name(f"{head}/decoder/bias")] if last == "bias" else []
            spellings = [torch_name(path), torch_name(f"{head}/{old}"), *shared]
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
    main, files = _files(directory)
    read = {SAFETENSORS: _open_safetensors, FLAX: _open_msgpack}[main]
    tensors = {name: tensor for file in files for name, tensor in read(file).items()}
    return Weights(tensors, base_prefix, from_torch=main == SAFETENSORS)


def digest(directory: Path) -> str:
    """The hash of the files that `open_weights` reads: what was made of other weights has another.

    Raises:
      UserError: there are none, or one that an index names is missing.
    """
    return fingerprint.of_files(_files(directory)[1])


def _files(directory: Path) -> tuple[str, list[Path]]:
    """Which of the formats a model directory has weights in, the first that is read, and its files."""
    for main in (SAFETENSORS, FLAX):
        index = directory / f"{main}.index.json"
        if (directory / main).exists():
            return main, [directory / main]
        if index.exists():
            files = [directory / name for name in sorted(set(read_json(index).get("weight_map", {}).values()))]
            if missing := [file.name for file in files if not file.exists()]:
                raise UserError(
                    f"{index} names {missing[0]}, which is missing ({len(missing)} of {len(files)} files are)"
                )
            return main, files
    pickled = sorted([*directory.glob("*.bin"), *directory.glob("*.h5")])
    expected = f"neither {SAFETENSORS} nor {FLAX}"
    if not pickled:
        raise UserError(f"no weights in {directory}: {expected}")
    advice = conversion(str(directory), str(directory), directory, tf=all(f.suffix == ".h5" for f in pickled))
    raise UserError(f"{directory} has {pickled[0].name}, but {expected}. {advice}")


def _wrapper(names: Iterable[str], body: str) -> str:
    """The wrappers that all names begin with, one after the other; `body`, where it stands once, is none of them.

    A language model whose scores of words are its embeddings stores nothing beside its body, which may be `model.`.
    """
    names, found = list(names), ""
    while names and (wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in names)), "")):
        if wrapper == body and not any(name.startswith(2 * body) for name in names):
            break
        names, found = [name.removeprefix(wrapper) for name in names], found + wrapper
    return found


def _dtype(tensor: Any) -> str:
    return tensor.dtype.name if isinstance(tensor, np.ndarray) else tensor.get_dtype()


def _open_safetensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(str(file), framework="np")
        return {name: opened.get_slice(name) for name in sorted(opened.keys())}
    except SafetensorError as error:
        raise UserError(
            f"{file} is damaged, cut short or a Git LFS pointer: {first_line(error)}; fetch it again"
        ) from error


def _open_msgpack(file: Path) -> dict[str, Any]:
    from flax.serialization import msgpack_restore

    try:
        tree: Any = msgpack_restore(file.read_bytes())
        tensors = nn.flatten(tree.get("params", tree))
    except Exception as error:  # msgpack and flax raise a dozen unrelated kinds on damaged bytes
        raise UserError(f"{file} is damaged or cut short: {first_line(error)}; fetch it again") from error
    return {name: np.asarray(tensor) for name, tensor in tensors.items()}
