"""Trained parameters as a Hugging Face model directory."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxft.hub.directory import CARD, GENERATION, SAFETENSORS
from jaxft.hub.tokenizer import tokenizer_files
from jaxft.hub.weights import is_transposed, torch_name
from jaxft.models import nn
from jaxft.types import Array, Params

LARGEST_FILE = "5GB"
"""Of weights; more than that becomes several files and an index."""


def export(
    directory: Path,
    params: Params,
    hf_config: Mapping[str, Any],
    architecture: str,
    tokenizer_source: Path,
    card: str,
    *,
    files: Mapping[str, Any] | None = None,
) -> None:
    """Writes config.json, float32 safetensors under PyTorch names, the tokenizer's files and README.md.

    Where the model that it came from says how it is meant to write (generation_config.json), that is kept.

    The directory appears, or replaces an earlier export, as a whole. Every process must call this (sharded arrays are
    gathered, a tensor at a time); process 0 alone writes, and holds at most one weights file in memory.

    Args:
      directory: where to; its parents are made.
      params: arrays, wherever they live.
      hf_config: of the model, with id2label and the like already in it.
      architecture: the transformers class that has these parameters, e.g. BertForSequenceClassification.
      tokenizer_source: the model directory that the tokenizer came from.
      card: the text of README.md.
      files: further ones, or ones in place of the tokenizer's: name, with folders, -> JSON values, or a text.

    Raises:
      UserError: `tokenizer_source` has no tokenizer.
    """
    directory = directory.absolute()
    new, old = (directory.with_name(f".{directory.name}.{word}") for word in ("new", "old"))
    tokenizer = [*tokenizer_files(tokenizer_source), *filter(Path.exists, [tokenizer_source / GENERATION])]
    writes = jax.process_index() == 0
    if writes:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        (new / "config.json").write_text(_config_text(hf_config, architecture), encoding="utf-8")
        (new / CARD).write_text(card, encoding="utf-8")
        for name, values in (files or {}).items():
            (new / name).parent.mkdir(exist_ok=True)
            text = values if isinstance(values, str) else json.dumps(values, indent=2) + "\n"
            (new / name).write_text(text, encoding="utf-8")
        for file in (file for file in tokenizer if file.name not in (files or {})):
            shutil.copyfile(file, new / file.name)
    _write_weights(new, params, writes)
    if writes:
        shutil.rmtree(old, ignore_errors=True)
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"exported {directory.name}")


def _config_text(hf_config: Mapping[str, Any], architecture: str) -> str:
    # transformers 5 writes `dtype` and reads both; transformers 4 knows torch_dtype alone.
    kept = {k: v for k, v in hf_config.items() if k not in ("dtype", "_name_or_path")}
    return (
        json.dumps(kept | {"architectures": [architecture], "torch_dtype": "float32"}, indent=2, sort_keys=True) + "\n"
    )


def _write_weights(directory: Path, params: Params, writes: bool) -> None:
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.numpy import save_file

    flat = nn.flatten(params)
    paths = {torch_name(path): path for path in flat}
    split = split_state_dict_into_shards_factory(
        {name: flat[path] for name, path in paths.items()},
        get_storage_size=lambda array: 4 * array.size,
        filename_pattern=SAFETENSORS.replace(".", "{suffix}."),
        max_shard_size=LARGEST_FILE,
    )
    for file, names in split.filename_to_tensors.items():
        tensors = {}
        for name in names:
            array = fetch(flat[paths[name]])
            if writes:
                # save_file copies memory as it lies: a transposed view must become an array of its own.
                tensors[name] = np.array(array.T if is_transposed(paths[name]) else array, np.float32, order="C")
        if writes:
            save_file(tensors, directory / file, metadata={"format": "pt"})
            (directory / file).chmod((directory / "config.json").stat().st_mode)  # save_file makes it private
    if writes and split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (directory / f"{SAFETENSORS}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def fetch(array: Array | np.ndarray) -> np.ndarray:
    """The whole of an array, on the host; every process must ask for it."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(jax.device_get(array))
    return multihost_utils.process_allgather(array, tiled=True)
