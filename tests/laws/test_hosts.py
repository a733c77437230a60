"""Law 3 across processes: two processes of four devices each train as one of eight does, and stand or fall together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import ROOT, TWEETS, command, lines, results
from safetensors.numpy import load_file

BOUND = 150
"""Seconds after which a run of two processes hangs: it takes about twenty on two cores of its own."""

ROWS = """
import sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxft import distributed
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
        train=Train(batch_size=12, epochs=4, log_every=1, eval_every=7),
    )
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(devices: int) -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


class Pair:
    """Two processes of one run, of four simulated devices each; their output is in files beside the workdir."""

    def __init__(self, workdir: Path, *args: str):
        self._workdir = workdir
        common = [
            f"--workdir={workdir}",
            f"--coordinator=127.0.0.1:{free_port()}",
            "--processes=2",
            "--heartbeat_timeout=10",
        ]
        self._output = [workdir.with_name(f"{workdir.name}.{i}.txt") for i in range(2)]
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
        while (newest := last_saved(self._workdir)) <= after:
            running = all(process.poll() is None for process in self.processes)
            assert running and time.monotonic() < limit, self.printed(0) + self.printed(1)
            time.sleep(0.02)
        return newest


def last_saved(workdir: Path) -> int:
    return max((int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()), default=0)


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
    assert {path.name for path in workdir.iterdir()} == {path.name for path in reference.iterdir()}
    here, there = (load_file(folder / "export" / "model.safetensors") for folder in (workdir, reference))
    assert here.keys() == there.keys()
    for name in here:
        if not name.endswith("key.bias"):  # its gradient is zero but for rounding, which Adam makes as large as others
            assert here[name] == pytest.approx(there[name], abs=1e-5), name


def test_two_processes_train_as_one(tmp_path, config_file, single):
    with Pair(tmp_path / "pair", config_file) as pair:
        assert pair.wait() == [0, 0]
    assert_same(tmp_path / "pair", single)


def test_with_sharded_parameters(tmp_path, config_file, single):
    with Pair(tmp_path / "pair", config_file, "--config.mesh.data=1", "--config.mesh.fsdp=8") as pair:
        assert pair.wait() == [0, 0]
    assert_same(tmp_path / "pair", single)


def test_each_process_places_its_own_rows_in_any_order_of_devices(tmp_path):
    """On a TPU slice the devices of a host are neighbours in two dimensions: others' rows lie between its own."""
    script = tmp_path / "rows.py"
    script.write_text(ROWS)
    address = f"127.0.0.1:{free_port()}"
    runs = [[sys.executable, str(script), address, str(i)] for i in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    processes = [subprocess.Popen(run, env=environment(devices=4) | {"PYTHONPATH": str(ROOT)}, **pipes) for run in runs]
    try:
        for process in processes:
            assert "rows are right" in process.communicate(timeout=BOUND)[0]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.timeout(900)  # four runs of two processes
def test_they_stop_together_and_resume(tmp_path, config_file, single):
    workdir = tmp_path / "pair"
    with Pair(workdir, config_file) as pair:
        saved = pair.wait_for_a_checkpoint()
        pair.processes[1].terminate()
        assert pair.wait() == [75, 75]
        assert "stopped by SIGTERM at step" in pair.printed(0)
    for dies in (1, 0):  # 0 is the coordinator
        begun = last_saved(workdir)
        assert begun >= saved
        with Pair(workdir, config_file) as pair:
            saved = pair.wait_for_a_checkpoint(after=begun)
            pair.processes[dies].kill()
            killed = time.monotonic()
            codes = pair.wait()
            assert time.monotonic() - killed < 60
            assert codes[dies] == -signal.SIGKILL and codes[1 - dies] != 0
            assert "another process" in pair.printed(1 - dies) or "another task died" in pair.printed(1 - dies)
            assert f"resuming at step {begun} of" in pair.printed(0)
    assert not (workdir / "results.json").exists()
    with Pair(workdir, config_file) as pair:
        assert pair.wait() == [0, 0]
    assert_same(workdir, single)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--coordinator=127.0.0.1:1"], "--processes and --process missing"),
        (["--processes=2", "--process=0"], "--coordinator missing"),
        (["--coordinator=here", "--processes=2", "--process=0"], "give HOST:PORT"),
        (["--coordinator=127.0.0.1:9", "--processes=2", "--process=2"], "--process is 2 of --processes=2"),
        (["--coordinator=127.0.0.1:9", "--processes=2", "--process=1", "--start_timeout=3"], "not all processes met"),
    ],
)
def test_mistakes_are_one_line(tmp_path, config_file, flags, says):
    done = command(config_file, f"--workdir={tmp_path / 'run'}", *flags, timeout=60)
    assert done.returncode == 2 and says in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert not (tmp_path / "run").exists()
