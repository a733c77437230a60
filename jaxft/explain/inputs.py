"""Rows as their model reads them, and which of its outputs are asked for."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data import truncation
from jaxft.data.rows import Rows
from jaxft.data.sources import Split
from jaxft.errors import UserError, nearest
from jaxft.explain.units import Reading, reading
from jaxft.metrics.probabilities import sigmoid
from jaxft.predict.predictor import Inputs, Predictor
from jaxft.tables.sequence_classification import LIKELY, SequenceClassification

SCORE = "score"
"""The one output of a regression."""

ALL = "all"


def task_of(predictor: Predictor) -> config.SequenceClassification:
    """Returns the options of a task whose answers can be explained.

    Raises:
      UserError: it is another task, or reads texts in windows.
    """
    options = predictor.table.options
    if not isinstance(options, config.SequenceClassification):
        raise UserError(
            f"the model's task is {type(options).__name__}; what can be explained is SequenceClassification: a class, "
            "labels or a score of a text or of two"
        )
    if options.windows:
        raise UserError(
            f"the model reads long texts in windows (config.task.windows={options.windows}), which cannot be explained "
            "yet; give it the passage that matters, by a run without windows"
        )
    return options


def read(predictor: Predictor, data: Split | Sequence[str] | Rows, kind: str) -> tuple[Inputs, list[Reading]]:
    """Returns the rows, tokenized, and of each the units of this kind that the model reads.

    Raises:
      UserError: a row that cannot be read, or that has no unit; names it.
    """
    inputs = predictor.tokenized(data)
    split, features = inputs
    columns = {name: split.table.column(name).to_pylist() for name in predictor.table.inputs}
    with predictor.tokenizer() as tokenizer:
        encodings = tokenizer(*columns.values(), truncation=False, max_length=None, verbose=False).encodings
    found, data_options = [], predictor.experiment.data
    for row, encoding in enumerate(encodings):
        places: Sequence[int] = range(len(encoding.ids))
        if len(places) > data_options.max_length:
            places = truncation.kept(encoding.sequence_ids, data_options.max_length, data_options.truncate)
        texts = {name: values[row] for name, values in columns.items()}
        one = reading(texts, encoding, places, kind)
        if not one.units:
            named = " and ".join(repr(name) for name in columns)
            raise UserError(f"{split.where(row)}: {named} has no word that the tokenizer knows of; nothing to explain")
        start, stop = features.offsets[row : row + 2]
        if not np.array_equal(one.ids, features.tokens["input_ids"][start:stop]):
            raise UserError(f"{split.where(row)}: its tokens cannot be told apart; please report this text")
        found.append(one)
    return inputs, found


def aims(target: str, options: config.SequenceClassification, logits: np.ndarray) -> list[int]:
    """Returns the numbers of the outputs of a row that are asked for; of several predicted labels, all.

    Args:
      target: see `jaxft.explain.options.Options`.
      logits: `[labels]`, of the row.

    Raises:
      UserError: a label that there is not.
    """
    labels = options.labels or (SCORE,)
    if target == ALL and ALL not in labels:
        return list(range(len(labels)))
    if target:
        names = [target] if target in labels else [name.strip() for name in target.split(",") if name.strip()]
        for name in names:
            if name not in labels:
                raise UserError(f"explain.target {name!r}: the model has no such label; {nearest(name, labels)}")
        return [labels.index(name) for name in names]
    if options.problem == "multi_label":
        least = np.asarray(options.thresholds or [LIKELY] * len(labels))
        held = np.flatnonzero(sigmoid(logits) >= least)
        if len(held):
            return [int(one) for one in held]
    return [int(logits.argmax())]


def probabilities(predictor: Predictor, logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of the labels, `[n, labels]`, as answers have them; of a score, the score itself."""
    table = predictor.table
    assert isinstance(table, SequenceClassification)
    return table.probabilities(logits) if table.options.labels else logits.astype(np.float64)


def stand_in(tokenizer: Any, baseline: str) -> int:
    """Returns the token that stands in the place of a word.

    Raises:
      UserError: the tokenizer has none.
    """
    token = {"mask": tokenizer.mask_token_id, "pad": tokenizer.pad_token_id}[baseline]
    if token is None:
        raise UserError(f"explain.baseline {baseline!r}: the model's tokenizer has no token for it; take another one")
    return int(token)
