"""The interface of a table: the host's side of a task, from rows to examples and from outputs to answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.models import Model
from jaxft.sure.calibration import Calibration

TRUTH = ("label", "label_columns", "tags", "answers", "score")
"""Keys of a task that name the columns of what is true."""

Host = Mapping[str, np.ndarray]
"""Outputs by name: `[examples, ...]` or, per token, `[tokens, ...]`, flat as in `Features`."""

Vary = Callable[[Features, np.ndarray, int, int], Features]
"""`(features of some examples, their numbers [n], seed, epoch) -> ` the same examples, as that epoch sees them."""


class Published(NamedTuple):
    """What an export says beside parameters and tokenizer.

    Attributes:
      pipeline: what the Hugging Face Hub calls the task.
      usage: Python that predicts with the export in `path/to/this/directory`, for its model card.
      settings: what the head adds to a Hugging Face config.json.
      files: further files of the export: name -> what it holds as JSON, or its text.
      library: what the Hub calls the library that loads the export.
    """

    pipeline: str
    usage: str
    settings: Mapping[str, Any] = {}
    files: Mapping[str, Any] = {}
    library: str = "transformers"


class Table(ABC):
    """How rows become examples of a task, and what its outputs say of them.

    A row of the table (a text, a sentence, a question) may become several examples, such as the windows of a long text.

    Attributes:
      options: the section of the experiment that it was built from. `read`, `resolve` and `assume` come before the
        options are resolved, all else after it.
      words: whether `features` hands the tokenizer lists of words rather than texts.
      lower: the names of its metrics of which less is better. The loss, which every run has, is none of them.
      vary: how examples change from epoch to epoch of training; None: not at all.
    """

    options: Any
    words: bool = False
    lower: frozenset[str] = frozenset()
    vary: Vary | None = None

    @property
    @abstractmethod
    def metric(self) -> str:
        """The metric that selects the best checkpoint."""

    def score(self, metric: str, value: float) -> float:
        """Returns how good a value of a metric is, of `loss` too: the larger the better."""
        return -value if metric == "loss" or metric in self.lower else value

    @property
    def apart(self) -> bool:
        """Whether metrics are of each row by itself, so that rows can be drawn more than once."""
        return True

    @property
    @abstractmethod
    def inputs(self) -> Sequence[str]:
        """The columns that it predicts from, the first for lines of text; rows that agree in them are the same."""

    @abstractmethod
    def read(self, split: Split, labelled: bool = True) -> Split:
        """Returns the split, checked row by row: the same rows, columns in the one form that the task works on.

        Of a labelled split rows may be left out that the options say, which its notes then count.

        Raises:
          UserError: a column, a text or a label that the task cannot use, and where.
        """

    def resolve(self, splits: Mapping[str, Split]) -> Any:
        """Returns the options with all in them that only the data, as `read` gives them, can tell (label names).

        Raises:
          UserError: splits that do not fit together, and where.
        """
        return self.options

    def check_labels(self, split: Split) -> None:  # noqa: B027 (there are tasks without names of labels)
        """Makes sure that the labels of a split, as `read` gives them, are among those of the options.

        Raises:
          UserError: one is not, and where.
        """

    def assume(self) -> dict[str, Any]:
        """Returns values that resolve the options where there are no data: what a plan of their run supposes."""
        return {}

    @property
    def examples(self) -> int:
        """How many examples a row of the table becomes, as a plan without data supposes."""
        return 1

    @abstractmethod
    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        """Returns `input_ids` and `token_type_ids`, a list of ints an example, and, if labelled, a column a target.

        Further columns are kept for `metrics` and `predictions`; one that is called `weights`, a number an example,
        says how much each counts in the loss. Where a row of the table can become several examples, one of them is
        `row`: the row in `split` that each example is of, ascending; no row is left out.
        """

    def sampling(self, features: Features) -> np.ndarray | None:
        """Returns how often training draws each example, or row whose examples lie together, `[n]`; None: once."""
        return None

    @abstractmethod
    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        """Measures the outputs for a labelled split and its features.

        Thresholds that the options do not give are chosen on this very split: `threshold/NAME` of the result.
        """

    def decide(self, thresholds: Mapping[str, float]) -> Table:
        """Returns the same table with the thresholds, by NAME, that its metrics have chosen on the validation split."""
        return self

    def calibrated(self, calibration: Calibration | None) -> Table:
        """Returns the same table, with probabilities as the calibration has them, where its task has such."""
        return self

    def undecided(self) -> dict[str, float]:
        """Returns the thresholds, by NAME, that nothing has chosen, with the values that predictions take for them."""
        return {}

    def thresholds(self) -> dict[str, float]:
        """Returns all thresholds, by NAME, that predictions are made with: of probabilities as answers have them."""
        return {}

    def mean(self, several: Sequence[Host], features: Features) -> Host:
        """Returns the outputs whose predictions are the mean of several models': of probabilities, scores or vectors.

        Args:
          several: the outputs of each model for the same features.

        Raises:
          NotImplementedError: of its outputs there is no mean. `jaxft.predict.likeness` asks whether a table has one.
        """
        raise NotImplementedError(f"of the outputs of {type(self).__name__} there is no mean")

    def disagreement(self, several: Sequence[Host]) -> Host:
        """Returns what `predictions` also takes of several models' outputs: how far they disagree on each example.

        By default nothing is said of it.
        """
        return {}

    @abstractmethod
    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """Yields what a user wants to know of each row, as JSON values."""

    def errors(self, outputs: Host, features: Features, split: Split) -> np.ndarray | None:
        """Returns how wrong the answer of each row of a labelled split is, `[rows]`; None: there is no such thing.

        Of bool where an answer is wrong or right as a whole; of a score its distance from the true one, of float.
        """
        return None

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        """Returns what `jaxft.report.page` draws."""
        return {}

    @abstractmethod
    def published(self, model: Model, max_length: int) -> Published:
        """Returns what an export of such a model, trained on texts of so many tokens, says beside its parameters."""


def named(labels: Sequence[str]) -> dict[str, Any]:
    """Returns the settings by which a Hugging Face config.json names the outputs of a head."""
    numbered = list(enumerate(labels))
    return {"id2label": {str(i): name for i, name in numbered}, "label2id": {name: i for i, name in numbered}}


def true_columns(options: Any, split: Split) -> list[str]:
    """Returns the columns of what is true that a split has, by the options of a task."""
    named = [getattr(options, key, ()) for key in TRUTH]
    listed = [name for names in named for name in ((names,) if isinstance(names, str) else names)]
    return [name for name in dict.fromkeys(listed) if name in split.table.column_names]
