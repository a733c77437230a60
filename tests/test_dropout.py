"""Dropout masks: functions of the key and of which token of which example it is, and of nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft import config, models, program
from jaxft.batch import BatchShape
from jaxft.models import nn

GENERATORS = pytest.mark.parametrize("generator", program.GENERATORS)
RATE = 0.3
KEYS = [jax.random.fold_in(jax.random.key(0), n) for n in range(2)]
"""As a step makes them."""
HEADS = [("single_label", "threefry"), ("single_label", "hash"), ("token", "hash")]
"""Heads with dropout per example and per token; the others add nothing to the body's masks."""


@pytest.mark.parametrize(("name", "generator"), support.once(HEADS, ("single_label", "hash")))
def test_layout_and_parts_do_not_matter(name: str, generator: str):
    """Law 2 with dropout on."""
    case, model = support.TASKS[name], models.build(support.SMALL, dropout=RATE)
    features = support.random_features(np.random.default_rng(1), case, [3, 24, 9, 20, 5, 4, 7], support.SMALL)
    params = support.random_params(case.task, model, seed=1)

    def gradients(slots: int, accumulate: int, shape: BatchShape | None = None) -> dict[str, jax.Array]:
        sections = {"train": config.Train(accumulate=accumulate), "compute": config.Compute(dropout=generator)}
        composed = support.compose(case.task, model, keep_gradients=True, **sections)
        host = support.lay_out(features, case.task, 24, slots, shape)
        grads, metrics = support.gradients(composed, params, host)
        return grads | {"loss": metrics["loss"]}

    padded = gradients(slots=1, accumulate=1)
    for found in (gradients(0, 1), gradients(0, 4, BatchShape(8, 24, 5)), gradients(0, 1, BatchShape(5, 40, 4))):
        support.assert_close(found, padded, 1e-5, floor=1e-3)


@GENERATORS
def test_examples_and_parts_of_the_model_have_masks_of_their_own(generator: str):
    """Equal examples, side by side in rows, come out unequal; so does one example under another key."""
    case = support.TASKS["single_label"]
    features = support.random_features(np.random.default_rng(0), case, [6], support.SMALL)
    features = dataclasses.replace(
        features,
        offsets=np.arange(9) * 6,
        tokens={name: np.tile(column, 8) for name, column in features.tokens.items()},
        examples={name: np.tile(column, 8) for name, column in features.examples.items()},
    )
    batch = support.arrays(support.lay_out(features, case.task, 24, slots=0))
    for rate in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        zeros = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}
        model = models.build(support.SMALL | zeros | {rate: 0.5})
        params = support.random_params(case.task, model, seed=0)
        rates = {name: nn.Rate.of(rate) for name, rate in model.rates().items()}
        runs = [nn.Run(key=key, rates=rates, bits=program.GENERATORS[generator]) for key in KEYS]
        logits = [case.task.forward(params, model, batch, run)["logits"].reshape(8, -1) for run in runs]
        assert len(np.unique(jnp.concatenate(logits), axis=0)) == 16, rate


@GENERATORS
def test_masks_are_random_enough(generator: str):
    """Bits of 2^20 consecutive indices, under two keys: the share that drops out, and no correlation of neighbours."""
    count, bits = 2**20, program.GENERATORS[generator]
    index = jnp.arange(count, dtype=jnp.uint32)
    kept = [np.asarray(bits(key, index) >= round(RATE * 2**32), float) for key in KEYS]
    spread = np.sqrt(RATE * (1 - RATE))
    for mask in kept:
        assert abs(mask.mean() - (1 - RATE)) < 4 * spread / np.sqrt(count)
        for step in (1, 2, 7, 64, 384, 768, 1024):
            assert abs(np.corrcoef(mask[:-step], mask[step:])[0, 1]) < 4 / np.sqrt(count), step
    assert abs(np.corrcoef(kept[0], kept[1])[0, 1]) < 4 / np.sqrt(count)


@pytest.mark.parametrize("architecture", support.once(support.FILES, "bert"))
def test_a_loop_over_the_layers_changes_nothing(architecture: str):
    """Nor does recomputing them: loss and gradients, each layer with the masks that it has written out."""
    case = support.TASKS["single_label"]
    hf = support.shallow(architecture, times=2, more=1)
    model = models.build(hf, dropout=RATE)
    features = support.random_features(np.random.default_rng(1), case, [3, 24, 9, 20], hf)
    params, host = support.random_params(case.task, model, seed=1), support.lay_out(features, case.task, 24)
    found = []
    for compute in (config.Compute(), config.Compute(scan=True, remat=True)):
        composed = support.compose(case.task, model, keep_gradients=True, compute=compute)
        grads, metrics = support.gradients(composed, params, host)
        found.append(grads | {"loss": metrics["loss"]})
    support.assert_close(found[1], found[0], 1e-5, floor=1e-3)
