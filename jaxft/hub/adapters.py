"""What an adaptation has learned, as a small directory: adapter_config.json and adapter_model.safetensors.

LoRA, DoRA, AdaLoRA (as the LoRA that computes the same), IA3, prefixes and prompts are written in the format of Hugging
Face's `peft`, whose `PeftModel.from_pretrained` opens them in PyTorch, and read from it. Bottleneck adapters, for which
it has no format, are written with the names that parameters have here. Beside them lies jaxft.json, which says what the
outputs mean: the task with the names of its labels, and the thresholds that validation has chosen.
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
from jaxft.errors import UserError
from jaxft.hub import adapter_config
from jaxft.hub.adapter_config import CONFIG, TYPES, WEIGHTS, options
from jaxft.hub.directory import CARD, read_json
from jaxft.hub.export import fetch
from jaxft.hub.heads import AS_IT_STANDS, Fit
from jaxft.hub.weights import is_transposed, torch_name
from jaxft.models import nn
from jaxft.program import Program
from jaxft.types import Params

Tensors = Mapping[str, np.ndarray]

MEANING = "jaxft.json"

PARTS = {
    "a": "lora_A.weight",
    "b": "lora_B.weight",
    "value": "lora_E",
    "magnitude": "lora_magnitude_vector",
    "scale": "ia3_l",
}
VIRTUAL = "prompt_embeddings"
"""All of a prompt, `[length, embed]`; or of a prefix, `[length, layers * 2 * embed]`: those of layer 0, ..."""


COUNTED = ("ForSequenceClassification", "ForTokenClassification")
"""Ends of the names of Hugging Face classes whose heads have an output a label."""


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What the outputs of an adapter mean, and what it was trained to read.

    Attributes:
      task: with the labels in the order of the outputs.
      thresholds: those that validation has chosen, by name; see `jaxft.tables.Table.decide`.
      max_length, truncate: where its inputs are cut; see `config.Data`.
      frozen: the form that the base's parameters had beside it; see `config.Compute`.
    """

    task: config.Task
    thresholds: dict[str, float]
    max_length: int
    truncate: str
    frozen: str


def write(
    directory: Path,
    experiment: config.Experiment,
    trainable: Params,
    thresholds: Mapping[str, float] = {},
    card: str = "",
) -> None:
    """Writes the directory. Every process must call this; process 0 alone writes.

    Args:
      experiment: with everything in it that the data decided.
      thresholds: those that validation has chosen.
      card: the text of README.md; empty: there is none.
    """
    from safetensors.numpy import save_file

    flat = {path: np.asarray(fetch(x), np.float32) for path, x in nn.flatten(trainable).items()}
    if jax.process_index():
        return
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors(experiment, flat), directory / WEIGHTS, metadata={"format": "pt"})
    data = {key: getattr(experiment.data, key) for key in ("max_length", "truncate")}
    meaning = {"task": config.to_dict(experiment.task), "thresholds": dict(thresholds), "data": data}
    if experiment.compute.frozen != "float32":
        meaning["compute"] = {"frozen": experiment.compute.frozen}
    values = adapter_config.written(experiment, list(flat), _is_bare(experiment))
    for name, found in ((CONFIG, values), (MEANING, meaning)):
        text = json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (directory / name).write_text(text, encoding="utf-8")
    if card:
        (directory / CARD).write_text(card, encoding="utf-8")
    (directory / WEIGHTS).chmod((directory / CONFIG).stat().st_mode)  # save_file makes it private


def meaning(directory: Path) -> Meaning | None:
    """Returns what the outputs of an adapter mean; None: it does not say, as those of `peft` and of jaxft 0.1.0.

    Raises:
      UserError: what it says cannot be read.
    """
    file = directory / MEANING
    if not file.exists():
        return None
    values = read_json(file)
    if not all(isinstance(values.get(key), dict) for key in ("task", "thresholds", "data")):
        raise UserError(f"{file} must hold task, thresholds and data; it is of another version, or damaged")
    try:
        read = config.from_dict({key: values[key] for key in ("task", "data", "compute") if key in values})
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return Meaning(read.task, values["thresholds"], read.data.max_length, read.data.truncate, read.compute.frozen)


def named(meaning: Meaning) -> dict[str, Any]:
    """Returns the names of the outputs of an adapter's head as a config.json has them."""
    task = tasks.build(meaning.task)
    return {"architectures": [task.hf_class], "id2label": {str(i): name for i, name in enumerate(task.head_outputs)}}


def published(experiment: config.Experiment, inputs: Sequence[str]) -> dict[str, str]:
    """Returns what the card of an adapter says: `usage`, Python that predicts with it, and `library`, which loads it.

    Args:
      inputs: the columns that it reads.
    """
    base = json.dumps(experiment.model.path, ensure_ascii=False)
    if TYPES[experiment.adapt] == "JAXFT":
        row = "{" + ", ".join(f'"{column}": "A text."' for column in inputs) + "}"
        opened = f'jaxft.Predictor.open({base}, adapter="path/to/this/directory")'
        return {"library": "jaxft", "usage": f"import jaxft\n\npredict = {opened}\nprint(predict([{row}]))"}
    task = tasks.build(experiment.task)
    kind, outputs = task.hf_class, len(task.head_outputs)
    keys = f", num_labels={outputs}" if kind in COUNTED else "" if kind else ", add_pooling_layer=False"
    usage = f"""from peft import PeftModel
from transformers import AutoModel{kind}

base = AutoModel{kind}.from_pretrained({base}{keys})
model = PeftModel.from_pretrained(base, "path/to/this/directory")"""
    return {"library": "peft", "usage": usage}


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


def adopted(experiment: config.Experiment) -> config.Experiment:
    """The experiment with the method, and its keys, of the adapter that training goes on from, if there is one.

    Raises:
      UserError: as `options`, or the experiment asks for another method.
    """
    if not experiment.model.adapter:
        return experiment
    directory = Path(experiment.model.adapter).expanduser()
    if experiment.adapt not in ("full", method := adapter_config.method_of(directory)):
        raise UserError(
            f"config.adapt is {experiment.adapt!r}, but config.model.adapter {experiment.model.adapter} is of "
            f"{method}; leave one of them out"
        )
    return config.check(dataclasses.replace(experiment, **options(directory)), data=False)


def held(directory: Path, composed: Program) -> set[str]:
    """Returns the paths of what learns that a directory has, those of the head among them.

    Raises:
      UserError: it cannot be read.
    """
    there = adapter_config.shapes(directory)
    return {path for path, name in _names(composed).items() if name in there}


def _method(composed: Program) -> str:
    return next((path.split("/")[0] for path in nn.flatten(composed.adaptation.spec)), "")


def _stored(directory: Path) -> dict[str, np.ndarray]:
    """The tensors of a directory."""
    from safetensors.numpy import load_file

    adapter_config.shapes(directory)  # raises where they cannot be read
    return load_file(directory / WEIGHTS)


def read(directory: Path, composed: Program, start: Params, head: Fit = AS_IT_STANDS) -> Params:
    """Returns what learns, as a directory has it, placed as in the program's state.

    Args:
      start: where the directory lacks a part of the head (`peft` saves no pooler unless it is told to), this is taken.
      head: how the outputs of the adapter's head are taken; those that are new are of `start` too.

    Raises:
      UserError: it is not of the program's method and sizes, or cannot be read.
    """
    file, values = directory / WEIGHTS, read_json(directory / CONFIG)
    names, found = _names(composed), nn.flatten(start)
    added = nn.flatten(composed.adaptation.spec)
    there = _even(file, values, _stored(directory))
    beside = {path: name for path, name in names.items() if path not in added}
    _check_saved(file, values, there, beside.values())
    there = _with_whole_head(values, there, {name: (path, found[path]) for path, name in beside.items()})
    states, unused = _states(added), there.keys() - _idle(there, composed)
    for path, leaf in nn.flatten(composed.state.trainable).items():
        name = names[path]
        unused.discard(name)
        if _is_value(path) and name not in there:  # a LoRA
            found[path] = jnp.ones_like(found[path])
            continue
        if path in beside and (name not in there or (head.new and path in head.paths)):
            continue
        x = there.get(name)
        if x is not None and path in states and x.shape[1] % len(states) == 0:
            x = np.split(x, len(states), axis=1)[states.index(path)]
        if x is None or x.size != leaf.size:
            shape = "missing" if x is None else f"{list(x.shape)}"
            raise UserError(f"{file}: {name} is {shape}; {path} is {list(leaf.shape)} in this experiment")
        value = (x.T if _is_reversed(path) else x).reshape(leaf.shape)
        if head.order and path in head.paths:
            value = value[..., list(head.order)]
        found[path] = jax.device_put(value.astype(np.float32), leaf.sharding)
    if unused:
        raise UserError(f"{file}: {min(unused)} has no place in the model of this experiment, as far as it learns")
    return nn.unflatten(found)


def _names(composed: Program) -> dict[str, str]:
    """What `peft` calls each parameter that learns, by path."""
    adapt, bare = _method(composed), not composed.task.hf_class
    return {path: _name(adapt, path, bare) for path in nn.flatten(composed.state.trainable)}


def _even(file: Path, values: Mapping[str, Any], there: Tensors) -> dict[str, np.ndarray]:
    """The tensors of a directory, those of LoRA of one rank and scale in all layers.

    Ranks that a layer lacks are zeros, a scale of its own is multiplied into what comes last. Of AdaLoRA the scale is
    in the values between.
    """
    kind = values.get("peft_type")
    if kind != "ADALORA" and not adapter_config.is_uneven(values):
        return dict(there)
    first = {adapter_config.module_of(name): len(x) for name, x in there.items() if ".lora_A" in name}
    rank = values.get("init_r", 12) if kind == "ADALORA" else max(first.values())
    found = {}
    for name, x in there.items():
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part in ("lora_A", "lora_B", "lora_E"):
            axis = int(part == "lora_B")
            x = np.pad(x, [(0, rank - size if i == axis else 0) for i, size in enumerate(x.shape)])
        if part in ("lora_A", "lora_B") and kind == "ADALORA":
            name += ".weight"
        if part == "lora_E":
            alpha = values.get("lora_alpha", 8)
            x = x * ((alpha if alpha > 0 else rank) / (rank + 1e-5))
        if part == "lora_B" and kind == "LORA":
            module = adapter_config.module_of(name)
            own = adapter_config.rank_of(values, module)
            if own != first.get(module):
                raise UserError(f"{file}: lora_A of {module} has {first.get(module)} ranks; {CONFIG} says {own}")
            x = x * adapter_config.scale(values, module)
        found[name] = x
    return found


def _check_saved(file: Path, values: Mapping[str, Any], there: Tensors, head: Iterable[str]) -> None:
    """Makes sure that each part of the head that the adapter says to hold is there."""
    saved = {*(values.get("modules_to_save") or ())}
    for name in head:
        if name not in there and saved & {*name.split(".")}:
            raise UserError(f"{file}: {name} is missing, which modules_to_save says it holds; save the adapter again")


def _with_whole_head(
    values: Mapping[str, Any], there: Tensors, head: Mapping[str, tuple[str, Any]]
) -> dict[str, np.ndarray]:
    """The tensors with the corrections of the head's layers added to these, which learn as a whole here.

    `all-linear` of `peft` gives a pooler one.

    Args:
      head: name -> path and value, as training begins, of each of the head's parameters.
    """
    found = dict(there)
    for name, (path, x) in head.items():
        module = name.rpartition(".")[0]
        own = {part: there[key] for part in PARTS.values() if (key := f"{module}.{part}") in there}
        if not own:
            continue
        for part in own:
            found.pop(f"{module}.{part}", None)
        start = np.asarray(fetch(x))
        whole = there.get(name, start.T if _is_reversed(path) else start)
        found[name] = _corrected(whole, own, adapter_config.factor(values))
    return found


def _corrected(whole: np.ndarray, own: Tensors, factor: float) -> np.ndarray:
    """A layer's weight `[outputs, inputs]`, or its bias, with the correction that it has."""
    if (rescaling := own.get(PARTS["scale"])) is not None:
        if whole.ndim == 1:
            return whole * rescaling[:, 0] if len(rescaling) == len(whole) else whole
        return whole * rescaling
    if whole.ndim == 1:
        return whole
    a, b = own[PARTS["a"]], own[PARTS["b"]]
    whole = whole + factor * b @ (a * own.get(PARTS["value"], 1))
    if (lengths := own.get(PARTS["magnitude"])) is not None:
        whole = whole * (lengths / np.linalg.norm(whole, axis=1))[:, None]
    return whole


def _idle(there: Iterable[str], composed: Program) -> set[str]:
    """The tensors of a pooler, where the model has none: no output of it depends on one."""
    if any("/pooler/" in path for path in nn.flatten(composed.spec)):
        return set()
    return {name for name in there if ".pooler." in name}


def average(adapters: Sequence[Params]) -> Params:
    """The mean of each parameter of several adapters of one kind that began from the same values."""
    return jax.tree.map(lambda *parts: sum(parts) / len(parts), *adapters)
