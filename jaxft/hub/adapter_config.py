"""adapter_config.json, in which Hugging Face's `peft` says what an adapter is: read or refused, and written.

Which layers have a correction, and of which rank, the tensors beside it say, whatever way of naming them was chosen
(`all-linear`, a regular expression, some layers alone). A key that is neither read nor known to change nothing in what
a trained adapter computes must be empty, so that none is ignored that would change an answer.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxft import config
from jaxft.adapt.base import layer_of, matches
from jaxft.errors import UserError, nearest
from jaxft.hub.directory import read_json

Shape = tuple[int, ...]
Values = Mapping[str, Any]

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
    "CausalLM": "CAUSAL_LM",
    "Chat": "CAUSAL_LM",
    "Preference": "CAUSAL_LM",
}
"""A task of `jaxft.config` -> `task_type`."""

INSIDE = "base_model.model."
"""What `peft` puts before the name of a module of the base model."""

FIRST = {"LORA": "lora_A", "ADALORA": "lora_A", "IA3": "ia3_l"}
"""`peft_type` -> the part of a correction that every layer with one has."""

READ = {
    *("peft_type", "task_type", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("feedforward_modules", "modules_to_save", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("use_dora", "lora_dropout", "init_r", "target_r", "deltaT", "beta1", "beta2", "orth_reg_weight"),
    *("num_virtual_tokens", "num_transformer_submodules", "bias", "init_lora_weights"),
}
"""Keys that are read, or refused by themselves."""

WITHOUT_EFFECT = {
    # Where it comes from.
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode"),
    # Sizes of the base model, which the shapes of the tensors tell.
    *("token_dim", "num_attention_heads", "num_layers"),
    # How parameters begin; the network that made a prefix, of which its outputs are saved.
    *("init_ia3_weights", "init_weights", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path"),
    *("tokenizer_kwargs", "encoder_hidden_size", "prefix_projection", "eva_config", "corda_config", "loftq_config"),
    "lora_ga_config",
    # AdaLoRA's schedule, which has ended.
    *("tinit", "tfinal", "total_step"),
    # Of layers that no model here has: transposed ones, those of Megatron, quantized ones (with use_qalora).
    *("fan_in_fan_out", "megatron_config", "megatron_core", "qalora_group_size", "runtime_config"),
    # Of embeddings that have a correction or are saved: they have no place here.
    "ensure_weight_tying",
}

KEEPING = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""`init_lora_weights` that leave the base model's weights as they are; others put a part of them into the adapter."""


METHODS = {
    **{kind: method for method, kind in TYPES.items() if method != "adalora"},
    "ADALORA": "adalora",
}
"""`peft_type` -> method."""


def method_of(directory: Path) -> str:
    """Returns the method of a directory.

    Raises:
      UserError: there is none, or it is of a method that is not known here.
    """
    file = directory / CONFIG
    if not file.exists():
        raise UserError(f"no {CONFIG} in {directory}; is it the directory of an adapter?")
    values = read_json(file)
    kind = values.get("peft_type")
    if kind not in METHODS:
        raise UserError(f"{file}: peft_type {kind!r} cannot be read; {nearest(str(kind), METHODS)}")
    method = values.get("method") if kind == "JAXFT" else METHODS[kind]
    if method not in TYPES or (kind == "JAXFT" and not isinstance(values.get("options"), Mapping)):
        raise UserError(f"{file}: it must hold `method` and `options`, as jaxft writes them; fetch it again")
    return method


def options(directory: Path) -> dict[str, Any]:
    """Returns the keys of an experiment that make the method of a directory: `Experiment(**options(directory))`.

    Raises:
      UserError: as `method_of`, or it has a setting that is not known here.
    """
    method, file, values = method_of(directory), directory / CONFIG, read_json(directory / CONFIG)
    kind = values["peft_type"]
    if kind == "JAXFT":
        return {"adapt": method, method: getattr(config.from_dict({method: values["options"]}), method)}
    _check(file, values)
    if kind in ("PREFIX_TUNING", "PROMPT_TUNING"):
        section = config.Prefix if method == "prefix" else config.Prompt
        return {"adapt": method, method: section(length=_number(file, values, "num_virtual_tokens", None))}
    layers = _layers(shapes(directory), FIRST[kind])
    inside = sorted(
        (name for name in layers if layer_of(_path(name)) is not None), key=lambda n: (layer_of(_path(n)), n)
    )
    if not inside:
        raise UserError(
            f"{directory / WEIGHTS}: no layer of the model's body has a {FIRST[kind]}; save the adapter again"
        )
    if kind == "IA3":
        return {"adapt": "ia3", "ia3": _ia3(values, inside, layers)}
    targets = _targets(values, inside)
    if kind == "ADALORA":
        return {"adapt": "adalora", "adalora": _adalora(file, values, targets)}
    rank, alpha = _number(file, values, "r", 8), float(_number(file, values, "lora_alpha", 8))
    rslora = bool(values.get("use_rslora"))
    if is_uneven(values):  # as reading makes them: of one rank, each with its scale in it
        rank = max(shape[0] for shape in layers.values())
        alpha = float(rank**0.5 if rslora else rank)
    dropout, dora = values.get("lora_dropout", 0.0), bool(values.get("use_dora"))
    lora = config.Lora(rank=rank, alpha=alpha, dropout=dropout, rslora=rslora, dora=dora, targets=targets)
    return {"adapt": "lora", "lora": lora}


def is_uneven(values: Values) -> bool:
    """Tells whether layers differ in the rank or the scale of their LoRA."""
    return values.get("peft_type") == "LORA" and bool(values.get("rank_pattern") or values.get("alpha_pattern"))


def rank_of(values: Values, module: str) -> int:
    """Returns the rank of a module's LoRA."""
    return _of_module(values.get("rank_pattern"), module, values.get("r", 8))


def scale(values: Values, module: str) -> float:
    """Returns the factor of a module's LoRA: alpha / rank, or alpha / sqrt(rank)."""
    rank, alpha = rank_of(values, module), _of_module(values.get("alpha_pattern"), module, values.get("lora_alpha", 8))
    return alpha / (rank**0.5 if values.get("use_rslora") else rank)


def factor(values: Values) -> float:
    """Returns the factor of all layers' LoRA, those of a directory where the tensors do not hold theirs."""
    return 1.0 if values.get("peft_type") != "LORA" or is_uneven(values) else scale(values, "")


def _of_module(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """What the first pattern says that fits: a regular expression for a module's name, or for its end after a point."""
    fits = (x for pattern, x in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(fits, otherwise)


def module_of(name: str) -> str:
    """Returns the module, as the base model names it, that a tensor of a correction is of."""
    return re.split(r"\.(?:lora_|ia3_l)", name.removeprefix(INSIDE))[0]


def shapes(directory: Path) -> dict[str, Shape]:
    """Returns the shape of each tensor of a directory.

    Raises:
      UserError: it has no tensors, or they cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    file = directory / WEIGHTS
    if not file.exists():
        raise UserError(f"no {WEIGHTS} in {directory}; is it the directory of an adapter?")
    try:
        with safe_open(file, "numpy") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or cut short; fetch it again") from error


def check_task(directory: Path, task: config.Task) -> None:
    """Makes sure that an adapter is of a task, as far as it says one.

    Raises:
      UserError: it says another.
    """
    said, wanted = read_json(directory / CONFIG).get("task_type"), TASKS.get(type(task).__name__)
    if said in TASKS.values() and said != wanted:
        kind = next(name for name, one in TASKS.items() if one == said)
        raise UserError(f"{directory / CONFIG}: task_type is {said}, that of {kind}; here it is {type(task).__name__}")


def _check(file: Path, values: Values) -> None:
    """Makes sure that no key has a value that would be ignored though it changes what the adapter computes."""
    if values.get("bias") not in (None, "none"):
        raise UserError(f"{file}: bias is {values['bias']!r}; only none is supported")
    if (first := values.get("init_lora_weights")) not in KEEPING:
        raise UserError(
            f"{file}: init_lora_weights is {first!r}, which has changed the base model's weights; save it as a LoRA of "
            "the unchanged ones (peft: save_pretrained(..., path_initial_model_for_weight_conversion=...))"
        )
    if values.get("num_transformer_submodules") not in (None, 1):
        raise UserError(f"{file}: num_transformer_submodules is {values['num_transformer_submodules']}; it must be 1")
    for key in sorted(values.keys() - READ - WITHOUT_EFFECT):
        if values[key] not in (None, False, "", [], {}):
            raise UserError(f"{file}: {key} is {str(values[key])[:40]}, which is not supported; leave it out")


def _number(file: Path, values: Values, key: str, default: Any) -> Any:
    value = values.get(key, default)
    if not isinstance(value, int | float) or value <= 0:
        raise UserError(f"{file}: {key} is {value!r}; it must be a number above 0")
    return value


def _layers(there: Mapping[str, Shape], part: str) -> dict[str, Shape]:
    """The modules that have a part of a correction, as `peft` names them, and its shape."""
    return {module_of(name): shape for name, shape in there.items() if f".{part}" in name}


def _path(module: str) -> str:
    return module.replace(".", "/")


def _targets(values: Values, inside: Sequence[str]) -> tuple[str, ...]:
    """Patterns for the layers of the body: the names that are given, where these say all, else the layers' own."""
    named = values.get("target_modules")
    if values.get("exclude_modules") or values.get("layers_to_transform") not in (None, [], ()):
        return tuple(map(_path, inside))
    if isinstance(named, str) and named.lower() == "all-linear":
        return ()
    if not isinstance(named, Sequence) or isinstance(named, str):
        return tuple(map(_path, inside))
    return tuple(path for path in map(_path, named) if any(matches(path, _path(layer)) for layer in inside))


def _adalora(file: Path, values: Values, targets: tuple[str, ...]) -> config.AdaLora:
    default = config.AdaLora()
    return config.AdaLora(
        rank=_number(file, values, "init_r", 12),
        target=_number(file, values, "target_r", 8),
        every=values.get("deltaT", default.every),
        beta1=values.get("beta1", default.beta1),
        beta2=values.get("beta2", default.beta2),
        orthogonality=values.get("orth_reg_weight", default.orthogonality),
        dropout=values.get("lora_dropout", 0.0),
        targets=targets,
    )


def _ia3(values: Values, inside: Sequence[str], layers: Mapping[str, Shape]) -> config.IA3:
    """Whether what goes into a layer is rescaled or what comes out of it: its vector is a row or a column."""
    named, fed = (values.get(key) or () for key in ("target_modules", "feedforward_modules"))
    if isinstance(named, str) or isinstance(fed, str) or not {*fed} <= {*named} or values.get("exclude_modules"):
        named, fed = inside, [name for name in inside if layers[name][0] == 1]
    there = [_path(name) for name in named if any(matches(_path(name), _path(layer)) for layer in inside)]
    inputs = tuple(path for path in there if path in map(_path, fed))
    return config.IA3(inputs=inputs, outputs=tuple(path for path in there if path not in inputs))


def written(experiment: config.Experiment, paths: Sequence[str], bare: bool) -> dict[str, Any]:
    """Returns the values of adapter_config.json.

    Args:
      paths: of what learns.
      bare: whether PyTorch's model is the body alone, which its own name is not put before.
    """
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
    layers = sorted({".".join(path.split("/")[1 + bare : -1]) for path in own})
    if method == "ia3":
        fed = [layer for layer in layers if any(matches(p, _path(layer)) for p in experiment.ia3.inputs)]
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
