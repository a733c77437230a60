"""--profile=N writes a trace of N whole steps, and changes nothing else about the run."""

import collections
import gzip
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from runs import ROOT, experiment, lines, results, weights

from jaxft import cli, modes
from jaxft.report.profile import BEFORE, tracing

PAGE = (ROOT / "docs" / "profiling.md").read_text(encoding="utf-8")


def trace(folder: Path) -> list[dict[str, Any]]:
    """The events of the one trace in a folder, as Perfetto opens them."""
    (file,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    assert next(file.parent.glob("*.xplane.pb")).stat().st_size > 1000, "what TensorBoard opens"
    with gzip.open(file) as compressed:
        return [event for event in json.load(compressed)["traceEvents"] if event.get("ph") == "X"]


def steps(events: list[dict[str, Any]]) -> list[int]:
    return sorted(int(event["args"]["step_num"]) for event in events if event["name"] == "train")


def test_a_run_is_traced(tiny_model, cache, finished, tmp_path, capsys):
    modes.train(experiment(tiny_model, cache), str(tmp_path / "run"), profile=2)
    events = trace(tmp_path / "run" / "profile")
    assert steps(events) == [BEFORE, BEFORE + 1]
    computed = collections.defaultdict(set)
    for event in events:
        if "hlo_module" in (values := event.get("args", {})):
            computed[values["hlo_module"]].add(values["run_id"])
    runs = {name: len(found) for name, found in computed.items() if name.endswith("_step")}
    assert runs == {"jit_gradient_step": 2, "jit_update_step": 2}, "both steps are there, and no other"
    assert lines(tmp_path / "run") == lines(finished) and results(tmp_path / "run") == results(finished)
    assert weights(tmp_path / "run") == weights(finished)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    exec(compile(code.replace("/tmp/qs", f"{tmp_path}/run"), "docs/profiling.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    for name, line in zip(("gradient", "update"), said, strict=False):
        assert re.fullmatch(rf"jit_{name}_step, ms: \[\d+, \d+\]", line)
    assert len(said) == 8 and "ms a step" in said[-1]


@jax.jit
def step(state, batch):
    return state + batch.sum()


def calls(folder: Path, count: int, times: int) -> int:
    """Of a wrapped step; returns how often it has asked whether all is compiled."""
    asked, state, batch = [], jnp.zeros(()), jnp.ones(100)
    with tracing(folder, count, lambda: asked.append(True)) as traced:
        wrapped = traced(step)
        for _ in range(times):
            state = wrapped(state, batch)
    assert float(state) == 100 * times
    return len(asked)


def test_a_run_that_ends_first_is_traced_as_far_as_it_goes(tmp_path):
    assert calls(tmp_path / "profile", count=10, times=BEFORE + 2) == 1
    assert steps(trace(tmp_path / "profile")) == [BEFORE, BEFORE + 1]


@pytest.mark.parametrize(("count", "times"), [(0, BEFORE + 2), (3, BEFORE)])
def test_without_a_trace_nothing_is_written(tmp_path, count, times):
    assert calls(tmp_path / "profile", count, times) == 0
    assert not (tmp_path / "profile").exists()


def test_it_cannot_be_negative(capsys):
    assert cli.main(["run.py", "--config=quickstart", "--workdir=x", "--profile=-1"], None) == 2
    assert "--profile" in capsys.readouterr().err
