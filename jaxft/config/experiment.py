"""One fine-tuning run: its knobs and those of its parts."""

# No `from __future__ import annotations`: config_flags reads the fields' types, which must not be strings.
import dataclasses
from dataclasses import dataclass

from jaxft.config.adapt import IA3, METHODS, AdaLora, Adapter, Freeze, Lora, Mixout, Prefix, Prompt
from jaxft.config.base import Section, knob
from jaxft.config.objective import Objective
from jaxft.config.tasks import SequenceClassification, Task


@dataclass(kw_only=True)
class Model(Section):
    path: str = knob("", "directory of a Hugging Face model, pkg://PACKAGE/PATH inside a pip package, or a Hub name")
    revision: str = knob("main", "branch, tag or commit, for a Hub name")
    adapter: str = knob(
        "",
        "directory of an adapter of this model, of jaxft or peft, that training goes on from; `adapt` and the keys of "
        "the method become those that it has",
    )
    head: str = knob(
        "auto",
        "auto: the checkpoint's head where it is one of the task's class and has its labels, by name if it names them, "
        "else a new one; load: that head as it stands; new: a new one",
        choices=("auto", "load", "new"),
        since="0.2.0",
    )
    reinit: int = knob(
        0, "layers at the top, and a pooler above them, that begin anew rather than pretrained", low=0, since="0.2.0"
    )
    dropout: float | None = knob(
        None, "rate of every dropout; none: as the checkpoint's config.json says", low=0, high=0.99
    )


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
    delimiter: str = knob(
        "",
        "what separates the cells of CSV/TSV files; empty: a comma or a tab, or else ; , tab or | as the header tells",
        since="0.2.0",
    )
    columns: tuple[str, ...] = knob(
        (), "column names of CSV/TSV files without a header line, or of CoNLL files (else tokens, ..., tags)"
    )
    validation_fraction: float = knob(
        0.1,
        "share of training data to carve off where there is no validation split; 0: none, the last step is exported",
        low=0,
        high=0.9,
    )
    documents: bool = knob(False, "rows of text files (.txt) are what blank lines set apart; else lines")
    train_examples: int = knob(0, "use at most so many training examples; 0: all", low=0)
    validation_examples: int = knob(
        0, "use (or carve off) at most so many validation examples; 0: all, or the fraction", low=0
    )
    test_examples: int = knob(0, "use (or carve off) at most so many test examples; 0: all, carve none", low=0)
    augment: int = knob(
        0,
        "copies of each training row with a few words changed (EDA), for SequenceClassification",
        low=0,
        since="0.2.0",
    )
    augment_share: float = knob(0.1, "share of the words that are changed there", low=0, high=1, since="0.2.0")
    synonyms: str = knob(
        "", "file with a word a line and its synonyms, set off by tabs, for `augment`; empty: none", since="0.2.0"
    )
    unlabelled: str = knob(
        "",
        "a file of texts without labels that SequenceClassification learns from too, by objective.teacher or "
        "objective.uda; empty: none",
        since="0.2.0",
    )
    unlabelled_share: float = knob(
        0.0,
        "share of what an epoch draws that are such texts; 0: in proportion",
        low=0,
        high=0.99,
        since="0.2.0",
    )
    max_length: int = knob(128, "longest input in tokens, special tokens included; longer ones are cut", low=4)
    truncate: str = knob(
        "head",
        "what is kept of a text that is cut; head+tail: a quarter from its beginning, the rest from its end. Of pairs "
        "the longer text is cut first, until both are of one length",
        choices=("head", "tail", "head+tail"),
        since="0.2.0",
    )
    packing: str = knob("auto", "rows of a batch; auto: several examples a row, off: one", choices=("auto", "off"))
    group_by_length: bool = knob(False, "put examples of like length into one batch (for packing=off)")
    shapes: int = knob(4, "how many batch shapes a run may compile", low=1, high=16)
    workers: int = knob(2, "threads that prepare batches ahead", low=1)
    cache: str = knob("~/.cache/jaxft", "folder of the tokenized data and of compiled programs; empty: none")


@dataclass(kw_only=True)
class Optimizer(Section):
    """An optimizer with linear warmup; AdamW (Loshchilov and Hutter 2019) if no other is named."""

    name: str = knob(
        "adamw",
        "adamw, adafactor (factored second moments), lion (signs; wants a tenth of the rate), lamb (large batches), "
        "muon (orthogonal updates of matrices, AdamW for the rest) or sgd (momentum b1)",
        choices=("adamw", "adafactor", "lion", "lamb", "muon", "sgd"),
        since="0.2.0",
    )
    learning_rate: float = knob(2e-5, "peak learning rate", low=0)
    schedule: str = knob(
        "linear",
        "decay after warmup, down to zero; wsd: constant, then linear decay; inverse_sqrt, constant: never zero",
        choices=("linear", "cosine", "constant", "wsd", "inverse_sqrt", "polynomial", "restarts"),
    )
    wsd_decay: float = knob(
        0.2, "schedule=wsd: share of the steps after warmup in which the rate falls", low=0, high=1, since="0.2.0"
    )
    power: float = knob(2.0, "schedule=polynomial: its exponent", low=0, since="0.2.0")
    cycles: int = knob(
        2, "schedule=restarts: how often the cosine starts anew, the first time included", low=1, since="0.2.0"
    )
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
    l2_sp: float = knob(
        0.0,
        "decoupled decay of the body's matrices towards where they began, not to zero; 0: weight_decay is for them too",
        low=0,
        since="0.2.0",
    )
    ema: float = knob(
        0.0,
        "decay of an exponential moving average of the parameters, which is evaluated and exported; 0: the last are",
        low=0,
        high=0.99999,
        since="0.2.0",
    )
    swa: float = knob(
        0.0,
        "share of the steps, the last ones, whose parameters' mean is evaluated and exported; 0: the last are",
        low=0,
        high=1,
        since="0.2.0",
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
        "float32",
        "dtype of activations and matmuls; parameters that learn stay float32",
        choices=("float32", "bfloat16"),
    )
    attention: str = knob(
        "auto",
        "auto: by the platform's kernel, which keeps scores out of memory, where it serves and agrees with plain "
        "attention at the start (TPU: Pallas; GPU: cuDNN, in bfloat16 without dropout of attention); xla: plain",
        choices=("auto", "xla"),
    )
    frozen: str = knob(
        "float32",
        "how parameters that do not learn are kept: bfloat16; int8, a byte for a number of a matrix; nf4, half a byte "
        "(QLoRA); they are widened where they are used",
        choices=("float32", "bfloat16", "int8", "nf4"),
        since="0.2.0",
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
    mixout: Mixout = dataclasses.field(default_factory=Mixout)
    freeze: Freeze = dataclasses.field(default_factory=Freeze)
    lora: Lora = dataclasses.field(default_factory=Lora)
    adalora: AdaLora = dataclasses.field(default_factory=AdaLora)
    adapter: Adapter = dataclasses.field(default_factory=Adapter)
    ia3: IA3 = dataclasses.field(default_factory=IA3)
    prefix: Prefix = dataclasses.field(default_factory=Prefix)
    prompt: Prompt = dataclasses.field(default_factory=Prompt)
    data: Data = dataclasses.field(default_factory=Data)
    objective: Objective = dataclasses.field(default_factory=Objective)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train: Train = dataclasses.field(default_factory=Train)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    compute: Compute = dataclasses.field(default_factory=Compute)


RESUMABLE = (
    "name",
    "mesh",
    "compute.dtype",
    "compute.attention",
    "compute.remat",
    "compute.scan",
    "compute.dropout",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "data.workers",
    "data.cache",
)
"""Keys that may change between two starts of one run: they say how it is computed and shown, not what."""

EXTENDABLE = ("train.epochs", "train.steps", "train.patience")
"""Keys that say how long a run is: by them it may be made longer (--extend)."""
