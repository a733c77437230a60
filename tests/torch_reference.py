"""The same models and inputs as PyTorch has them: what jaxft's own are held against."""

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file
from support import assert_close, by_example, lay_out, ours, published

from jaxft import config, hub, models
from jaxft.data.batches import HostBatch
from jaxft.data.features import Features
from jaxft.models import Model
from jaxft.tasks import Task
from jaxft.types import Params


def load(directory: Path, task: Task, dropout: float | None = None) -> tuple[Model, Params]:
    """A Hugging Face model directory, by the way that a run takes."""
    model = models.build(hub.read_config(directory), dropout)
    spec, key = task.param_spec(model), jax.random.key(0)
    return model, hub.load_parameters(directory, spec, key=key, base_prefix=model.prefix)[0]


IN_TRANSFORMERS = {"new": "gte"}
"""Type of an architecture whose code is on the Hub -> that of transformers, which computes the same."""


def in_transformers(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the same architecture in transformers."""
    return {**hf, "model_type": IN_TRANSFORMERS.get(hf["model_type"], hf["model_type"])}


def torch_model(hf: Mapping[str, Any], task: Task, seed: int) -> Any:
    """A random model of the task's class in eval mode, none of its parameters zero or one."""
    import torch
    import transformers

    hf = in_transformers(hf)
    sizes = {**hf, **published(task)}
    generator = torch.Generator().manual_seed(seed)
    kind, settings = getattr(transformers, models.build(hf).hf_class(task.hf_class)), type(hf_settings(hf))
    bare = (
        {} if task.hf_class or "add_pooling_layer" not in signature(kind).parameters else {"add_pooling_layer": False}
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = kind(settings.from_dict(sizes, attn_implementation="eager"), **bare).eval()
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def hf_settings(hf: Mapping[str, Any]) -> Any:
    """The configuration of transformers that a config.json describes."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**hf)


def save(theirs: Any, directory: Path, hf: Mapping[str, Any]) -> None:
    """Writes the model as a checkpoint of the type of `hf`: one of code on the Hub calls type and body as that does."""
    theirs.save_pretrained(directory)
    here, there = models.build(in_transformers(hf)).prefix, models.build(hf).prefix
    if here != there:
        weights, settings = directory / "model.safetensors", directory / "config.json"
        save_file({renamed(name, here, there): x for name, x in load_file(weights).items()}, weights)
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_type": hf["model_type"]}))


def renamed(name: str, here: str, there: str) -> str:
    """The name of a tensor, with the body called otherwise."""
    return f"{there}{name.removeprefix(here)}" if name.startswith(f"{here}.") else name


def torch_inputs(features: Features, task: Task, length: int, pad: int = 0) -> dict[str, Any]:
    """The examples as the PyTorch model takes them, padded to `length` by the token `pad`."""
    import torch

    mask = np.arange(length) < features.lengths[:, None]
    arrays = {"attention_mask": mask.astype(np.int32)}
    for name, column in features.tokens.items():
        fill = task.targets[name].fill if name in task.targets else pad if name == "input_ids" else 0
        arrays[name] = np.full(mask.shape, fill, column.dtype)
        arrays[name][mask] = column
    arrays |= features.examples
    if isinstance(task.options, config.MultipleChoice):
        # [questions, choices, length], and the number of the right choice
        questions = int(arrays.pop("row").max()) + 1
        arrays = {name: array.reshape(questions, -1, *array.shape[1:]) for name, array in arrays.items()}
        arrays["labels"] = arrays["labels"].argmax(1)
    return {
        name: torch.tensor(array.astype(np.int64) if array.dtype == np.int32 else array)
        for name, array in arrays.items()
    }


def answers(task: Task, model: Any, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the PyTorch model makes of these inputs: its loss, and the outputs that the task has."""
    import torch

    if isinstance(task.options, config.SentenceEmbedding):
        return embedded(model, inputs)
    if isinstance(task.options, config.Preference):
        return preferred(model, inputs, task.options)
    if "row" in inputs and not isinstance(task.options, config.MultipleChoice):
        return of_windows(model, inputs)
    found = model(**read_by(model, inputs))
    if isinstance(task.options, config.CausalLM):
        return found.loss, following(found.logits.detach(), inputs["labels"])
    if not isinstance(task.options, config.MaskedLM):
        return found.loss, {name: found[name].detach() for name in task.outputs}
    pairs = isinstance(task.options, config.NextSentence)
    logits, labels = (found.prediction_logits if pairs else found.logits).detach(), inputs["labels"].clip(0)
    hidden = (inputs["labels"] >= 0).float()
    log_probs = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    outputs = {"log_probs": hidden * log_probs, "right": hidden * (logits.argmax(-1) == labels)}
    return found.loss, outputs | ({"next_logits": found.seq_relationship_logits.detach()} if pairs else {})


def preferred(model: Any, inputs: Mapping[str, Any], options: config.Preference) -> tuple[Any, dict[str, Any]]:
    """The log probability of each answer, and the mean loss of pairs by the formulas that TRL documents.

    A pair of which an answer has no token does not count.
    """
    import torch
    from torch.nn.functional import logsigmoid

    logits, labels = (
        model(**read_by(model, {name: inputs[name] for name in ("input_ids", "attention_mask")})).logits,
        inputs["labels"],
    )
    logits, labels = logits[:, :-1], labels[:, 1:]
    counted = labels >= 0
    log_probs = torch.log_softmax(logits, -1).gather(-1, labels.clip(0)[..., None])[..., 0]
    sums, tokens = (log_probs * counted).sum(-1), counted.sum(-1)
    means = options.loss != "dpo"
    chosen, rejected = ((sums / tokens) if means else sums).reshape(-1, 2).T
    if options.loss == "orpo":
        odds = (chosen - rejected) - (torch.log1p(-torch.exp(chosen)) - torch.log1p(-torch.exp(rejected)))
        losses = -chosen - options.beta * logsigmoid(odds)
    else:
        known = inputs["reference"] / tokens if means else inputs["reference"]
        ratios = (chosen - rejected) - (known[::2] - known[1::2])
        losses = -logsigmoid(options.beta * ratios) if not means else (ratios - 1 / (2 * options.beta)) ** 2
    return losses[(tokens.reshape(-1, 2) > 0).all(-1)].mean(), {"log_prob": sums.detach(), "counted": tokens.float()}


def following(logits: Any, labels: Any) -> dict[str, Any]:
    """What these scores say of the token behind each, at that token: nothing of the first one."""
    import torch

    logits, labels = logits[:, :-1], labels[:, 1:]
    counted = (labels >= 0).float()
    log_probs = torch.log_softmax(logits, -1).gather(-1, labels.clip(0)[..., None])[..., 0]
    found = {"log_probs": counted * log_probs, "right": counted * (logits.argmax(-1) == labels), "counted": counted}
    return {name: torch.nn.functional.pad(x, (1, 0)) for name, x in found.items()}


def read_by(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the inputs that the model takes: one that has no table of token types takes none.

    GPT-2 would add its embeddings of the words 0 and 1.
    """
    taken = signature(getattr(model, "get_base_model", lambda: model)().forward).parameters  # peft's takes anything
    typed = "token_type_ids" in taken and model.config.model_type != "gpt2"
    return {name: x for name, x in inputs.items() if name != "token_type_ids" or typed}


def of_windows(model: Any, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most of each class over the windows of a text, for each of them; and the loss, where a text counts once."""
    import torch

    rows, labels = inputs["row"], inputs["labels"]
    logits = model(**read_by(model, {k: x for k, x in inputs.items() if k not in ("row", "labels")})).logits
    of_texts = torch.stack([logits[rows == row].amax(0) for row in rows.unique()])
    loss = torch.nn.functional.cross_entropy(of_texts, torch.stack([labels[rows == row][0] for row in rows.unique()]))
    return loss, {"logits": of_texts[rows].detach()}


def embedded(model: Any, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The means over tokens, and how each first of two texts is told from all that are second."""
    import torch

    names = "input_ids", "attention_mask", "token_type_ids"
    hidden = model(**read_by(model, {name: inputs[name] for name in names}))[0]
    mask = inputs["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    logits = 20.0 * vectors[::2] @ vectors[1::2].T
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits))), {"embeddings": vectors.detach()}


def assert_parity(
    theirs: Any,
    inputs: Mapping[str, Any],
    task: Task,
    model: Model,
    params: Params,
    features: Features,
    host: HostBatch | None = None,
) -> None:
    """The two models on the same examples: theirs a row each, ours that or laid out as in `host`."""
    from transformers.core_model_loading import revert_weight_conversion

    host = host or lay_out(features, task, inputs["attention_mask"].shape[-1])
    loss, expected = answers(task, theirs, inputs)
    assert loss > 1e-3, "a loss of zero has no gradients to compare"
    loss.backward()
    prefix = "" if task.hf_class else f"{model.prefix}."
    value, outputs, own = ours(task, model, params, host.arrays)
    own = {hub.torch_name(path): g.T if hub.is_transposed(path) else g for path, g in own.items()}
    found = {}
    for parameter in theirs.parameters():  # one that is tied has several names
        names = [n for n, other in theirs.named_parameters(remove_duplicate=False) if other is parameter]
        known = (n for n in names if renamed(prefix + n, theirs.base_model_prefix, model.prefix) in own)
        found[next(known, names[0])] = parameter.grad
    # As they would be stored: one that is split in the class of transformers may be whole in a checkpoint.
    stored = {prefix + name: grad.numpy() for name, grad in revert_weight_conversion(theirs, found).items()}
    grads = {renamed(name, theirs.base_model_prefix, model.prefix): grad for name, grad in stored.items()}
    taken = by_example(outputs, task, host, features) | {"loss": value}
    expected["loss"] = loss.detach()
    mask = inputs["attention_mask"].bool()
    expected |= {name: expected[name][mask] for name, kind in task.outputs.items() if kind == "token"}
    if task.together:
        expected = {name: array.reshape(taken[name].shape) for name, array in expected.items()}
    assert_close(taken, {name: array.numpy() for name, array in expected.items()}, 1e-4)
    assert_close(own, grads, 1e-4, floor=1e-3)
