"""--mode=setfit: which texts are paired, what its two runs are, and that the second one is a classifier."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, TINY, results, write_config
from support import random_params
from test_crossfitting import options, rows

from jaxft import Predictor, cli, config, models, modes, tasks
from jaxft.data import rows as in_memory
from jaxft.data import splits
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.modes import pairing
from jaxft.modes.shared import claim

TEXTS, LABELS = [*"abcdefg"], np.asarray([0, 0, 0, 1, 1, 1, 2])


def test_pairs_are_within_a_class_and_across():
    found = pairing.pairs_of(TEXTS, LABELS, 30, 0)
    label = dict(zip(TEXTS, LABELS, strict=True))
    for pair in found:
        assert pair["text"] != pair["other"]
        assert pair["score"] == float(label[pair["text"]] == label[pair["other"]])
    counts = {(text, score): 0 for text in TEXTS for score in (0.0, 1.0)}
    for pair in found:
        counts[pair["text"], pair["score"]] += 1
    assert all(count == (0 if key == ("g", 1.0) else 30) for key, count in counts.items())
    assert {pair["other"] for pair in found if pair["text"] == "a"} == {*"bcdefg"}
    assert pairing.pairs_of(TEXTS, LABELS, 30, 0) == found != pairing.pairs_of(TEXTS, LABELS, 30, 1)
    with pytest.raises(UserError, match="pairs texts of a class, but no class has two"):
        pairing.pairs_of([*"ab"], np.asarray([0, 1]), 3, 0)


def read(e: config.Experiment, **data: Any) -> Any:
    return pairing._read(*in_memory.given(e, {"train": rows(), **data}))


def test_splits_are_those_of_a_run(capsys):
    e = options()
    e.data.train_examples, e.data.test_examples = 12, 3
    _, task, made = read(e)
    assert {name: split.table.num_rows for name, split in made.items()} == {"train": 12, "validation": 4, "test": 3}
    assert task.labels == ("bad", "good", "so") and "using 12 of " in capsys.readouterr().err


def test_the_two_runs(tiny_model):
    """One trains the body by what the head is applied to; the other the head alone, at a rate of its own."""
    e = options(tiny_model)
    e.objective, e.optimizer.l2_sp, e.data.train_examples = config.Objective(r_drop=1.0), 0.1, 12
    e.model.reinit, e.data.augment, e.model.head = 1, 2, "load"
    e.train.metric, e.train.patience = "accuracy", 3
    first, head = pairing.of_pairs(e), pairing.of_head(e, Path("body"), pairing.Options(head_epochs=7, head_rate=0.5))
    assert first.task == config.SentenceEmbedding(texts=("text", "other"), score="score", pooling="cls")
    assert (first.model, first.optimizer, first.adapt) == (e.model, e.optimizer, "full")
    assert first.train == dataclasses.replace(e.train, metric="", patience=0)
    assert (first.name, head.name) == ("tiny, pairs", "tiny, head")
    assert first.objective == head.objective == config.Objective()
    assert (first.data.validation_fraction, first.data.augment, head.data.augment) == (0, 0, 2)
    for one in (first, head):
        kept = one.data.source, one.data.train_examples, one.data.validation_examples, one.data.test_examples
        assert kept == ("", 0, 0, 0) and config.check(one, data=False)
    assert (head.model.path, head.model.head, head.model.reinit) == ("body", "new", 0)
    assert (head.adapt, head.freeze.last_layers) == ("freeze", 0)
    assert head.train == dataclasses.replace(e.train, epochs=7, steps=0)
    assert (head.optimizer.learning_rate, head.optimizer.l2_sp) == (0.5, 0) and head.task == e.task


@pytest.mark.parametrize("name", ["pairs", "head_epochs", "head_rate"])
def test_options_that_learn_nothing(tmp_path, name):
    with pytest.raises(UserError, match=rf"--setfit\.{name} is 0; it must be above 0"):
        modes.setfit(options(), str(tmp_path), dataclasses.replace(pairing.Options(), **{name: 0}), {"train": rows()})


def test_a_folder_of_other_runs_is_refused_before_anything_is_trained(tmp_path):
    e = options()
    e.data.test_examples = 3
    _, _, made = read(e)
    there = {name: splits.fingerprint(split.table) for name, split in made.items()}
    mine = {"pairs": 2, "head_epochs": 50.0, "head_rate": 1e-3, "seed": 0, "data": there}
    for name, value in (("pairs", 3), ("head_epochs", 1.0), ("head_rate", 1.0), ("seed", 1), ("data", {})):
        claim(tmp_path / name, pairing.CLAIM, mine | {name: value}, "runs")
        with pytest.raises(UserError, match=rf"holds runs of others \({name}: "):
            modes.setfit(e, str(tmp_path / name), pairing.Options(pairs=2), {"train": rows()})


def test_what_has_no_classes_of_texts():
    e = options()
    e.adapt = "prompt"
    with pytest.raises(UserError, match="but adapt=prompt leaves none that is whole; use full or lora"):
        read(e)
    e = options()
    e.task = config.SequenceClassification(label="number", problem="regression")
    with pytest.raises(UserError, match=r"with a class a text .* this is SequenceClassification regression"):
        read(e)
    e.task = config.SequenceClassification(label="sentiment", text_pair="sentiment")
    with pytest.raises(UserError, match=r"and no task\.text_pair; this is .* single_label, task\.text_pair set"):
        read(e)
    with pytest.raises(UserError, match="s3://b/f: both runs are written to a folder of this machine"):
        modes.setfit(options(), "s3://b/f", data={"train": rows()})


@pytest.mark.matrix
def test_a_classifier_from_few_rows(cache, tmp_path, capsys):
    """From the command line; it answers, its body is the one that pairs have made, and it is not made twice."""
    hf, task = TINY | {"num_hidden_layers": 1}, tasks.build(config.SequenceClassification(labels=("a", "b")))
    params = random_params(task, models.build(hf), seed=0)
    assert MINILM
    export.export(tmp_path / "model", {"bert": params["bert"]}, hf, "BertModel", MINILM, "A.")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    e = options(tmp_path / "model", cache)
    e.data.source, e.data.encoding, e.data.test_examples = str(tmp_path / "rows.jsonl"), "utf-8", 4
    file, folder = write_config(tmp_path / "few.py", e), tmp_path / "few"
    argv = ["run.py", "--mode=setfit", f"--config={file}", f"--workdir={folder}", "--setfit.pairs=3"]
    assert cli.main([*argv, "--setfit.head_epochs=2"], None) == 0
    assert "pairs of 23 texts" in capsys.readouterr().err
    found = results(folder / "head")
    assert found["train/steps"] > 1 and 0 <= found["test/accuracy"] <= 1
    assert {answer["prediction"] for answer in Predictor.open(folder / "head")(["fine", "awful"])} <= {
        "bad",
        "good",
        "so",
    }
    held = json.loads((folder / "head" / "config.json").read_text())
    assert held["model"]["path"] == str(folder / "pairs" / "export") and held["adapt"] == "freeze"
    before = (folder / "head" / "results.json").read_bytes()
    assert cli.main([*argv, "--setfit.head_epochs=2"], None) == 0
    assert capsys.readouterr().err.count("is finished") == 2
    assert (folder / "head" / "results.json").read_bytes() == before
    assert cli.main([*argv, "--setfit.head_epochs=3"], None) == 2
    assert "holds runs of others (head_epochs: 2.0 there, 3.0 here)" in capsys.readouterr().err
