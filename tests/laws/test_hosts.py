"""Law 3 across processes: two processes of four devices each train as one of eight does, and stand or fall together."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import support
from etils import epath
from jax.experimental import multihost_utils
from runs import ROOT, TWEETS, command, environment, free_port, lines, results, weights
from safetensors.numpy import load_file

from jaxft import cli, models, modes
from jaxft.storage.bucket import Bucket
from jaxft.train.checkpoint import Checkpoints

BOUND = 150
"""Seconds after which a run of two processes hangs: it takes about twenty on two cores of its own."""

FINISHED = """
import json, sys
from jaxft import modes
from jaxft.devices import distributed

address, process, workdir, texts = sys.argv[1:]
distributed.initialize(address, 2, int(process), preemptible=False)
modes.export(workdir)
measured = modes.evaluate(workdir)
modes.predict(workdir, texts, f"{workdir}/answers.jsonl")
print(json.dumps(measured))
"""

ROWS = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxft.devices import distributed
from jaxft.batch import BatchShape
from jaxft.data.batches import Feed
from jaxft.data.features import Features

distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
n = 24
features = Features(np.arange(n + 1) * 3, {"input_ids": np.arange(3 * n, dtype=np.int32) + 1}, {})
for order in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 4, 5, 2, 3, 6, 7], [7, 0, 6, 1, 5, 2, 4, 3]):
    for split in ("all", "half", "none"):
        devices = np.asarray(jax.devices())[order].reshape(8 if split == "all" else (2, 4))
        mesh = Mesh(devices, ("rows", "rest")[: devices.ndim])
        place = NamedSharding(mesh, PartitionSpec(None if split == "none" else "rows"))
        feed = Feed(features, {}, [BatchShape(8, 4, 1)], place)
        for at, (host, batch) in enumerate(feed.all()):
            whole = np.zeros((8, 4), np.int32)
            whole[:, :3] = np.arange(24).reshape(8, 3) + 1 + 24 * at
            for shard in batch["input_ids"].addressable_shards:
                assert np.array_equal(shard.data, whole[shard.index]), (order, split, shard)
print("rows are right")
"""

CONFIG = """
from jaxft.config import *

def get_config():
    return Experiment(
        model=Model(path={model!r}),
        task=SequenceClassification(label="sentiment"),
        data=Data(
            source={source!r}, encoding="mac_roman", train_examples=160, validation_examples=40, test_examples=40,
            max_length=32, shapes=1, cache={cache!r},
        ),
        optimizer=Optimizer(learning_rate=5e-4),
        train=Train(batch_size=12, epochs=2, log_every=1, eval_every=7, save_every=3),
    )
"""


class Pair:
    """Two processes of one run, of four simulated devices each; their output is in files of the given folder."""

    def __init__(self, workdir: Path | str, folder: Path, *args: str):
        self._checkpoints = epath.Path(workdir) / "checkpoints"
        common = [
            f"--workdir={workdir}",
            f"--coordinator=127.0.0.1:{free_port()}",
            "--processes=2",
            "--heartbeat_timeout=10",
        ]
        self._output = [folder / f"process.{i}.txt" for i in range(2)]
        self.processes = []
        for i in range(2):
            with open(self._output[i], "wb") as out:
                run = [sys.executable, str(ROOT / "run.py"), *args, *common, f"--process={i}"]
                self.processes.append(subprocess.Popen(run, stdout=out, stderr=out, cwd=ROOT, env=environment(4)))

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self) -> list[int]:
        """The exit codes; a failed test shows what the processes printed."""
        codes = [process.wait(timeout=BOUND) for process in self.processes]
        print("\n".join(self.printed(i) for i in range(2)))
        return codes

    def printed(self, process: int) -> str:
        return self._output[process].read_text(errors="replace")

    def wait_for_a_checkpoint(self, after: int = 0) -> int:
        """Until there is one of a later step; returns that step."""
        limit = time.monotonic() + BOUND
        while (newest := last_saved(self._checkpoints)) <= after:
            running = all(process.poll() is None for process in self.processes)
            assert running and time.monotonic() < limit, self.printed(0) + self.printed(1)
            time.sleep(0.02)
        return newest


def last_saved(checkpoints: Path | epath.Path) -> int:
    return max(saved_steps(checkpoints), default=0)


def saved_steps(checkpoints: Path | epath.Path) -> list[int]:
    """Of the whole ones: in a bucket, where nothing can be renamed, orbax marks them."""
    whole = "commit_success.txt" if "://" in str(checkpoints) else ""
    steps = [path for path in checkpoints.glob("*") if path.name.isdecimal()] if checkpoints.exists() else []
    return [int(path.name) for path in steps if (path / whole).exists()]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, tiny_model, cache):
    file = tmp_path_factory.mktemp("config") / "tiny.py"
    file.write_text(CONFIG.format(model=str(tiny_model), source=TWEETS, cache=str(cache)))
    return f"--config={file}"


@pytest.fixture(scope="module")
def single(tmp_path_factory, config_file):
    """The workdir of one process of eight devices, with dropout."""
    workdir = tmp_path_factory.mktemp("single") / "run"
    done = command(config_file, f"--workdir={workdir}", devices=8, timeout=BOUND)
    assert done.returncode == 0, done.stderr
    return workdir


def assert_same(workdir: Path, reference: Path) -> None:
    """Every line and every result within 1e-5, none twice, none missing; one export, with the same weights."""
    ours, theirs = lines(workdir), lines(reference)
    assert [(line["step"], line["split"]) for line in ours] == [(line["step"], line["split"]) for line in theirs]
    for here, there in zip(ours, theirs, strict=True):
        assert here.pop("split") == there.pop("split")
        assert here == pytest.approx(there, rel=1e-5, abs=1e-6)
    assert results(workdir) == pytest.approx(results(reference), rel=1e-5, abs=1e-6)
    there = {path.name for path in reference.iterdir()}
    assert {path.name for path in workdir.iterdir()} - {"checkpoints-unreadable"} == there
    here, there = (load_file(folder / "export" / "model.safetensors") for folder in (workdir, reference))
    assert here.keys() == there.keys()
    for name in here:
        if not name.endswith("key.bias"):  # its gradient is zero but for rounding, which Adam makes as large as others
            assert here[name] == pytest.approx(there[name], abs=1e-5), name


def two_processes(folder: Path, script: str, *args: str) -> list[str]:
    """What two processes of four devices print that run this script, with a coordinator's address and their number."""
    file, address = folder / "script.py", f"127.0.0.1:{free_port()}"
    file.write_text(script)
    env = environment(4)
    env["PYTHONPATH"] += f":{ROOT}"
    pipes = {"stdout": subprocess.PIPE, "stderr": sys.stderr, "text": True, "cwd": ROOT, "env": env}
    processes = [subprocess.Popen([sys.executable, str(file), address, str(i), *args], **pipes) for i in range(2)]
    try:
        printed = [process.communicate(timeout=BOUND)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    return printed


@pytest.mark.matrix
def test_with_sharded_parameters_in_a_bucket(google, tmp_path, config_file, single):
    """Each process writes its own shards there, and reads them after both have been stopped."""
    url, sharded = f"{google}/pair", ["--config.mesh.fsdp=8", "--config.mesh.data=1", "--config.train.save_every=0"]
    bucket, copy = Bucket(url), tmp_path / "copy"
    with Pair(url, tmp_path, config_file, *sharded) as pair:
        pair.wait_for_a_checkpoint()
        pair.processes[0].terminate()
        assert pair.wait() == [75, 75]
    stopped = last_saved(bucket.path / "checkpoints")
    with Pair(url, tmp_path, config_file, *sharded) as pair:
        assert pair.wait() == [0, 0]
        assert f"resuming at step {stopped} of" in pair.printed(0)
    for name in bucket.names():
        bucket.fetch(name, copy)
    assert_same(copy, single)


def test_each_process_places_its_own_rows_in_any_order_of_devices(tmp_path):
    """On a TPU slice the devices of a host are neighbours in two dimensions: others' rows lie between its own."""
    assert all("rows are right" in printed for printed in two_processes(tmp_path, ROWS))


def test_a_finished_run_is_exported_evaluated_and_used(tmp_path, single):
    """By two processes as by one; the answers are written once."""
    workdir, texts = shutil.copytree(single, tmp_path / "run"), tmp_path / "texts.txt"
    shutil.rmtree(workdir / "export")
    texts.write_text("what a lovely morning\nno\nI could not have asked for worse\n" * 7)
    printed = two_processes(tmp_path, FINISHED, str(workdir), str(texts))
    assert weights(workdir) == weights(single)
    expected = {k: v for k, v in results(single).items() if k.startswith(("validation/", "test/"))}
    for text in printed:
        assert json.loads(text.splitlines()[-1]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    modes.predict(str(workdir), str(texts), str(tmp_path / "answers.jsonl"))
    here, there = ((folder / "answers.jsonl").read_text().splitlines() for folder in (workdir, tmp_path))
    assert len(here) == len(there) == 21
    for ours, theirs in zip(map(json.loads, here), map(json.loads, there), strict=True):
        assert ours.pop("probabilities") == pytest.approx(theirs.pop("probabilities"), abs=1e-5)
        assert ours.pop("probability") == pytest.approx(theirs.pop("probability"), abs=1e-5)
        assert ours == theirs


@pytest.mark.timeout(600)  # two runs of two processes
def test_they_stop_together_and_resume(tmp_path, config_file, single):
    """After SIGTERM to one, and from the checkpoint before one that is damaged. One of them listens for Prometheus."""
    workdir = tmp_path / "pair"
    with Pair(workdir, tmp_path, config_file, f"--metrics_port={free_port()}") as pair:  # free for one of them only
        pair.wait_for_a_checkpoint(after=3)
        pair.processes[1].terminate()
        assert pair.wait() == [75, 75]
        assert "stopped by SIGTERM at step" in pair.printed(0) and "metrics at http" in pair.printed(0)
    begun = damage(workdir, last_saved(workdir / "checkpoints"))
    with Pair(workdir, tmp_path, config_file) as pair:
        assert pair.wait() == [0, 0]
        assert f"resuming at step {begun} of" in pair.printed(0) and "cannot be read" in pair.printed(0)
    assert_same(workdir, single)


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dies", [0, 1])  # 0 is the coordinator
def test_one_that_dies_ends_the_other(tmp_path, config_file, single, dies: int):
    """Within a minute; both resume from the last checkpoint."""
    workdir = tmp_path / "pair"
    with Pair(workdir, tmp_path, config_file) as pair:
        pair.wait_for_a_checkpoint(after=3)
        pair.processes[dies].kill()
        killed = time.monotonic()
        codes = pair.wait()
        assert time.monotonic() - killed < 60
        assert codes[dies] == -signal.SIGKILL and codes[1 - dies] != 0
        # Whoever notices first says it: the loop, JAX's service, or Gloo, whose abort nobody can catch.
        said = pair.printed(1 - dies)
        assert any(words in said for words in ("another process", "another task died", "gloo::EnforceNotMet"))
    assert not (workdir / "results.json").exists()
    begun = last_saved(workdir / "checkpoints")
    with Pair(workdir, tmp_path, config_file) as pair:
        assert pair.wait() == [0, 0]
        assert f"resuming at step {begun} of" in pair.printed(0)
    assert_same(workdir, single)


def test_the_loop_alone_asks_whether_to_stop(tmp_path, monkeypatch):
    """The processes agree on a step by how far each has asked: a question about an older one would set it back."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: bool(asked.append(step)))
    case = support.TASKS["single_label"]
    state = support.compose(case.task, models.build(support.SMALL)).state
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2):
        state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
        checkpoints.save(state, {"step": step, "best_step": None}, None)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()
    assert not asked


def damage(workdir: Path, step: int) -> int:
    """Takes a checkpoint's data away; returns the step of the one before it, which is to be used."""
    for file in (workdir / "checkpoints" / str(step)).rglob("d/*"):
        file.unlink()
    return max(saved for saved in saved_steps(workdir / "checkpoints") if saved < step)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--coordinator=127.0.0.1:1"], "--processes and --process missing"),
        (["--processes=2", "--process=0"], "--coordinator missing"),
        (["--coordinator=here", "--processes=2", "--process=0"], "give HOST:PORT"),
        (["--coordinator=127.0.0.1:9", "--processes=2", "--process=2"], "--process is 2 of --processes=2"),
    ],
)
def test_mistakes_are_one_line(tmp_path, config_file, flags, says, capsys):
    assert cli.main(["run.py", config_file, f"--workdir={tmp_path / 'run'}", *flags], None) == 2
    assert_one_line(capsys.readouterr().err, says)


def test_nobody_comes(tmp_path, config_file):
    alone = ["--coordinator=127.0.0.1:9", "--processes=2", "--process=1", "--start_timeout=3"]
    done = command(config_file, f"--workdir={tmp_path / 'run'}", *alone, timeout=60)
    assert done.returncode == 2 and not (tmp_path / "run").exists()
    assert_one_line(done.stderr, "not all processes met")


def assert_one_line(printed: str, says: str) -> None:
    assert says in printed and len(printed.splitlines()) == 1 and printed.startswith("error: ")
