"""--mode=crossfit: every row is answered by a run that has not seen it, and what is done is not done again."""

import json
import shutil
from pathlib import Path

import pytest
from runs import MINILM, TINY, write_config
from support import random_params
from test_crossfitting import KINDS, lines, options, rows

from jaxft import Predictor, cli, config, models, tasks
from jaxft.hub import export


@pytest.fixture(scope="module")
def crossed(cache, tmp_path_factory) -> Path:
    """The folder of two folds of a model of one layer, done from a file on the command line."""
    folder = tmp_path_factory.mktemp("crossed")
    hf, task = TINY | {"num_hidden_layers": 1}, tasks.build(config.SequenceClassification(labels=("a", "b")))
    params = random_params(task, models.build(hf), seed=0)
    assert MINILM
    export.export(folder / "model", {"bert": params["bert"]}, hf, "BertModel", MINILM, "A.")
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    e = options(folder / "model", cache)
    e.data.source, e.data.encoding = str(source), "utf-8"
    argv = ["--mode=crossfit", f"--config={write_config(folder / 'cross.py', e)}", f"--workdir={folder / 'folds'}"]
    assert cli.main(["run.py", *argv, "--crossfit.folds=2"], None) == 0
    return folder / "folds"


def test_each_row_is_answered_by_the_run_that_has_not_seen_it(crossed):
    found, given = lines(crossed, "rows.jsonl"), rows()
    assert [row["number"] for row in found] == list(range(31)) and found[3]["where"] == "rows.jsonl, row 4"
    for fold in range(2):
        held = [row for row in found if row["fold"] == fold]
        answers = Predictor.open(crossed / f"fold-{fold}")([row["text"] for row in held])
        for row, answer in zip(held, answers, strict=True):
            assert row["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
    assert found[4]["fold"] == found[30]["fold"], "twins"
    for label in KINDS:
        sizes = [sum(row["fold"] == fold and row["given"] == label for row in found) for fold in range(2)]
        assert abs(sizes[0] - sizes[1]) <= 2
    assert [row["given"] for row in found] == [row["sentiment"] for row in given]


def test_a_fold_is_trained_on_the_others_alone(crossed):
    found = lines(crossed, "rows.jsonl")
    for fold in range(2):
        held = json.loads((crossed / f"fold-{fold}" / "config.json").read_text())
        assert held["data"]["source"] == "(rows in memory)" and held["name"] == f"tiny, fold {fold + 1} of 2"
        assert held["task"]["labels"] == sorted(KINDS)
        results = json.loads((crossed / f"fold-{fold}" / "results.json").read_text())
        assert "test/loss" not in results and results["train/steps"] == 1
    counts = json.loads((crossed / "folds.json").read_text())
    assert (counts["folds"], counts["seed"], counts["rows"]) == (2, 0, 31) and len(found) == 31


def test_what_is_done_is_not_done_again(crossed, capsys):
    before = {file: file.read_bytes() for file in crossed.glob("*.*")}
    argv = ["--mode=crossfit", f"--config={crossed.parent / 'cross.py'}", f"--workdir={crossed}", "--crossfit.folds=2"]
    assert cli.main(["run.py", *argv], None) == 0
    assert capsys.readouterr().err.count("is finished") == 2
    assert {file: file.read_bytes() for file in crossed.glob("*.*")} == before


@pytest.mark.matrix
def test_cut_off_it_goes_on(crossed, tmp_path):
    """The second fold is trained again, from nothing, and all is the same."""
    copy = shutil.copytree(crossed, tmp_path / "folds")
    shutil.rmtree(copy / "fold-1")
    (copy / "crossfit.json").unlink()
    argv = ["--mode=crossfit", f"--config={crossed.parent / 'cross.py'}", f"--workdir={copy}", "--crossfit.folds=2"]
    assert cli.main(["run.py", *argv], None) == 0
    for file in crossed.glob("*.*"):
        assert (copy / file.name).read_bytes() == file.read_bytes(), file.name
