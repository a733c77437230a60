"""--mode=inspect: where parameters live and what a device holds, told from config.json alone."""

import json
import re

import pytest
from runs import TINY, command, experiment, write_config

from jaxft import cli

FSDP = ("--config.mesh.data=1", "--config.mesh.fsdp=4", "--config.mesh.tensor=2")


@pytest.fixture
def config_file(tmp_path, cache):
    """An experiment on a model without weights and without data."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(TINY))
    e = experiment(directory, cache)
    e.data.source = ""
    return f"--config={write_config(tmp_path / 'tiny.py', e)}"


def columns(text: str, path: str) -> list[str]:
    """What follows the path on its line."""
    return next(re.split(r"  +", line.strip())[1:] for line in text.splitlines() if line.split()[:1] == [path])


def test_it_prints_and_draws_the_tree(config_file):
    rules = "--config.mesh.rules=heads=none,bert/encoder/layer/0/output/dense/kernel=none|fsdp+tensor"
    done = command("--mode=inspect", config_file, *FSDP, rules, "--draw=bert/encoder/.*/output/dense/kernel", devices=8)
    assert (done.returncode, done.stderr) == (0, "")
    tree, drawn = done.stdout.split("The head is shown for one label")
    assert "mesh   data 1 x fsdp 4 x tensor 2  (8 of cpu)" in tree
    layer = "bert/encoder/layer"
    expected = {
        "bert/embeddings/word_embeddings/embedding": ["1", "30522 x 32", "float32", "tensor|fsdp", "488,352", "yes"],
        f"{layer}/0-1/attention/self/query/kernel": ["2", "32 x 32", "float32", "fsdp|none", "2,048", "yes"],
        f"{layer}/0/output/dense/kernel": ["1", "64 x 32", "float32", "none|fsdp+tensor", "1,024", "yes"],
        f"{layer}/1/output/dense/kernel": ["1", "64 x 32", "float32", "tensor|fsdp", "1,024", "yes"],
        f"{layer}/0-1/output/dense/bias": ["2", "32", "float32", "fsdp", "64", "yes"],
    }
    assert {path: columns(tree, path) for path in expected} == expected
    rows = [re.split(r"  +", line.strip()) for line in tree.splitlines() if line.endswith("yes")]
    learns = re.search(r"parameters that learn +\d+ +([\d,]+) +([\d,]+) +([\d,]+)\n", tree)
    assert learns and sum(int(row[5].replace(",", "")) for row in rows) == int(learns[3].replace(",", ""))
    assert "parameters that do not" in tree and "optimizer state" in tree
    first, second = re.findall(rf"\n({layer}\S+)  64 x 32  (\S+)\n(.*?)┘", drawn, re.DOTALL)
    assert [row.count("CPU") for row in first[2].splitlines() if "CPU" in row] == [8]
    assert [row.count("CPU") for row in second[2].splitlines() if "CPU" in row] == [4, 4]


def test_it_describes_a_run(finished, capsys):
    """Its labels are known by now."""
    assert cli.main(["run.py", "--mode=inspect", f"--workdir={finished}"], None) == 0
    text = capsys.readouterr().out
    assert columns(text, "classifier/kernel")[1:] == ["32 x 3", "float32", "fsdp|none", "384", "yes"]
    assert "The head is shown" not in text
