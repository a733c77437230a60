"""A run of a method that adds to the model: resumed, exported, and predicted with by its adapter alone."""

import json
import os
import signal

import numpy as np
import pytest
from runs import experiment, lines, results, weights

from jaxft import adapters, config, modes
from jaxft.modes import shared
from jaxft.pretrained import open_weights
from jaxft.train import loop


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, tiny_model, cache):
    """The experiment of a short run of LoRA, and its folder."""

    def build() -> config.Experiment:
        e = experiment(tiny_model, cache)
        e.adapt, e.lora.dora, e.lora.targets, e.lora.dropout = "lora", True, ("query", "output/dense"), 0.1
        return e

    workdir = tmp_path_factory.mktemp("tuned") / "run"
    modes.train(build(), str(workdir))
    return build, workdir


def predict(workdir, tmp_path, **keys) -> np.ndarray:
    (tmp_path / "texts.txt").write_text("what a lovely day\nthe meeting is at noon\n")
    modes.predict(str(workdir), str(tmp_path / "texts.txt"), str(tmp_path / "answers.jsonl"), **keys)
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    return np.asarray([list(answer["probabilities"].values()) for answer in found])


def test_resuming_is_exact(tuned, tmp_path, monkeypatch):
    """Stopped at the first evaluation; the base model is read again, and what learns from the checkpoint."""
    build, whole = tuned
    plain = shared.run_evaluation

    def cut_off(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*args)

    with monkeypatch.context() as patch, pytest.raises(loop.Preempted, match="at step 5"):
        patch.setattr(shared, "run_evaluation", cut_off)
        modes.train(build(), str(tmp_path / "run"))
    modes.train(build(), str(tmp_path / "run"))
    assert (lines(tmp_path / "run"), results(tmp_path / "run")) == (lines(whole), results(whole))
    assert weights(tmp_path / "run") == weights(whole)


def test_the_adapter_predicts_as_the_export(tuned, tiny_model, tmp_path):
    workdir = tuned[1]
    merged, apart = predict(workdir, tmp_path), predict(workdir, tmp_path, adapter=str(workdir / "adapter"))
    np.testing.assert_allclose(apart, merged, atol=1e-5)
    assert abs(merged - 1 / 3).max() > 1e-3
    assert (workdir / "adapter" / adapters.WEIGHTS).stat().st_size < 60_000
    ours, base = (open_weights(folder, "bert") for folder in (workdir / "export", tiny_model))
    everything = (slice(None), slice(None))
    same = {
        path: bool((ours.read(path, everything) == base.read(path, everything)).all())
        for path in (f"bert/encoder/layer/0/attention/self/{name}/kernel" for name in ("query", "key"))
    }
    assert list(same.values()) == [False, True]
