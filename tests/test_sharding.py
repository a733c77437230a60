"""Where arrays live: how much of the state each device holds, what crosses between them, and a user's own rules."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
from runs import ROOT, environment, experiment, on_eight_devices, write_config


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    return on_eight_devices("facts")


def test_fsdp_shares_parameters_and_optimizer_state(facts: dict[str, Any]):
    """An eighth each, and what is whole everywhere (biases of heads and hidden units, counters) within 2% of it all."""
    alone, shared = facts["1"], facts["8 fsdp"]
    assert shared["small"] <= (1 / 8 + 0.02) * alone["small"]
    assert shared["minilm"] <= 1.02 / 8 * alone["minilm"]
    assert facts["4 data x 2 fsdp"]["minilm"] <= 1.02 / 2 * alone["minilm"]


@pytest.mark.parametrize("mesh", ["8 fsdp", "4 data x 2 fsdp"])
def test_parameters_are_gathered_and_activations_are_not(facts: dict[str, Any], mesh: str):
    """Each split parameter is gathered once, and only its gradient and scalars are summed over the devices.

    On CPU XLA sums a gradient and then cuts out the share (all-reduce, dynamic-slice); on GPU and TPU it makes a
    reduce-scatter of the two.
    """
    found = Counter((kind, tuple(dims)) for kind, dims in facts[mesh]["collectives"])
    split, whole = (Counter(tuple(shape) for shape in facts[name]) for name in ("split", "whole"))
    assert {dims: count for (kind, dims), count in found.items() if kind == "all-gather"} == split
    summed = {dims for kind, dims in found if kind != "all-gather"}
    transposed = {dims[::-1] for dims in split}  # XLA computes some of the gradients so
    assert summed <= split.keys() | whole.keys() | transposed | {()}
    assert {kind for kind, _ in found} <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_one_device_needs_no_collectives(facts: dict[str, Any]):
    assert facts["1"]["collectives"] == []


def test_the_gradient_of_words_is_summed_over_devices_once(facts: dict[str, Any]):
    """However many blocks they are scored in."""
    sums = facts["decoder"]
    assert 1 <= sums["summed"] / sums["parameters"] < 1.01


def test_each_device_computes_its_heads_by_the_kernel(facts: dict[str, Any]):
    assert facts["kernel"] < 1e-5


@pytest.mark.matrix
def test_the_page_ends_in_an_experiment(tiny_model, cache, tmp_path):
    """Its commands, letter for letter but for the model and the folders, show another layout and the same losses."""
    page = (ROOT / "docs" / "sharding.md").read_text()
    script = "".join(re.findall(r"^    (.*\n)", page.split("## Your own experiment")[1], re.MULTILINE))
    config = write_config(tmp_path / "tiny.py", experiment(tiny_model, cache, data={"shapes": 1}))
    for written, here in (
        ("configs/quickstart.py", str(config)),
        ("/tmp/by-", f"{tmp_path}/by-"),
        ("python ", f"{shlex.quote(sys.executable)} "),
    ):
        assert written in script
        script = script.replace(written, here)
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    shown = re.search(r"bert/encoder/layer/0-1/intermediate/dense/kernel .*", done.stdout)
    assert shown and shown[0].split()[-3] == "none|fsdp"
    losses = [json.loads(line)["loss"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(losses) == 8 and losses[:4] == pytest.approx(losses[4:], rel=1e-5) and len(set(losses[:4])) == 4
