"""What a model says of examples is kept by content, whole or not at all."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft import config, models, program
from jaxft.data.features import Features
from jaxft.predict import keeping
from jaxft.predict.engine import CompiledEngine

CASE = support.TASKS["single_label"]


def engine(seed: int = 0, **options) -> CompiledEngine:
    """Of a small model, whose programs are not compiled."""
    model, task = models.build(support.SMALL), CASE.task
    e = config.Experiment(task=CASE.options, **options)
    weights = (support.random_params(task, model, seed), {})
    return CompiledEngine(e, program.compose(e, model, task, steps=1), weights)


def features(seed: int = 0) -> Features:
    return support.random_features(np.random.default_rng(seed), CASE, [4, 7], support.SMALL)


def test_a_file_is_of_the_weights_and_the_examples(tmp_path, monkeypatch):
    """And lies in its room of the cache; without a cache, or by several processes, nothing is kept."""
    file = keeping.file_of(engine(), features(), str(tmp_path / "cache"), "room")
    assert file is not None and file.parent == tmp_path / "cache" / "room" and file.suffix == ".npz"
    assert keeping.file_of(engine(), features(), str(tmp_path / "cache"), "room") == file
    bfloat16 = engine(compute=config.Compute(dtype="bfloat16"))
    others = [(engine(1), features()), (engine(), features(1)), (bfloat16, features())]
    found = {keeping.file_of(*other, str(tmp_path / "cache"), "room") for other in others}
    assert len(found | {file}) == 4
    assert keeping.file_of(engine(), features(), "", "room") is None
    home = keeping.file_of(engine(), features(), "~/there", "room")
    assert home is not None and home.parent == Path.home() / "there" / "room"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert keeping.file_of(engine(), features(), str(tmp_path), "room") is None


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """In folders that it makes, over what is there; nothing is left of what failed."""
    file, said = tmp_path / "a" / "b" / "said.npz", {"x": np.arange(3.0), "y": jnp.ones(2)}
    for value in (1.0, 2.0):
        keeping.keep(file, {**said, "x": said["x"] * value})
        with np.load(file) as held:
            assert held["x"].tolist() == [0, value, 2 * value] and held["y"].tolist() == [1, 1]
    assert [*file.parent.iterdir()] == [file]

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        keeping.keep(file, said)
    assert [*file.parent.iterdir()] == [file]
