"""Law 2: packed or padded, in one part or in several, the same examples give the same loss, gradients and outputs."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
import support
from runs import assert_packed_is_padded

from jaxft import config, models
from jaxft.batch import BatchShape
from jaxft.data.batches import Feed
from jaxft.data.features import Features
from jaxft.models import Model
from jaxft.train.evaluate import Evaluated, evaluate
from jaxft.types import Params

WHOLE = {name: case for name, case in support.TASKS.items() if not case.coupled}
"""The tasks of which a batch's loss is the sum of its parts'."""


class Computed(NamedTuple):
    grads: dict[str, jax.Array]
    metrics: dict[str, jax.Array]
    evaluated: Evaluated


def compute(
    case: support.Case,
    model: Model,
    params: Params,
    features: Features,
    length: int,
    slots: int,
    spare: tuple[int, int],
) -> Computed:
    """All examples in one batch, with so many rows and slots more than they need, by the steps of a real program."""
    needed = support.lay_out(features, case.task, length, slots).shape
    shape = BatchShape(needed.rows + spare[0], needed.length, needed.slots + spare[1])
    program = support.compose(case.task, model, keep_gradients=True)
    host = support.lay_out(features, case.task, length, slots, shape)
    grads, metrics = support.gradients(program, params, host)
    together = case.task.together
    feed = Feed(features, case.task.targets, [shape], program.batch_sharding, workers=1, together=together)
    return Computed(grads, metrics, evaluate(program.eval_step, (params, {}), feed, case.task.outputs))


def assert_same(actual: Computed, expected: Computed) -> None:
    support.assert_close(actual.grads, expected.grads, 1e-5, floor=1e-3)
    support.assert_close(actual.evaluated.outputs, expected.evaluated.outputs, 1e-5)
    losses = [{"train": found.metrics["loss"], "evaluate": found.evaluated.loss} for found in (actual, expected)]
    support.assert_close(losses[0], losses[1], 1e-5)
    support.assert_close({"": actual.metrics["loss"]}, {"": expected.evaluated.loss}, 1e-5)


@pytest.mark.parametrize("name", support.once(support.TASKS, "single_label", "token", "choices", "embeddings"))
def test_packed_is_padded(name: str):
    """A row may be longer than the model's longest example; filler rows and empty slots change nothing."""
    case = support.TASKS[name]
    for rng, slots in zip(support.draws(name, 2), (0, 3), strict=True):
        hf, seed = support.random_config(rng, "gelu", layers=2), int(rng.integers(2**16))
        longest = hf["max_position_embeddings"]
        spare = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
        model = models.build(hf, dropout=0.0)
        features = support.random_features(rng, case, support.random_lengths(rng, longest), hf)
        params = support.random_params(case.task, model, seed)
        padded = compute(case, model, params, features, longest, slots=1, spare=(0, 0))
        assert padded.metrics["loss"] > 1e-3, "a loss of zero has no gradients to compare"
        length = int(rng.integers(2 * longest, 3 * longest + 1))
        assert support.lay_out(features, case.task, length, slots).rows.slots > 1, "several examples share a row"
        assert_same(compute(case, model, params, features, length, slots, spare), padded)


@pytest.mark.parametrize("name", support.once(WHOLE, "token", "choices"))
def test_accumulated_is_whole(name: str):
    """The rows hold 1, 3, 4 and no examples, so that the parts weigh differently and one of four is empty."""
    case, model = support.TASKS[name], models.build(support.SMALL, dropout=0.0)
    features = support.random_features(np.random.default_rng(1), case, [3, 24, 9, 20, 5, 4, 6, 1], support.SMALL)
    params = support.random_params(case.task, model, seed=1)
    needed = support.lay_out(features, case.task, 24, slots=0).shape
    host = support.lay_out(features, case.task, 24, slots=0, shape=needed._replace(rows=4))
    assert host.arrays["weights"].sum(1).tolist() == ([2, 2, 4, 0] if case.task.together else [1, 3, 4, 0])
    whole, *splits = (
        support.gradients(
            support.compose(case.task, model, keep_gradients=True, train=config.Train(accumulate=parts)), params, host
        )
        for parts in (1, 4)
    )
    for grads, metrics in splits:
        support.assert_close(grads, whole[0], 1e-5, floor=1e-3)
        support.assert_close(metrics, whole[1], 1e-5)


def test_a_run_measures_and_predicts_the_same(finished, tmp_path):
    """On real texts; other tasks' tests ask the same of theirs."""
    texts = ["good morning", "I did not like it at all, and neither did anybody else", ":)"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    assert_packed_is_padded(finished, tmp_path / "texts.txt", tmp_path)
