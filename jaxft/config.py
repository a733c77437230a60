"""Every knob of an experiment: its name, type, default, meaning and bounds.

A config file returns an `Experiment`; `--config.section.key=value` changes it (ml_collections.config_flags sets the
attributes), then `check` verifies it and freezes it. Nothing here imports more than the standard library.
"""

# No `from __future__ import annotations`: config_flags reads the fields' types, which must not be strings.
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

from jaxft.errors import UserError, nearest

T = TypeVar("T")


def knob(default: T, doc: str, *, low: float | None = None, high: float | None = None, choices: tuple = ()) -> T:
    """A documented dataclass field with bounds (inclusive) or choices."""
    meta = {"doc": doc, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata=meta)  # pyright: ignore[reportReturnType]


@dataclass(kw_only=True)
class Section:
    """A group of knobs: plain attributes until `lock`, read-only afterwards."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in {f.name for f in dataclasses.fields(self)}:
            raise AttributeError(f"no key {name!r}; {nearest(name, keys(self))}")
        if self.__dict__.get("_frozen"):
            raise AttributeError(f"the experiment is frozen; make a changed copy: dataclasses.replace(..., {name}=...)")
        object.__setattr__(self, name, value)

    def lock(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Section):
                value.lock()
        object.__setattr__(self, "_frozen", True)


@dataclass(kw_only=True)
class Model(Section):
    path: str = knob("", "directory of a Hugging Face model, pkg://PACKAGE/PATH inside a pip package, or a Hub name")
    revision: str = knob("main", "branch, tag or commit, for a Hub name")
    dropout: float | None = knob(
        None, "rate of every dropout; none: as the checkpoint's config.json says", low=0, high=0.99
    )


@dataclass(kw_only=True)
class Task(Section):
    """What is learned; the knobs of each task are its subclass."""


@dataclass(kw_only=True)
class SequenceClassification(Task):
    """Classify or score a text or a pair of texts."""

    text: str = knob("text", "column with the text")
    text_pair: str = knob("", "column with the second text of a pair; empty: single texts")
    label: str = knob("label", "column with the label")
    labels: tuple[str, ...] = knob(
        (), "label names in the order of their ids; empty: those of the training data, sorted"
    )
    problem: str = knob(
        "auto",
        "what the label is; auto: multi_label where it is a list or in label_columns, else single_label",
        choices=("auto", "single_label", "multi_label", "regression"),
    )
    label_columns: tuple[str, ...] = knob((), "columns of 0 and 1, one a label, instead of `label`")
    delimiter: str = knob(",", "what separates labels in a text, for multi_label")
    thresholds: tuple[float, ...] = knob(
        (), "probability from which each label is predicted, for multi_label; empty: tuned on validation"
    )
    class_weights: tuple[float, ...] = knob(
        (), "weight of each label in the loss, for multi_label where it holds; empty: all 1, or `balanced`"
    )
    balanced: bool = knob(False, "class_weights by how rare a label is in the training data")
    label_smoothing: float = knob(0.0, "share of each target spread evenly over the classes", low=0, high=1)


@dataclass(kw_only=True)
class TokenClassification(Task):
    """Tag each word of a text: named entities, parts of speech."""

    tokens: str = knob("tokens", "column with the words: a list of them, or a text, which is cut into words")
    tags: str = knob("tags", "column with a tag a word, or, of a text, a list of spans {start, end, label}")
    labels: tuple[str, ...] = knob((), "tags in the order of their ids; empty: those of the training data, sorted")
    problem: str = knob(
        "auto", "what tags say; auto: entities where all are like O and B-PER", choices=("auto", "entities", "words")
    )
    scheme: str = knob("", "turn entities into this scheme; empty: as they are", choices=("", "IOB1", "IOB2", "BIOES"))
    stride: int = knob(32, "tokens that two windows of an input longer than max_length share", low=0)


@dataclass(kw_only=True)
class QuestionAnswering(Task):
    """Find the answer to a question in a text."""

    question: str = knob("question", "column with the question")
    context: str = knob("context", "column with the text that holds the answer")
    answers: str = knob("answers", "column with the answers, as SQuAD has them, or with the text of the one answer")
    answer_start: str = knob("answer_start", "column with the character that a text in `answers` begins at")
    unanswerable: str = knob(
        "auto", "whether a text may hold no answer; auto: as in the training data", choices=("auto", "yes", "no")
    )
    null_threshold: float | None = knob(
        None, "no answer where [CLS] scores higher than the best span by more than this; none: tuned on validation"
    )
    stride: int = knob(128, "tokens that two windows of a longer text share", low=0)
    question_length: int = knob(64, "longest question in tokens; longer ones are cut", low=1)
    answer_length: int = knob(30, "longest answer in tokens", low=1)
    n_best: int = knob(20, "best answers that predictions list", low=1)
    unit: str = knob(
        "words", "what F1 counts; words: as SQuAD, characters: of Chinese, as CMRC", choices=("words", "characters")
    )


@dataclass(kw_only=True)
class MaskedLM(Task):
    """Learn the language of a text: guess tokens that are hidden in it."""

    text: str = knob("text", "column with the text; rows are put one after the other, and cut at data.max_length")
    mask_fraction: float = knob(0.15, "share of the tokens of an example that are hidden", low=0.01, high=0.9)
    whole_words: bool = knob(False, "hide all tokens of a word together")


@dataclass(kw_only=True)
class MultipleChoice(Task):
    """Choose the best of several continuations of a text, or answers to a question about it."""

    context: str = knob("context", "column with the text")
    question: str = knob("", "column with a question, or the words that each choice goes on from; empty: none")
    choices: tuple[str, ...] = knob(("choices",), "column with a list of the choices, or a column a choice")
    label: str = knob("label", "column with the right choice: its number from 0, its letter from A, or its text")


@dataclass(kw_only=True)
class SentenceEmbedding(Task):
    """Turn texts into vectors that are near each other where the texts belong together."""

    texts: tuple[str, ...] = knob(
        ("anchor", "positive"), "columns with texts that belong together; a third one does not belong to the first"
    )
    score: str = knob("", "column with the cosine of two texts, -1 to 1; empty: texts of other rows are unlike")
    pooling: str = knob("mean", "a text's vector: the mean over its tokens, or that of [CLS]", choices=("mean", "cls"))
    scale: float = knob(20.0, "factor of cosines in the softmax, 1 / temperature", low=0)


METHODS = ("full", "freeze", "bitfit", "lora", "adalora", "adapter", "ia3", "prefix")
"""What `Experiment.adapt` may be: which parameters learn."""

TASKS: dict[str, type[Task]] = {
    "sequence_classification": SequenceClassification,
    "token_classification": TokenClassification,
    "question_answering": QuestionAnswering,
    "masked_lm": MaskedLM,
    "multiple_choice": MultipleChoice,
    "sentence_embedding": SentenceEmbedding,
}


@dataclass(kw_only=True)
class Freeze(Section):
    """adapt=freeze: a part of the model learns, and the head with the pooler below it."""

    last_layers: int = knob(1, "so many of the last layers learn; -1: all of them", low=-1)
    embeddings: bool = knob(False, "the embeddings learn")
    learn: tuple[str, ...] = knob((), "parts of the paths of parameters that learn besides: ('LayerNorm', 'layer/0')")
    still: tuple[str, ...] = knob((), "parts of the paths of parameters that do not learn, whatever else is said")


@dataclass(kw_only=True)
class Lora(Section):
    """adapt=lora: corrections of low rank to dense layers (Hu et al. 2022)."""

    rank: int = knob(8, "of each correction", low=1)
    alpha: float = knob(16.0, "corrections are multiplied by alpha / rank", low=0)
    dropout: float = knob(0.0, "rate of dropout of what goes into the corrections", low=0, high=0.99)
    targets: tuple[str, ...] = knob(
        (), "parts of the paths of dense layers: ('query', 'value'); empty: all of the body"
    )
    rslora: bool = knob(False, "alpha / sqrt(rank) instead (Kalajdzievski 2023): for ranks of 32 and more")
    dora: bool = knob(
        False, "the lengths of the columns of weights learn apart from their directions (Liu et al. 2024)"
    )


@dataclass(kw_only=True)
class AdaLora(Section):
    """adapt=adalora: corrections of low rank that share a budget of ranks (Zhang et al. 2023)."""

    rank: int = knob(12, "of each correction at first", low=1)
    target: int = knob(8, "ranks a layer that are left, on average", low=1)
    start: float = knob(0.1, "share of all steps before the first ranks are cut", low=0, high=1)
    end: float = knob(0.3, "share of all steps after the last ranks are cut", low=0, high=1)
    every: int = knob(10, "steps between two cuts", low=1)
    beta1: float = knob(0.85, "decay of the average importance", low=0, high=1)
    beta2: float = knob(0.85, "decay of the average distance from it", low=0, high=1)
    orthogonality: float = knob(0.5, "weight of the penalty that keeps ranks apart", low=0)
    dropout: float = knob(0.0, "rate of dropout of what goes into the corrections", low=0, high=0.99)
    targets: tuple[str, ...] = knob(
        (), "parts of the paths of dense layers: ('query', 'value'); empty: all of the body"
    )


@dataclass(kw_only=True)
class Adapter(Section):
    """adapt=adapter: small layers between those of the model (Houlsby et al. 2019, Pfeiffer et al. 2021)."""

    size: int = knob(48, "hidden units of an adapter", low=1)
    activation: str = knob("gelu", "of the hidden units", choices=("gelu", "relu", "silu", "tanh"))
    placement: str = knob(
        "pfeiffer", "after each feed-forward layer; houlsby: after attention too", choices=("pfeiffer", "houlsby")
    )
    targets: tuple[str, ...] = knob((), "parts of the paths of dense layers to stand behind instead")


@dataclass(kw_only=True)
class IA3(Section):
    """adapt=ia3: keys, values and hidden units are rescaled (Liu et al. 2022)."""

    outputs: tuple[str, ...] = knob(("key", "value"), "parts of the paths of dense layers whose outputs are rescaled")
    inputs: tuple[str, ...] = knob(("layer/*/output/dense",), "and of those whose inputs are")


@dataclass(kw_only=True)
class Prefix(Section):
    """adapt=prefix: keys and values before those of each example (Li and Liang 2021)."""

    length: int = knob(16, "keys and values a layer", low=1)
    targets: tuple[str, ...] = knob(("key", "value"), "parts of the paths of the layers that make keys and values")


@dataclass(kw_only=True)
class Data(Section):
    source: str = knob(
        "", "a file (CSV, TSV, JSON lines, Parquet, CoNLL, text), a folder, pkg://PACKAGE/PATH, or a Hub name"
    )
    subset: str = knob("", "configuration of a Hub dataset, e.g. sst2 of nyu-mll/glue")
    train: str = knob("train", "name of the training split, or its file below `source`")
    validation: str = knob(
        "validation", "split to select the best checkpoint on; where there is none it is carved off training"
    )
    test: str = knob("test", "split to test on at the end; empty or absent: none, unless test_examples carves one")
    encoding: str = knob("utf-8", "character encoding of CSV, JSON and text files")
    columns: tuple[str, ...] = knob(
        (), "column names of CSV/TSV files without a header line, or of CoNLL files (else tokens, ..., tags)"
    )
    validation_fraction: float = knob(
        0.1,
        "share of training data to carve off where there is no validation split; 0: none, the last step is exported",
        low=0,
        high=0.9,
    )
    train_examples: int = knob(0, "use at most so many training examples; 0: all", low=0)
    validation_examples: int = knob(
        0, "use (or carve off) at most so many validation examples; 0: all, or the fraction", low=0
    )
    test_examples: int = knob(0, "use (or carve off) at most so many test examples; 0: all, carve none", low=0)
    max_length: int = knob(128, "longest input in tokens, special tokens included; longer ones are cut", low=4)
    packing: str = knob("auto", "rows of a batch; auto: several examples a row, off: one", choices=("auto", "off"))
    group_by_length: bool = knob(False, "put examples of like length into one batch (for packing=off)")
    shapes: int = knob(4, "how many batch shapes a run may compile", low=1, high=16)
    workers: int = knob(2, "threads that prepare batches ahead", low=1)
    cache: str = knob("~/.cache/jaxft", "folder of the tokenized data and of compiled programs; empty: none")


@dataclass(kw_only=True)
class Optimizer(Section):
    """AdamW (Loshchilov and Hutter 2019) with linear warmup."""

    learning_rate: float = knob(2e-5, "peak learning rate", low=0)
    schedule: str = knob("linear", "decay after warmup, down to zero", choices=("linear", "cosine", "constant"))
    warmup: float = knob(0.1, "below 1: share of all steps; 1 and above: steps", low=0)
    weight_decay: float = knob(0.01, "decoupled weight decay; biases and LayerNorm are left out", low=0)
    b1: float = knob(0.9, "decay of the first moment", low=0, high=1)
    b2: float = knob(0.999, "decay of the second moment", low=0, high=1)
    eps: float = knob(1e-8, "added to the root of the second moment", low=0)
    clip_norm: float = knob(1.0, "largest global norm of the gradient; 0: no clipping", low=0)
    layer_decay: float = knob(1.0, "each layer learns at so much of the rate of the one above it", low=0, high=1)
    unfreeze_every: int = knob(
        0, "steps after which one layer more begins to learn, from the head down; 0: all learn at once", low=0
    )


@dataclass(kw_only=True)
class Train(Section):
    batch_size: int = knob(32, "examples a step, over all devices", low=1)
    accumulate: int = knob(1, "split each batch into so many parts computed one after the other, to save memory", low=1)
    epochs: float = knob(3.0, "passes over the training data", low=0)
    steps: int = knob(0, "steps; 0: as many as `epochs` make", low=0)
    log_every: int = knob(20, "steps between two lines of training metrics", low=1)
    eval_every: int = knob(0, "steps between two evaluations; 0: once an epoch", low=0)
    save_every: int = knob(0, "steps between two checkpoints beside those at evaluations; 0: none", low=0)
    keep: int = knob(2, "checkpoints kept beside the best one", low=1)
    metric: str = knob("", "validation metric that selects the best checkpoint; empty: the task's own")
    patience: int = knob(0, "stop after so many evaluations without a better one; 0: never", low=0)
    max_skipped: int = knob(20, "stop after so many non-finite steps in a row", low=1)


@dataclass(kw_only=True)
class Mesh(Section):
    """How many devices lie along each axis; -1: all that remain. The product is the number of devices."""

    data: int = knob(-1, "data-parallel: rows are split, parameters copied", low=-1)
    fsdp: int = knob(1, "fully sharded data-parallel: rows and parameters are split", low=-1)
    tensor: int = knob(1, "tensor-parallel: heads, hidden units and vocabulary are split", low=-1)
    rules: tuple[str, ...] = knob(
        (),
        "split otherwise: a logical axis (mlp=none, embed=fsdp+tensor), or each dimension of the parameters whose path "
        "a pattern matches (.*/kernel=fsdp|tensor); see docs/sharding.md",
    )


@dataclass(kw_only=True)
class Compute(Section):
    dtype: str = knob(
        "float32", "dtype of activations and matmuls; parameters stay float32", choices=("float32", "bfloat16")
    )
    attention: str = knob(
        "xla",
        "pallas: on TPUs by one kernel that keeps scores out of memory, where a device's heads make up a multiple of "
        "128 columns and rows have at most 768 positions; else, and elsewhere, as xla",
        choices=("xla", "pallas"),
    )
    remat: bool = knob(False, "recompute each layer's activations in the backward pass, to save memory")
    scan: bool = knob(False, "compute the layers as a loop: the step compiles in a fraction of the time")
    dropout: str = knob("hash", "generator of dropout masks; hash is the cheaper one", choices=("hash", "threefry"))


@dataclass(kw_only=True)
class Experiment(Section):
    """One fine-tuning run."""

    name: str = knob("", "shown in logs and in the report")
    seed: int = knob(0, "of data order, new parameters and dropout", low=0)
    model: Model = dataclasses.field(default_factory=Model)
    task: Task = dataclasses.field(default_factory=SequenceClassification)
    adapt: str = knob(
        "full", "which parameters learn; each method's own keys are in the section of its name", choices=METHODS
    )
    freeze: Freeze = dataclasses.field(default_factory=Freeze)
    lora: Lora = dataclasses.field(default_factory=Lora)
    adalora: AdaLora = dataclasses.field(default_factory=AdaLora)
    adapter: Adapter = dataclasses.field(default_factory=Adapter)
    ia3: IA3 = dataclasses.field(default_factory=IA3)
    prefix: Prefix = dataclasses.field(default_factory=Prefix)
    data: Data = dataclasses.field(default_factory=Data)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train: Train = dataclasses.field(default_factory=Train)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    compute: Compute = dataclasses.field(default_factory=Compute)


RESUMABLE = (
    "name",
    "mesh",
    "compute",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "data.workers",
    "data.cache",
)
"""Keys that may change between two starts of one run: they say how it is computed and shown, not what."""


def walk(section: Section, prefix: str = "") -> Iterator[tuple[str, Section, dataclasses.Field]]:
    """Every knob as `(dotted key, the section that holds it, its field)`."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if isinstance(value, Section):
            yield from walk(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, section, field


def keys(section: Section) -> list[str]:
    return [key for key, _, _ in walk(section)]


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(kind)[0]) for v in value)
    if type(None) in get_args(kind):
        return value is None or _fits(value, get_args(kind)[0])
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def meaning(field: dataclasses.Field) -> str:
    """What the value of a knob must be: `of type int (examples a step, over all devices)`."""
    kind = field.type if get_args(field.type) else getattr(field.type, "__name__", field.type)
    written = ", written a,b or \"('a', 'b')\"" if get_origin(field.type) is tuple else ""
    return f"of type {kind}{written} ({field.metadata['doc']})"


def check_sections(experiment: Experiment) -> None:
    """Verifies that each group of keys is one.

    Raises:
      UserError: naming the group and what it is instead.
    """
    for field in dataclasses.fields(experiment):
        value, kind = getattr(experiment, field.name), field.type
        if "doc" not in field.metadata and not isinstance(value, kind):  # pyright: ignore[reportArgumentType]
            name = getattr(kind, "__name__", kind)
            raise UserError(f"config.{field.name} is a {type(value).__name__}; it must be a {name} of jaxft.config")


def check(experiment: Experiment, data: bool = True) -> Experiment:
    """Verifies types, bounds and choices, then freezes the experiment and returns it.

    Args:
      data: whether the experiment must name its data.

    Raises:
      UserError: naming the key, its value and what it may be.
    """
    check_sections(experiment)
    for key, holder, field in walk(experiment):
        value, meta = getattr(holder, field.name), field.metadata
        if not _fits(value, field.type):
            raise UserError(f"config.{key} is {value!r}; it must be {meaning(field)}")
        if meta["choices"] and value not in meta["choices"]:
            raise UserError(f"config.{key} is {value!r}; {nearest(str(value), meta['choices'])}")
        for bound, ok in (("low", lambda v, b: v >= b), ("high", lambda v, b: v <= b)):
            if value is not None and meta[bound] is not None and not ok(value, meta[bound]):
                word = "at least" if bound == "low" else "at most"
                raise UserError(f"config.{key} is {value}; it must be {word} {meta[bound]} ({meta['doc']})")
    for key, value in (("model.path", experiment.model.path), ("data.source", experiment.data.source)):
        if not value and (data or key != "data.source"):
            raise UserError(f"config.{key} is empty; set it in the config file or by --config.{key}=...")
    if experiment.train.steps == 0 and experiment.train.epochs == 0:
        raise UserError("config.train.steps and config.train.epochs are both 0; set one of them")
    experiment.lock()
    return experiment


def to_dict(section: Section) -> dict[str, Any]:
    """The experiment as plain JSON values; a task also says its name."""
    plain = {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}
    kinds: dict[type, str] = {cls: kind for kind, cls in TASKS.items()}
    named = {"kind": kinds[type(section)]} if type(section) in kinds else {}
    return named | {
        k: to_dict(v) if isinstance(v, Section) else list(v) if isinstance(v, tuple) else v for k, v in plain.items()
    }


def from_dict(plain: Mapping[str, Any]) -> Experiment:
    """The inverse of `to_dict`.

    Raises:
      UserError: an unknown key or task (a config.json of another version).
    """

    def build(cls: Any, values: Mapping[str, Any]) -> Any:
        values = dict(values)
        kind = values.pop("kind", None)
        if kind is not None:
            if kind not in TASKS:
                raise UserError(f"unknown task {kind!r} in config.json; {nearest(kind, TASKS)}")
            cls = TASKS[kind]
        fields = {f.name: f.type for f in dataclasses.fields(cls)}
        for name in values.keys() - fields.keys():
            raise UserError(f"unknown key {name!r} in config.json; {nearest(name, fields)}")
        return cls(**{
            k: build(fields[k], v) if isinstance(v, Mapping) else tuple(v) if isinstance(v, list) else v
            for k, v in values.items()
        })  # fmt: skip

    return build(Experiment, plain)


def defining(experiment: Experiment) -> dict[str, Any]:
    """The keys that say what is computed, not how, with their values."""
    flat = {key: getattr(holder, field.name) for key, holder, field in walk(experiment)}
    return {k: v for k, v in flat.items() if not any(k == r or k.startswith(r + ".") for r in RESUMABLE)}


def differences(a: Experiment, b: Experiment) -> list[str]:
    """The keys, resumable ones left out, in which two experiments differ: `key: VALUE in a, VALUE in b`."""
    there, here = defining(a), defining(b)
    return [
        f"{k}: {there.get(k)!r} there, {here.get(k)!r} here" for k in {**there, **here} if there.get(k) != here.get(k)
    ]
