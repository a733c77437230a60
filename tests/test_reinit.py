"""config.model.reinit: layers at the top that begin anew."""

import numpy as np
import pytest
from runs import MINILM

from jaxft import config, hub, models, pretrained, program, tasks
from jaxft.errors import UserError
from jaxft.models import nn


def test_layers_at_the_top_begin_anew():
    """With the pooler; what is below them is the checkpoint's, another seed is another start."""
    assert MINILM
    hf, task = hub.read_config(MINILM), config.SequenceClassification(labels=("a", "b"))
    model = models.build(hf)
    composed = program.compose(config.Experiment(task=task), model, tasks.build(task), steps=10)
    whole, accounting = pretrained.load(MINILM, composed)
    params, counted = pretrained.load(MINILM, composed, seed=1, reinit=2)
    assert counted.lines()[0] == "loaded from the checkpoint: 69 tensors"
    assert "begun anew (initialized), as config.model.reinit says: 34 tensors" in counted.lines()
    before, after = nn.flatten(whole), nn.flatten(params)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert set(counted.anew) == {path for path in accounting.loaded if model.depth(path) in (0, 1, 2)}
    assert {path for path in counted.anew if path.endswith("kernel")} <= changed
    assert changed <= {*counted.anew, "classifier/kernel"}
    kernel = after["bert/encoder/layer/5/output/dense/kernel"]
    assert abs(float(kernel.std()) - hf["initializer_range"]) < 1e-3
    with pytest.raises(UserError, match=r"config\.model\.reinit is 7; the model has 6 layers"):
        pretrained.load(MINILM, composed, reinit=7)
