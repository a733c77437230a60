"""--mode=soup: the mean of several runs, as its definition has it, and only where validation says so."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import experiment
from safetensors.numpy import load_file, save_file

from jaxft import Predictor, cli, config, modes
from jaxft.errors import UserError
from jaxft.job import prepare
from jaxft.modes import souping

WEIGHTS = Path("export", "model.safetensors")


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory) -> list[Path]:
    """The finished run, one near it, and one that answers at random."""
    folder, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    found = [finished]
    for name, size in (("near", 1e-3), ("far", 3.0)):
        copy = shutil.copytree(finished, folder / name)
        tensors = load_file(copy / WEIGHTS)
        save_file({key: x + rng.normal(0, size, x.shape).astype(x.dtype) for key, x in tensors.items()}, copy / WEIGHTS)
        found.append(copy)
    return found


@pytest.fixture(scope="module")
def answered(finished, tiny_model, cache, tmp_path_factory) -> Path:
    """Texts with the finished run's answers as labels, so that it is right of all."""
    texts = prepare(config.check(experiment(tiny_model, cache))).splits["train"].table.column("text").to_pylist()
    labels = [one["prediction"] for one in Predictor.open(finished)(texts)]
    file = tmp_path_factory.mktemp("answered") / "own.jsonl"
    rows = ({"text": text, "sentiment": label} for text, label in zip(texts, labels, strict=True))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_uniform_is_the_mean_of_all(runs, tmp_path, capsys):
    output = tmp_path / "mean"
    argv = ["--mode=soup", f"--workdir={runs[0]}", f"--runs={runs[1]},{runs[2]}", f"--output={output}"]
    assert cli.main(["run.py", *argv, "--soup.how=uniform"], None) == 0
    assert f"mean of 3 of 3 runs: {output}" in capsys.readouterr().err
    each, found = [load_file(run / WEIGHTS) for run in runs], load_file(output / WEIGHTS.name)
    for name, x in found.items():
        np.testing.assert_allclose(x, np.mean([one[name] for one in each], axis=0), atol=1e-6)
    about = json.loads((output / "soup.json").read_text())
    assert about["runs"] == [str(run) for run in runs] and about["how"] == "uniform"
    assert set(about["alone"]) == set(about["runs"]) and about["metrics"]["loss"] > 0
    assert len(Predictor.open(output)(["what a day"])) == 1
    assert "| all 3 |" in (output / "README.md").read_text()


def test_greedy_leaves_out_what_makes_it_worse(runs, answered, tmp_path):
    values = modes.soup(str(runs[2]), [str(runs[1]), str(runs[0])], str(tmp_path / "mean"), inputs=str(answered))
    alone = {Path(run).name: found["accuracy"] for run, found in values["alone"].items()}
    assert alone["run"] == 1 and alone["far"] < alone["near"]
    assert str(runs[2]) not in values["runs"] and values["runs"][0] == str(runs[0])
    assert values["metrics"]["accuracy"] >= 1 and values["measured_on"] == answered.name
    each = [load_file(Path(run) / WEIGHTS) for run in values["runs"]]
    for name, x in load_file(tmp_path / "mean" / WEIGHTS.name).items():
        np.testing.assert_allclose(x, np.mean([one[name] for one in each], axis=0), atol=1e-6)


def test_runs_that_do_not_fit(runs, tmp_path):
    def refused(said: str, others: list[str], first: Path = runs[0], **options) -> None:
        with pytest.raises(UserError, match=said):
            souping.soup(str(first), others, str(tmp_path / "mean"), **options)
        assert not (tmp_path / "mean").exists()

    refused("a mean is of two runs or more, each once", [str(runs[0])])
    refused(r"--soup\.how is 'gready'; did you mean 'greedy'", [str(runs[1])], how="gready")
    refused("--input is missing", [str(runs[1])], first=runs[0] / "export")
    turned = shutil.copytree(runs[0], tmp_path / "turned")
    settings = json.loads((turned / "config.json").read_text())
    settings["task"]["labels"] = settings["task"]["labels"][::-1]
    (turned / "config.json").write_text(json.dumps(settings))
    refused("their tasks are not the same, or not their labels in the same order", [str(turned)])
    refused("each once", [f"{runs[0]}/"])
    other = shutil.copytree(runs[0], tmp_path / "other")
    settings = json.loads((other / "export" / "config.json").read_text())
    (other / "export" / "config.json").write_text(json.dumps(settings | {"num_attention_heads": 4}))
    refused("are of models that compute otherwise", [str(other)])
    smaller = tmp_path / "smaller"
    modes.compress(str(runs[0]), str(smaller), layers=1)
    refused("they are models of other sizes", [str(smaller)])
