"""--mode=crossfit: every row is answered by a run that has not seen it, and doubtful labels are told."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, TINY, experiment, write_config
from support import random_params

from jaxft import Predictor, cli, config, models, modes, tasks
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.metrics import confident

KINDS = {"good": "fine lovely great", "bad": "awful poor broken", "so": "fair usual plain"}


def rows() -> list[dict[str, Any]]:
    """Texts of few words, of which those with a number of 6 have another's label; two are twins."""
    made = []
    for at in range(30):
        label, words = list(KINDS.items())[at % 3]
        given = label if at % 7 != 6 else "so"
        made.append({"number": at, "text": f"{words} {words.split()[at % 3]} {at // 3}", "sentiment": given})
    return [*made, {"number": 30, "text": made[4]["text"], "sentiment": "bad"}]


def options(model: Path, cache: Path, **train: Any) -> config.Experiment:
    keys = {"steps": 1, "epochs": 0.0, "eval_every": 1} | train
    data = {"max_length": 16, "shapes": 1, "validation_examples": 4, "train_examples": 0, "source": ""}
    return experiment(model, cache, data=data, train=keys)


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


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


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


def test_arrays_are_what_cleanlab_reads(crossed):
    probabilities, labels = np.load(crossed / "pred_probs.npy"), np.load(crossed / "labels.npy")
    assert probabilities.shape == (31, 3) and labels.dtype == np.int64
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-6)
    names = sorted(KINDS)
    for row, of, label in zip(lines(crossed, "rows.jsonl"), probabilities, labels, strict=True):
        assert row["probabilities"] == pytest.approx(dict(zip(names, of, strict=True)))
        assert row["given"] == names[label] and row["self_confidence"] == pytest.approx(of[label])


def test_doubtful_rows_are_those_confidently_of_another_class(crossed):
    probabilities, labels = np.load(crossed / "pred_probs.npy"), np.load(crossed / "labels.npy")
    sure, names = confident.classes(labels, probabilities), sorted(KINDS)
    off = [at for at in range(31) if sure[at] >= 0 and sure[at] != labels[at]]
    found, results = lines(crossed, "doubtful.jsonl"), json.loads((crossed / "crossfit.json").read_text())
    assert sorted(row["number"] for row in found) == off and len(off) == results["doubtful"] > 0
    margins = [row["normalized_margin"] for row in found]
    assert margins == sorted(margins)
    assert all(row["confidently"] == names[sure[row["number"]]] != row["given"] for row in found)
    assert results["confident_joint"] == confident.joint(labels, sure, 3).tolist()
    assert results["metrics"]["accuracy"] == pytest.approx((probabilities.argmax(-1) == labels).mean())
    page = (crossed / "index.html").read_text()
    assert found[0]["text"] in page and f"{len(off)} of 31 rows" in page and "given \\ confidently" in page


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


def test_what_cannot_be_crossed(crossed, tiny_model, cache, tmp_path):
    def refused(
        said: str, workdir: Path | str = tmp_path / "new", folds: int = 2, data: Any = None, **task: Any
    ) -> None:
        e = options(tiny_model, cache)
        given: dict[str, Any] = {"label": "sentiment"} | task
        e.task = config.SequenceClassification(**given)
        with pytest.raises(UserError, match=said):
            modes.crossfit(e, str(workdir), folds, {"train": data or rows()})
        assert not (tmp_path / "new").exists()

    refused(r"--crossfit\.folds is 1; it must be at least 2", folds=1)
    refused(r"--crossfit\.folds is 31, but there are only 30 different rows; give fewer folds", folds=31)
    refused("--workdir gs://bucket/folds: folds are written to a folder of this machine; give one", "gs://bucket/folds")
    several = [{"text": "a", "sentiment": ["x"]}, {"text": "b", "sentiment": ["y"]}]
    refused("this is SequenceClassification multi_label", data=several)
    refused("this is SequenceClassification regression", label="number", problem="regression")
    refused(r"holds folds of others \(folds: 2 there, 3 here\); choose another --workdir", crossed, folds=3)
    refused(r"holds folds of others \(rows: 31 there, 30 here\)", crossed, data=rows()[1:])
    changed = [row | {"text": row["text"] + "!"} for row in rows()]
    refused(r"holds folds of others \(data: ", crossed, data=changed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    refused("full is not empty and holds no folds; choose another --workdir", tmp_path / "full")
