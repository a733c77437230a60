"""The interface of a task.

A task is a value with two sides. The loss side is pure and traced by jit: `param_spec`, `forward`, `loss`. The data
side runs on the host: `features` of a table, `metrics` and `predictions` of the outputs. A row of the table (a text, a
sentence, a question) may become several examples of the model, such as the windows of a long text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from jaxft.batch import Target
from jaxft.models import Model, nn
from jaxft.types import Array, Batch, Outputs, Params

if TYPE_CHECKING:
    from jaxft.data.features import Features
    from jaxft.data.sources import Split

Host = Mapping[str, np.ndarray]
"""Outputs by name: `[examples, ...]` or, per token, `[tokens, ...]`, flat as in `Features`."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Of `[n, classes]`, in float64."""
    e = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Elementwise, in float64."""
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


Vary = Callable[["Features", np.ndarray, int, int], "Features"]
"""`(features of some examples, their numbers [n], seed, epoch) -> ` the same examples, as that epoch sees them."""


class Steady:
    """A part of a task: nothing to decide, examples that do not change and are each by itself, no further files.

    Its `forward` reads the model's inputs alone.
    """

    reads: tuple[str, ...] = ()
    lower: frozenset[str] = frozenset()
    numbers: Mapping[str, float] = MappingProxyType({})
    vary: Vary | None = None
    together: bool = False
    words: bool = False

    def decide(self, thresholds: Mapping[str, float]) -> Any:
        return self

    def with_numbers(self, numbers: Mapping[str, Array]) -> Any:
        return self

    def tied(self: Any, model: Model) -> tuple[str, ...]:
        return ()

    def places(self: Any, model: Model, path: str, lengths: np.ndarray) -> np.ndarray:
        return lengths if set(self.outputs.values()) == {"token"} else np.ones_like(lengths)

    def files(self, model: Model, max_length: int) -> dict[str, Any]:
        return {}


@runtime_checkable
class Task(Protocol):
    """What `compose`, the data path and the evaluation ask of a task."""

    @property
    def options(self) -> Any:
        """The section of the experiment that it was built from."""
        ...

    @property
    def targets(self) -> Mapping[str, Target]:
        """The arrays that `loss` reads from a batch; `features` makes a column for each."""
        ...

    @property
    def reads(self) -> Sequence[str]:
        """Those of the targets that `forward` reads too: without them there are no outputs."""
        ...

    @property
    def outputs(self) -> Mapping[str, str]:
        """What `forward` returns, each "example" (`[rows, slots, ...]`) or "token" (`[rows, length, ...]`)."""
        ...

    @property
    def together(self) -> bool:
        """Whether the examples of a row of the table lie side by side in one row of a batch: the loss compares them."""
        ...

    @property
    def words(self) -> bool:
        """Whether `features` hands the tokenizer lists of words rather than texts."""
        ...

    @property
    def metric(self) -> str:
        """The metric that selects the best checkpoint."""
        ...

    @property
    def lower(self) -> frozenset[str]:
        """The names of its metrics of which less is better. The loss, which every run has, is none of them."""
        ...

    @property
    def inputs(self) -> Sequence[str]:
        """The columns that it predicts from, the first for lines of text; rows that agree in them are the same."""
        ...

    @property
    def head(self) -> str:
        """What follows the model's name in that of the Hugging Face class, such as ForSequenceClassification."""
        ...

    @property
    def pipeline(self) -> str:
        """What the Hugging Face Hub calls the task."""
        ...

    @property
    def usage(self) -> str:
        """Python that predicts with the export in `path/to/this/directory`, for its model card."""
        ...

    def param_spec(self, model: Model) -> nn.Spec:
        """Of the body and the head."""
        ...

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs: ...

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """The sum of the losses and the sum of their weights, both `[]` float32; a batch's loss is their ratio."""
        ...

    @property
    def numbers(self) -> Mapping[str, float]:
        """Settings of the loss of which another value is to compile nothing, by name; those that are not zero."""
        ...

    def with_numbers(self, numbers: Mapping[str, Array]) -> Any:
        """The same task, whose loss computes with these arrays `[]` in place of its `numbers`."""
        ...

    def tied(self, model: Model) -> tuple[str, ...]:
        """The paths of the body's embeddings that the head multiplies by as well."""
        ...

    def places(self, model: Model, path: str, lengths: np.ndarray) -> np.ndarray:
        """At how many places of examples of so many tokens, `[n]`, the head's matrix at `path` is needed, `[n]`."""
        ...

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        """`input_ids` and `token_type_ids`, a list of ints an example, and, if labelled, a column for each target.

        Further columns are kept for `metrics` and `predictions`. Where a row of the table can become several examples,
        one of them is `row`: the row in `split` that each example is of, ascending; no row is left out.
        """
        ...

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        """Of a labelled split, its features and the outputs for them.

        Thresholds that the task has not been given are chosen on this very split: `threshold/NAME` of the result.
        """
        ...

    def decide(self, thresholds: Mapping[str, float]) -> Any:
        """The same task with the thresholds, by NAME, that its metrics have chosen on the validation split."""
        ...

    @property
    def vary(self) -> Vary | None:
        """How examples change from epoch to epoch of training; None: not at all."""
        ...

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """What a user wants to know of each row of the table, as JSON values."""
        ...

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        """What `jaxft.report.page` draws."""
        ...

    def hf_config(self) -> dict[str, Any]:
        """What the head adds to a Hugging Face config.json."""
        ...

    def files(self, model: Model, max_length: int) -> dict[str, Any]:
        """Further files of the export: name -> what it holds as JSON."""
        ...
