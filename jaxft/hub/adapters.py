"""What an adaptation has learned, as a small directory: adapter_config.json and adapter_model.safetensors.

LoRA, DoRA, AdaLoRA (as the LoRA that computes the same), IA3, prefixes and prompts are written in the format of Hugging
Face's `peft`, whose `PeftModel.from_pretrained` opens them in PyTorch, and read from it. Bottleneck adapters, for which
it has no format, are written with the names that parameters have here.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config, tasks
from jaxft.adapt.base import layer_of, matches
from jaxft.errors import UserError, nearest
from jaxft.hub.directory import read_json
from jaxft.hub.export import fetch
from jaxft.hub.weights import is_transposed, torch_name
from jaxft.models import nn
from jaxft.program import Program
from jaxft.types import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

TYPES = {
    "lora": "LORA",
    "adalora": "LORA",
    "ia3": "IA3",
    "prefix": "PREFIX_TUNING",
    "prompt": "PROMPT_TUNING",
    "adapter": "JAXFT",
}
"""Method -> `peft_type`. Methods that add nothing to the model have no such directory."""

TASKS = {
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
    "QuestionAnswering": "QUESTION_ANS",
    "SentenceEmbedding": "FEATURE_EXTRACTION",
}
"""A task of `jaxft.config` -> `task_type`."""

PARTS = {
    "a": "lora_A.weight",
    "b": "lora_B.weight",
    "value": "lora_E",
    "magnitude": "lora_magnitude_vector",
    "scale": "ia3_l",
}
VIRTUAL = "prompt_embeddings"
"""All of a prompt, `[length, embed]`; or of a prefix, `[length, layers * 2 * embed]`: those of layer 0, ..."""


def write(directory: Path, experiment: config.Experiment, trainable: Params) -> None:
    """Writes the directory. Every process must call this; process 0 alone writes."""
    from safetensors.numpy import save_file

    flat = {path: np.asarray(fetch(x), np.float32) for path, x in nn.flatten(trainable).items()}
    if jax.process_index():
        return
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors(experiment, flat), directory / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(_config(experiment, list(flat)), indent=2, sort_keys=True) + "\n"
    (directory / CONFIG).write_text(text, encoding="utf-8")
    (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode)  # save_file makes it private


def tensors(experiment: config.Experiment, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What learns, or its gradient, by path -> the same as `peft` names and lays it out."""
    flat, bare = dict(flat), _is_bare(experiment)
    for path in filter(_is_value, list(flat)):
        b = f"{path.removesuffix('/value')}/b"
        flat[b] = flat.pop(path)[:, None] * flat[b]
    found = {}
    if states := _states(flat):
        found[VIRTUAL] = np.concatenate([flat.pop(path) for path in states], axis=1)
    for path, x in flat.items():
        if path.startswith("ia3/"):
            x = x[None] if any(matches(pattern, path) for pattern in experiment.ia3.inputs) else x[:, None]
        found[_name(experiment.adapt, path, bare)] = x.T if _is_reversed(path) else x
    return {name: np.array(x, order="C") for name, x in found.items()}


def _is_bare(experiment: config.Experiment) -> bool:
    """Whether PyTorch's model is the body alone, which its own name is not put before."""
    return not tasks.build(experiment.task).hf_class


def _name(adapt: str, path: str, bare: bool) -> str:
    """What `peft` calls a parameter of a method, or of the head beside it."""
    method, *layer, last = path.split("/")
    if TYPES.get(method) == "JAXFT":
        return path
    if method in ("prefix", "prompt"):
        return VIRTUAL
    inside = ".".join([*layer[bare:], PARTS[last]]) if method in TYPES else torch_name(path)
    return f"base_model.{inside}" if adapt in ("prefix", "prompt") else f"base_model.model.{inside}"


def _states(paths: Iterable[str]) -> list[str]:
    """The parameters of a prefix in the order in which `peft` puts them side by side."""
    return sorted((path for path in paths if path.startswith("prefix/")), key=lambda path: (layer_of(path), path))


def _is_value(path: str) -> bool:
    """Whether a parameter is AdaLoRA's diagonal, which LoRA has none of: it is multiplied into `b`."""
    return path.startswith("adalora/") and path.endswith("/value")


def _is_reversed(path: str) -> bool:
    """Whether `peft` stores the axes of a parameter in reverse."""
    kind = TYPES.get(path.split("/")[0])
    return kind == "LORA" or (kind is None and is_transposed(path))


def _config(experiment: config.Experiment, paths: Sequence[str]) -> dict[str, Any]:
    """The values of adapter_config.json."""
    method = experiment.adapt
    own = [path for path in paths if path.startswith(f"{method}/")]
    values = {
        "base_model_name_or_path": experiment.model.path,
        "inference_mode": True,
        "modules_to_save": sorted({_head(path) for path in paths if path not in own}),
        "peft_type": TYPES[method],
        "task_type": TASKS.get(type(experiment.task).__name__),
    }
    if TYPES[method] == "JAXFT":
        return values | {"method": method, "options": config.to_dict(getattr(experiment, method))}
    if method in ("prefix", "prompt"):
        return values | {"num_virtual_tokens": getattr(experiment, method).length}
    layers = sorted({".".join(path.split("/")[1 + _is_bare(experiment) : -1]) for path in own})
    if method == "ia3":
        fed = [layer for layer in layers if any(matches(p, layer.replace(".", "/")) for p in experiment.ia3.inputs)]
        return values | {"target_modules": layers, "feedforward_modules": fed}
    lora = (
        experiment.lora
        if method == "lora"
        else config.Lora(rank=experiment.adalora.rank, alpha=experiment.adalora.rank)
    )
    return values | {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "target_modules": layers,
    }


def _head(path: str) -> str:
    """The module of the head that a parameter lies in: `classifier`, or `pooler`, which lies in the body."""
    return "pooler" if "/pooler/" in path else path.split("/")[0]


def options(directory: Path) -> dict[str, Any]:
    """The keys of an experiment that make the method of a `peft` directory: `Experiment(**options(directory))`.

    Raises:
      UserError: there is none, or it is of a method or has a setting that is not known here.
    """
    if not (directory / CONFIG).exists():
        raise UserError(f"no {CONFIG} in {directory}; is it the directory of an adapter?")
    values = read_json(directory / CONFIG)
    kind, targets = values.get("peft_type"), values.get("target_modules")
    readable = {*TYPES.values(), "ADALORA"}
    if kind not in readable:
        raise UserError(f"{directory / CONFIG}: peft_type {kind!r} cannot be read; {nearest(str(kind), readable)}")
    if kind == "JAXFT":
        read = config.from_dict({values["method"]: values["options"]})
        return {"adapt": values["method"], values["method"]: getattr(read, values["method"])}
    if kind in ("PREFIX_TUNING", "PROMPT_TUNING"):
        method, section = ("prefix", config.Prefix) if kind == "PREFIX_TUNING" else ("prompt", config.Prompt)
        return {"adapt": method, method: section(length=values["num_virtual_tokens"])}
    if isinstance(targets, str) and targets != "all-linear":
        raise UserError(f"{directory / CONFIG}: target_modules {targets!r} is a pattern; list the modules instead")
    for key in ("rank_pattern", "alpha_pattern", "layers_to_transform", "fan_in_fan_out"):
        if values.get(key) and (kind, key) != ("ADALORA", "rank_pattern"):
            raise UserError(f"{directory / CONFIG}: {key} is set, which is not supported; leave it out")
    if values.get("bias", "none") != "none":
        raise UserError(f"{directory / CONFIG}: bias is {values['bias']!r}; only none is supported")
    paths = () if isinstance(targets, str) else tuple(name.replace(".", "/") for name in targets or ())
    if kind == "IA3":
        fed = tuple(name.replace(".", "/") for name in values.get("feedforward_modules") or ())
        return {"adapt": "ia3", "ia3": config.IA3(inputs=fed, outputs=tuple(path for path in paths if path not in fed))}
    if kind == "ADALORA":
        first, last, dropout = values["init_r"], values["target_r"], values.get("lora_dropout", 0.0)
        return {"adapt": "adalora", "adalora": config.AdaLora(rank=first, target=last, dropout=dropout, targets=paths)}
    lora = config.Lora(
        rank=values["r"],
        alpha=float(values["lora_alpha"]),
        dropout=values.get("lora_dropout", 0.0),
        rslora=values.get("use_rslora", False),
        dora=values.get("use_dora", False),
        targets=paths,
    )
    return {"adapt": "lora", "lora": lora}


def adopted(experiment: config.Experiment) -> config.Experiment:
    """The experiment with the method, and its keys, of the adapter that training goes on from, if there is one.

    Raises:
      UserError: as `options`, or the experiment asks for another method.
    """
    if not experiment.model.adapter:
        return experiment
    found = options(Path(experiment.model.adapter).expanduser())
    if experiment.adapt not in ("full", found["adapt"]):
        raise UserError(
            f"config.adapt is {experiment.adapt!r}, but config.model.adapter {experiment.model.adapter} is of "
            f"{found['adapt']}; leave one of them out"
        )
    return config.check(dataclasses.replace(experiment, **found), data=False)


def held(directory: Path, composed: Program) -> set[str]:
    """Returns the paths of what learns that a directory has, those of the head among them.

    Raises:
      UserError: it cannot be read.
    """
    there, adapt = _stored(directory), _method(composed)
    bare = not composed.task.hf_class
    return {path for path in nn.flatten(composed.state.trainable) if _name(adapt, path, bare) in there}


def _method(composed: Program) -> str:
    return next((path.split("/")[0] for path in nn.flatten(composed.adaptation.spec)), "")


def _stored(directory: Path) -> dict[str, np.ndarray]:
    """The tensors of a directory."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = directory / WEIGHTS
    if not file.exists():
        raise UserError(f"no {WEIGHTS} in {directory}; is it the directory of an adapter?")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or cut short; fetch it again") from error


def read(directory: Path, composed: Program, start: Params) -> Params:
    """What learns, as a directory has it, placed as in the program's state.

    Args:
      start: where the directory lacks a part of the head (`peft` saves no pooler unless it is told to), this is taken.

    Raises:
      UserError: it is not of the program's method and sizes, or cannot be read.
    """
    file = directory / WEIGHTS
    there = _whole_ranks(read_json(directory / CONFIG), _stored(directory))
    adapt = _method(composed)
    added, found = nn.flatten(composed.adaptation.spec), nn.flatten(start)
    states, unused, bare = _states(added), set(there), not composed.task.hf_class
    for path, leaf in nn.flatten(composed.state.trainable).items():
        name = _name(adapt, path, bare)
        unused.discard(name)
        if _is_value(path) and name not in there:  # a LoRA
            found[path] = jnp.ones_like(found[path])
            continue
        if path not in added and name not in there:
            continue
        x = there.get(name)
        if x is not None and path in states and x.shape[1] % len(states) == 0:
            x = np.split(x, len(states), axis=1)[states.index(path)]
        if x is None or x.size != leaf.size:
            shape = "missing" if x is None else f"{list(x.shape)}"
            raise UserError(f"{file}: {name} is {shape}; {path} is {list(leaf.shape)} in this experiment")
        value = (x.T if _is_reversed(path) else x).reshape(leaf.shape)
        found[path] = jax.device_put(value.astype(np.float32), leaf.sharding)
    if unused:
        raise UserError(f"{file}: {min(unused)} has no place in the model of this experiment, as far as it learns")
    return nn.unflatten(found)


def _whole_ranks(values: Mapping[str, Any], there: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a directory; of AdaLoRA's the ranks that were cut are zeros again, and values hold the scale."""
    if values.get("peft_type") != "ADALORA":
        return dict(there)
    rank, found = values["init_r"], {}
    for name, x in there.items():
        part = name.rsplit(".", 1)[-1]
        if part in ("lora_A", "lora_B", "lora_E"):
            axis = int(part == "lora_B")
            x = np.pad(x, [(0, rank - size if i == axis else 0) for i, size in enumerate(x.shape)])
            name += "" if part == "lora_E" else ".weight"
        found[name] = x * (values["lora_alpha"] / (rank + 1e-5)) if part == "lora_E" else x
    return found


def average(adapters: Sequence[Params]) -> Params:
    """The mean of each parameter of several adapters of one kind that began from the same values."""
    return jax.tree.map(lambda *parts: sum(parts) / len(parts), *adapters)
