"""onnxruntime in the place of jax: it computes batches of one example a row with a graph that has been written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from jaxft import hub
from jaxft.out.answers import Answers
from jaxft.out.files import WEIGHTS


class Runtime:
    """`runtime(batch) -> outputs` of the task, as a program's own; the session of a graph on this machine's CPU."""

    def __init__(self, file: Path, answers: Answers):
        """Takes a graph and the function that it was made of."""
        self.answers = answers
        self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the outputs `[rows, 1, ...]` or `[rows, length, ...]` of a batch of one example a row."""
        own = {"attention_mask": np.asarray(batch["segment_ids"]), **batch}
        several = len(self.answers.axes) - 2  # examples that the graph takes together are given alone
        lead = lambda x: np.expand_dims(np.asarray(x, np.int64), tuple(range(1, 1 + several)))  # noqa: E731
        found = self.run({name: lead(own[name]) for name in self.answers.inputs})
        single = {name: x.reshape(len(x), *x.shape[1 + several :]) for name, x in found.items()}
        return self.answers.task.unpadded(single, batch)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns what the graph gives for int64 inputs `[batch, length]`, by name."""
        return {name: np.asarray(x) for name, x in zip(self._names, self._session.run(None, inputs), strict=True)}


def is_of_weights(file: Path, directory: Path) -> bool:
    """Returns whether a graph says that it was made of the weights in a model's directory, which may have changed."""
    said = {one.key: one.value for one in onnx.load(str(file), load_external_data=False).metadata_props}
    return said.get(WEIGHTS) == hub.digest(directory)
