"""A workdir in a bucket: a run that is cut off there goes on from there, on any machine, and ends as it would have."""

import json
import os
import shutil
import signal
import sys

import jax
import pytest
import stores
from runs import experiment, lines, results, weights

from jaxft import modes
from jaxft.errors import UserError
from jaxft.modes import shared, training
from jaxft.storage.bucket import Bucket
from jaxft.storage.workdir import Workdir
from jaxft.train.loop import Preempted


@pytest.fixture(params=["google", pytest.param("amazon", marks=pytest.mark.matrix)])
def store(request):
    return request.getfixturevalue(request.param)


def test_a_run_in_a_bucket_is_that_of_a_folder(store, tiny_model, cache, finished, tmp_path, monkeypatch):
    """Stopped in an evaluation, killed before the end, robbed of data; each start knows nothing but the bucket."""
    url, evaluate = f"{store}/some/run", shared.run_evaluation

    def start():
        return modes.train(experiment(tiny_model, cache), url)

    def stopped(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args)

    with monkeypatch.context() as patch, pytest.raises(Preempted, match="at step 5"):
        patch.setattr(shared, "run_evaluation", stopped)
        start()
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(training, "_finish", lambda *args: sys.exit("killed"))
        start()
    bucket = Bucket(url)
    for data in ("state/d", "state/ocdbt.process_0/d"):
        bucket.remove(f"checkpoints/10/{data}")
    assert start() == start()
    assert bucket.names() == {entry.name for entry in finished.iterdir()} | {"checkpoints-unreadable"}
    assert bucket.names("checkpoints") == {"5", "10"} == {entry.name for entry in (finished / "checkpoints").iterdir()}
    for name in bucket.names() - {"checkpoints"}:
        bucket.fetch(name, tmp_path)
    assert lines(tmp_path) == lines(finished)
    assert results(tmp_path) == results(finished)
    assert weights(tmp_path) == weights(finished)
    assert (tmp_path / "report" / "index.html").exists()
    modes.export(url, ["stablehlo"])
    assert "stablehlo" in bucket.names("export")
    measured = modes.evaluate(url)
    assert {name: results(finished)[name] for name in measured} == pytest.approx(measured, abs=1e-6)
    file = tmp_path / "new.csv"
    file.write_text("text,sentiment\na fine day,positive\nno,negative\n")
    assert modes.evaluate(url, inputs=file) == modes.evaluate(url, inputs=file)
    assert bucket.names("evaluations") == {"new.csv.json"}
    longer = experiment(tiny_model, cache, train={"steps": 12})
    assert modes.train(longer, url, extend=True)["train/steps"] == 12
    bucket.fetch("extensions.json", tmp_path)
    assert [one["steps"] for one in json.loads((tmp_path / "extensions.json").read_text())] == [10]


@pytest.mark.matrix
def test_a_store_that_refuses_harms_nothing(google, tiny_model, cache, monkeypatch):
    url, bucket = f"{google}/refusing", Bucket(f"{google}/refusing")

    def start(*refused):
        with monkeypatch.context() as patch:
            patch.setattr(stores, "closed", {f"refusing/checkpoints/{name}" for name in refused})
            modes.train(experiment(tiny_model, cache), url)

    with pytest.raises(UserError, match="refusing/checkpoints: cannot be written"):
        start("10")
    with pytest.raises(UserError, match="refusing/checkpoints: cannot be read"):
        start("5/state/d")
    assert not {"results.json", "checkpoints-unreadable"} & bucket.names()
    start()
    assert bucket.has("results.json") and "checkpoints-unreadable" not in bucket.names()


def test_what_is_put_is_what_is_there(store, tmp_path):
    """A folder with a mark replaces what was there; a file is put over another; what is removed is gone."""
    bucket, here, back = Bucket(f"{store}/whole"), tmp_path / "here", tmp_path / "back"
    assert bucket.names() == set() and not bucket.has("export") and not bucket.has("results.json")
    for names in (("index.html", "images/a.png", "images/b.png"), ("index.html", "images/a.png")):
        shutil.rmtree(here, ignore_errors=True)
        for name in names:
            (here / "report" / name).parent.mkdir(parents=True, exist_ok=True)
            (here / "report" / name).write_text(f"{name} of {len(names)}")
        (here / "results.json").write_text(str(len(names)))
        for name in ("report", "results.json"):
            bucket.put(here, name)
        assert bucket.names() == {"report", "results.json"} and bucket.has("report") and bucket.has("results.json")
        assert bucket.names("report") == {"index.html", "images"}
        for _ in range(2):
            bucket.fetch("report", back)
        bucket.fetch("results.json", back)
        assert {path.name for path in (bucket.path / "report" / "images").iterdir()} == {
            name.removeprefix("images/") for name in names[1:]
        }
        assert all((back / "report" / name).read_text() == f"{name} of {len(names)}" for name in names)
        assert (back / "results.json").read_text() == str(len(names))
    for name in ("report", "results.json", "nothing"):
        bucket.remove(name)
        bucket.fetch(name, back / "later")
    assert bucket.names() == set() and not (back / "later").exists()


def test_a_checkpoint_is_there_once_it_has_its_metadata(store, tmp_path):
    bucket = Bucket(f"{store}/run")
    for folder, whole in (("checkpoints/5", True), ("checkpoints/10", False), ("checkpoints/x", True)):
        for name in ("d", *(["_CHECKPOINT_METADATA"] if whole and folder != "checkpoints/x" else [])):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text("{}")
        bucket.put(tmp_path, folder)
        assert bucket.has(folder) == whole


def test_a_folder_that_is_not_whole_is_not_there(store, tmp_path):
    bucket, export, back = Bucket(f"{store}/half"), tmp_path / "export", tmp_path / "back"
    export.mkdir()
    (export / "config.json").write_text("{}")
    (export / "model.safetensors").write_text("weights")
    bucket.put(tmp_path, "export")
    bucket.fetch("export", back)
    assert sorted(file.name for file in (back / "export").iterdir()) == ["config.json", "model.safetensors"]
    (export / "vocab.txt").symlink_to("nowhere")
    with pytest.raises(UserError, match="half: cannot be written"):
        bucket.put(tmp_path, "export")
    bucket.fetch("export", back / "again")
    assert not (back / "again").exists()
    assert {entry.name for entry in (bucket.path / "export").iterdir()} == {"model.safetensors"}


def test_several_processes_are_refused_where_orbax_cannot_write(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="s3://bucket/run: one process alone can write to this store"):
        Workdir("s3://bucket/run")
