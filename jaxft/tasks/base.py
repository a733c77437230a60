"""The interface of a task: the pure side of what is learned, traced by jit.

How rows of a table become its examples, and its outputs metrics and answers, says a table of `jaxft.tables`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxft.batch import Target
from jaxft.models import Model, nn
from jaxft.types import Array, Batch, Outputs, Params


class Task(ABC):
    """What `jaxft.compose` asks of a task. An example is what the model reads at once: a text, a pair, a window.

    Attributes:
      options: the section of the experiment that it was built from.
      hf_class: what follows the model's name in that of the Hugging Face class with these parameters, such as
        ForSequenceClassification; "" for the model without a head.
      together: whether the examples of a row of the table lie side by side in one row of a batch: the loss compares
        them.
      axes: names of the axes of the token ids that `padded` is for, as its Hugging Face class takes them.
      reads: those of the targets that `forward` reads too: without them there are no outputs.
      numbers: settings of the loss of which another value is to compile nothing, by name; those that are not zero.
    """

    options: Any
    hf_class: str = ""
    together: bool = False
    axes: tuple[str, ...] = ("batch", "length")
    reads: Sequence[str] = ()
    numbers: Mapping[str, float] = MappingProxyType({})

    @property
    @abstractmethod
    def targets(self) -> Mapping[str, Target]:
        """The arrays that `loss` reads from a batch; the table's `features` make a column for each."""

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, str]:
        """What `forward` returns, each "example" (`[rows, slots, ...]`) or "token" (`[rows, length, ...]`)."""

    @property
    def head_outputs(self) -> Sequence[str]:
        """The names of the head's outputs in their order; none: they have no names."""
        return getattr(self.options, "labels", ())

    @abstractmethod
    def param_spec(self, model: Model) -> nn.Spec:
        """Declares the parameters of body and head."""

    @abstractmethod
    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """Computes the `outputs` of a batch."""

    def padded(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """Computes what the Hugging Face class gives for a batch of one example a row, by the names that it has there.

        By default the `outputs`, `[rows, ...]` per example and `[rows, length, ...]` per token.
        """
        found = self.forward(params, model, batch, run)
        return {name: x.squeeze(1) if self.outputs[name] == "example" else x for name, x in found.items()}

    def unpadded(self, found: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the `outputs` of a batch of one example a row, of which `padded` gives what was found.

        Args:
          found, batch: arrays of numpy or of jax.
        """
        return {name: found[name][:, None] if per == "example" else found[name] for name, per in self.outputs.items()}

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Returns the sum of the losses and that of their weights, both `[]` float32; a batch's loss is their ratio."""

    def divergence(self, outputs: Outputs, others: Outputs, batch: Batch) -> Array:
        """Returns the sum over what the loss counts of KL(outputs || others), `[]`, as `loss` weighs and counts it.

        Raises:
          NotImplementedError: the outputs are no distributions. `jaxft.objectives` asks whether a task has its own.
        """
        raise NotImplementedError(f"the outputs of {type(self).__name__} are no distributions")

    def with_numbers(self, numbers: Mapping[str, Array]) -> Task:
        """Returns the same task, whose loss computes with these arrays `[]` in place of its `numbers`."""
        return self

    def tied(self, model: Model) -> tuple[str, ...]:
        """Returns the paths of the body's embeddings that the head multiplies by as well."""
        return ()

    def places(self, model: Model, path: str, lengths: np.ndarray) -> np.ndarray:
        """Returns at how many places of examples of `lengths` tokens, `[n]`, the head's matrix at `path` is needed.

        By default at every token where all outputs are per token, else once an example.
        """
        return lengths if set(self.outputs.values()) == {"token"} else np.ones_like(lengths)
