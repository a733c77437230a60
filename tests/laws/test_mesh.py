"""Law 3: a mesh changes nothing. The same batches in the same order, and the same loss curve to float tolerance."""

import numpy as np
import pytest
import support
from runs import on_eight_devices

CELLS = [("bert", task) for task in support.TASKS]
NO_TOKENS = ("gemma3_text", "modernbert-decoder")
"""Architectures that have no class for tokens."""
CELLS += [(kind, "causal_lm" if kind in NO_TOKENS else "token") for kind in support.FILES if kind != "bert"]
CELLS += [("llama", "causal_lm"), ("llama", "preference")]


@pytest.mark.parametrize(("architecture", "task"), support.once(CELLS, ("bert", "single_label")))
def test_loss_curves_agree_on_all_meshes(architecture: str, task: str):
    """20 steps on up to eight devices, dropout on, and off on one or more, from batches laid out as suits each mesh."""
    curves = on_eight_devices("curves", task, architecture)
    for dropout, runs in curves.items():
        alone = np.asarray(runs["1"])
        assert len(alone) == 20 and abs(np.diff(alone)).min() > 1e-4 * abs(alone).max()
        for run, losses in runs.items():
            np.testing.assert_allclose(losses, alone, rtol=1e-5, err_msg=f"{run}, dropout {dropout}")
    first = [tuple(np.round(runs["1"], 4)) for runs in curves.values()]
    assert len(set(first)) == len(first), "dropout does not show in the losses"


@pytest.mark.matrix
def test_every_method_has_the_same_loss_curve():
    """Five steps on one device and on eight, with dropout; what a method adds is split as what it is added to."""
    for name, runs in on_eight_devices("methods").items():
        alone = np.asarray(runs["1"])
        assert len(set(alone)) == 5
        np.testing.assert_allclose(runs["2 x 2 x 2"], alone, rtol=1e-5, err_msg=name)
