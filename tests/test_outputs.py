"""`program.outputs`: what `forward` computes, from inputs that have no labels."""

import numpy as np
import pytest
import support
from runs import bits_equal

from jaxft import models

HF = support.SMALL | {"num_hidden_layers": 1}
MODEL = models.build(HF, dropout=0.5)


@pytest.mark.parametrize("name", support.TASKS)
def test_outputs_need_no_labels(name):
    check(support.TASKS[name], {})


@pytest.mark.parametrize("method", ["prompt", "prefix", "lora"])
@pytest.mark.parametrize("name", ["token", "masked_lm"])
def test_of_every_kind_of_method(name, method):
    check(support.TASKS[name], support.ADAPTATIONS[method])


def check(case: support.Case, method: dict) -> None:
    """They are those of the evaluation step, of the very arrays that `abstract_inputs` names."""
    features = support.random_features(np.random.default_rng(0), case, [5, 9, 4, 7], HF)
    host = support.lay_out(features, case.task, 12, 0)
    program = support.compose(case.task, MODEL, **method)
    weights = program.split(support.random_params(case.task, MODEL, seed=0))
    abstract = program.abstract_inputs(host.shape)
    labels = set(case.task.targets) - set(case.task.reads)
    assert abstract.keys() == host.arrays.keys() - labels
    batch = support.arrays(host)
    inputs = {name: batch[name] for name in abstract}
    assert all(inputs[name].shape == x.shape and inputs[name].dtype == x.dtype for name, x in abstract.items())
    evaluated = program.eval_step(weights, batch).outputs
    found = program.outputs(weights, inputs)
    assert found.keys() == case.task.outputs.keys() == evaluated.keys()
    assert bits_equal(found, dict(evaluated))
