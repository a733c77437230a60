"""FLOPs of a step, against those that XLA counts in its program."""

import dataclasses

import numpy as np
import pytest
import support

from jaxft import config, models
from jaxft.batch import BatchShape
from jaxft.devices.flops import train_flops
from jaxft.tasks import Task

HF = support.SMALL | {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
}
ROWS, LENGTH = 8, 64


def tags(count: int) -> Task:
    options = support.TASKS["token"].options
    return support.Case(dataclasses.replace(options, labels=tuple(map(str, range(count)))), {}).task  # pyright: ignore


def tokens(next_sentence: bool) -> Task:
    return support.Case((config.NextSentence if next_sentence else config.MaskedLM)(mask_fraction=0.3), {}).task


def both(task: Task, vocabulary: int) -> np.ndarray:
    """Ours and XLA's, of a step on rows without padding."""
    model = models.build(HF | {"vocab_size": vocabulary}, dropout=0.0)
    composed = support.compose(task, model)
    step = composed.train_step.lower(composed.state, composed.abstract_batch(BatchShape(ROWS, LENGTH, 1)))  # pyright: ignore
    return np.asarray([train_flops(model, task)(np.full(ROWS, LENGTH)), step.cost_analysis()["flops"]])


@pytest.mark.parametrize(
    ("larger", "smaller"),
    [
        ((tags(900), 40), (tags(300), 40)),
        ((tokens(False), 2040), (tokens(False), 1040)),
        ((tokens(True), 2040), (tokens(True), 1040)),
    ],
    ids=["tags", "masked_lm", "next_sentence"],
)
def test_a_larger_head_costs_what_xla_says(larger, smaller):
    """Of the difference the head's matrix products are all but what is done once an entry."""
    ours, theirs = both(*larger) - both(*smaller)
    assert 0.85 * theirs <= ours <= theirs
