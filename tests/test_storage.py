"""Whose a workdir is, and by what a checkpoint is told from another: nothing is trained."""

import hashlib
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft import config
from jaxft.errors import UserError
from jaxft.storage import fingerprint
from jaxft.storage.bucket import refused
from jaxft.storage.workdir import Workdir
from jaxft.train import checkpoint
from jaxft.train.checkpoint import Checkpoints


def named(name: str, **train: Any) -> config.Experiment:
    return config.Experiment(name=name, task=config.SequenceClassification(), train=config.Train(**train))


def test_a_folder_is_that_of_the_experiment_that_saved_there(tmp_path):
    """Until something is saved, another may begin there."""
    folder = Workdir(tmp_path / "runs" / "run")
    folder.claim(named("a", batch_size=4), overwrite=False)
    folder.claim(named("b", batch_size=8), overwrite=False)
    assert folder.experiment() == named("b", batch_size=8)
    (folder.path / "checkpoints" / "begun").mkdir(parents=True)
    folder.claim(named("c", batch_size=4), overwrite=False)
    for saved in (folder.path / "checkpoints" / "5", folder.path / "export"):
        saved.mkdir()
        with pytest.raises(UserError, match=r"holds a different experiment \(.*batch_size"):
            folder.claim(named("d", batch_size=8), overwrite=False)
        folder.claim(named("c", batch_size=4), overwrite=False)
        saved.rmdir()
    with pytest.raises(UserError, match="go on with it by --extend, choose another"):
        (folder.path / "export").mkdir()
        folder.claim(named("c", batch_size=4, epochs=9), overwrite=False)


def test_what_no_run_has_written_is_not_overwritten(tmp_path):
    folder = Workdir(tmp_path / "run")
    folder.claim(named("a"), overwrite=True)  # there is nothing yet
    (folder.path / "export").mkdir()
    folder.claim(named("b", batch_size=8), overwrite=True)
    assert {entry.name for entry in folder.path.iterdir()} == {"config.json"}
    (folder.path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"--overwrite: .* holds thesis\.tex, which no run has written"):
        folder.claim(named("c"), overwrite=True)
    (folder.path / "config.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not empty and holds no run; choose another --workdir"):
            folder.claim(named("c"), overwrite=overwrite)
    assert {entry.name for entry in folder.path.iterdir()} == {"thesis.tex"}


def test_what_a_run_was_before_it_was_made_longer_is_on_record(tmp_path):
    """Once, also where the same is asked for again after it was cut off."""
    folder, first, second = Workdir(tmp_path / "run"), {"steps": 5, "epochs": 0}, {"steps": 9, "epochs": 0}
    folder.claim(named("a", steps=5), overwrite=False)
    assert folder.extensions() == []
    folder.write_results({"test/loss": 0.5})
    folder.extend(named("a", steps=9), first)
    assert folder.extensions() == [first | {"results": {"test/loss": 0.5}}]
    assert folder.results() is None and folder.experiment() == named("a", steps=9)
    for _ in range(2):
        folder.extend(named("a", steps=12), second)
    assert folder.extensions() == [first | {"results": {"test/loss": 0.5}}, second | {"results": None}]


def test_fingerprints_are_kept_in_checkpoints_and_stay_what_they_are():
    """In the order of names; each array by its type, its shape and its bytes."""
    columns = {"b": np.arange(6, dtype=np.int32).reshape(2, 3).T, "a": np.ones(2, np.float32)}
    digest = hashlib.blake2b(digest_size=12)
    digest.update(b"a float32 (2,)" + b"b int32 (3, 2)")
    digest.update(np.ones(2, np.float32).tobytes() + np.asarray([[0, 3], [1, 4], [2, 5]], np.int32).tobytes())
    assert fingerprint.of_columns(columns) == fingerprint.of_columns(dict(reversed(columns.items())))
    assert fingerprint.of_columns(columns) == digest.hexdigest()


def test_the_checksum_of_a_parameter_is_of_its_bits_and_their_places():
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    bits, places = x.reshape(-1).view(np.uint32), np.arange(x.size, dtype=np.uint64)
    hashed = (places * 0x9E3779B1 % 2**32).astype(np.uint64) | np.uint64(1)
    expected = int(((bits ^ (bits >> np.uint32(16))).astype(np.uint64) * hashed % 2**32).sum() % 2**32)
    assert int(fingerprint._checksum(jnp.asarray(x))) == expected
    assert int(fingerprint._checksum(jnp.asarray(x[:, ::-1]))) != expected
    params = {"layer": {"kernel": jnp.asarray(x)}}
    assert fingerprint.of_params(params) == fingerprint.of_values({"layer/kernel": ["float32", [3, 5, 2], expected]})


@pytest.mark.parametrize(("error", "said"), [(OSError("no\n  such  bucket"), "no such bucket"), (OSError(), "OSError")])
def test_what_a_store_says_when_it_refuses(error, said):
    assert str(refused("gs://b/run", "read", error)).startswith(f"--workdir gs://b/run: cannot be read ({said}); check")
    assert len(str(refused("gs://b/run", "read", OSError("x" * 9999)))) < 500


def test_an_error_that_a_store_refuses_by_is_told_from_damage():
    """By one word that its library says, in whichever of the errors that led to it."""
    outer = ValueError("cannot read the array")
    outer.__cause__ = OSError("HTTP 403: Forbidden")
    assert checkpoint._is_refusal(outer) and checkpoint._is_refusal(OSError("UNAVAILABLE: try again"))
    assert not checkpoint._is_refusal(ValueError("checksum is wrong"))


def test_what_was_being_saved_when_a_run_was_killed_is_cleared_away(tmp_path):
    """By a run that writes there; not by who only reads, as another may be writing."""
    half = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    Checkpoints(tmp_path / "checkpoints", keep=None).close()
    assert half.exists()
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    limit = time.monotonic() + 10  # orbax does it beside other work
    while half.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    checkpoints.close()
    assert not half.exists()
