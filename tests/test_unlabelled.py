"""Texts without labels beside labelled ones: how they are read, laid behind them, drawn, and answered by teachers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, experiment
from test_crossfitting import options, rows

from jaxft import Predictor, config, modes
from jaxft.batch import COPY, UNLABELLED
from jaxft.data import augment, unlabelled
from jaxft.data import rows as in_memory
from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.job import Job, prepare
from jaxft.predict.teacher import taught

TEXTS = ["some words that nobody has read", "and more of them", "others again"]


def features(lengths: list[int], first: int, **examples: Any) -> Features:
    """Tokens counted from `first`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(first, first + offsets[-1])
    return Features(offsets, {"input_ids": ids}, {name: np.asarray(x) for name, x in examples.items()}, {"cut": 1.0})


def tokens(of: Features) -> list[list[int]]:
    return [part.tolist() for part in np.split(of.tokens["input_ids"], of.offsets[1:-1])]


def test_texts_lie_behind_labelled_rows_each_before_its_copy():
    labelled = features([1, 2], 0, labels=np.asarray([[1, 0], [0, 1]], np.float32))
    texts, copies = features([2, 1], 10), features([1, 3], 20)
    found = unlabelled.joined(labelled, [texts, copies])
    assert tokens(found) == [[0], [1, 2], [10, 11], [20], [12], [21, 22, 23]]
    assert found.examples["row"].tolist() == [0, 1, 2, 2, 3, 3] and found.about == {"cut": 1.0}
    assert found.examples["weights"].tolist() == [1, 1, 0, 0, 0, 0]
    assert found.examples["labels"].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert found.examples[UNLABELLED].tolist() == [0, 0, 1, 0, 1, 0]
    assert found.examples[COPY].tolist() == [0, 0, 0, 1, 0, 1]
    assert unlabelled.kinds(found).tolist() == [0, 0, 1, 2, 1, 2]
    assert found.bounds.tolist() == [0, 1, 2, 4, 6]


def test_texts_alone_are_examples_of_their_own_and_weights_stay():
    labelled = features([1, 2], 0, labels=np.asarray([1, 0]), weights=np.asarray([0.5, 2.0], np.float32))
    found = unlabelled.joined(labelled, [features([2], 10)])
    assert tokens(found) == [[0], [1, 2], [10, 11]] and "row" not in found.examples and COPY not in found.examples
    assert found.examples["weights"].tolist() == [0.5, 2, 0]
    assert unlabelled.kinds(found).tolist() == [0, 0, 1] and unlabelled.kinds(labelled).tolist() == [0, 0]


def test_a_share_of_an_epoch_is_drawn_from_them():
    def drawn(weights: list[float] | None, share: float) -> list[float]:
        found = unlabelled.drawn(None if weights is None else np.asarray(weights), 2, 6, share)
        return [] if found is None else found.tolist()

    assert drawn(None, 0.0) == []
    assert drawn(None, 0.5) == pytest.approx([0.25, 0.25, *[0.5 / 6] * 6])
    assert drawn([3.0, 1.0], 0.6) == pytest.approx([0.3, 0.1, *[0.1] * 6])
    assert drawn([3.0, 1.0], 0.0) == pytest.approx([3 / 16, 1 / 16, *[1 / 8] * 6])


def asked(folder: Path, *texts: str, **keys: Any) -> config.Experiment:
    """An experiment on rows in memory and a file of texts; `SECTION__KEY`."""
    assert MINILM
    e = options(MINILM)
    (folder / "texts.txt").write_text("\n".join(texts or TEXTS) + "\n")
    e.data.test_examples, e.data.unlabelled, e.objective.uda = 3, str(folder / "texts.txt"), 1.0
    for name, value in keys.items():
        section, key = name.split("__")
        setattr(getattr(e, section), key, value)
    return e


def job_of(e: config.Experiment) -> Job:
    e, given = in_memory.given(e, {"train": rows()})
    return prepare(config.check(e), given=given)


def test_texts_of_validation_and_test_are_left_out(tmp_path):
    """And those that occur in training stay: a run learns from their texts, not from their labels, once more."""
    job = job_of(asked(tmp_path))
    held = {name: split.table.column("text").to_pylist() for name, split in job.splits.items()}
    mixed = [held["validation"][0], *TEXTS, held["test"][0], held["train"][0]]
    job = job_of(asked(tmp_path, *mixed, data__augment_share=0.3))
    assert job.unlabelled and job.unlabelled.copies
    texts, copies = (part.table.column("text").to_pylist() for part in job.unlabelled.parts)
    assert texts == [*TEXTS, held["train"][0]]
    assert copies == [augment.changed(text, 0, 0.3, {}, job.experiment.seed) for text in texts]
    assert "4 of 6 texts of texts.txt are learned from without labels" in job.notes
    count = len(held["train"])
    assert unlabelled.kinds(job.features["train"]).tolist() == [0] * count + [1, 2] * 4
    assert len(job.order.lengths) == count + 4 and job.together
    assert UNLABELLED not in job.features["validation"].examples
    with pytest.raises(UserError, match="all of its texts are in validation or test too; give others"):
        job_of(asked(tmp_path, held["validation"][0]))


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.unlabelled: .*none\.txt"):
        job_of(asked(tmp_path, data__unlabelled=str(tmp_path / "none.txt")))
    (tmp_path / "texts.csv").write_text("words\nsome\n")
    with pytest.raises(UserError, match="has no column 'text'"):
        job_of(asked(tmp_path, data__unlabelled=str(tmp_path / "texts.csv")))
    with pytest.raises(UserError, match="nothing is learned from texts without labels"):
        job_of(asked(tmp_path, objective__uda=0.0))


def test_teachers_answer_texts_without_labels_and_no_copies(finished, tiny_model, cache, tmp_path):
    """What is said of them is what a Predictor says."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    e = experiment(tiny_model, cache)
    e.data.unlabelled = str(tmp_path / "texts.txt")
    e.objective = config.Objective(teacher=(str(finished),), uda=1.0)
    job = taught(prepare(config.check(e)))
    said, kinds = job.features["train"].examples["teacher/logits"], unlabelled.kinds(job.features["train"])
    texts = job.splits["train"].table.column("text").to_pylist() + TEXTS
    wanted = [list(answer["probabilities"].values()) for answer in Predictor.open(finished)(texts)]
    powers = np.exp(np.concatenate([said[kinds == 0], said[kinds == 1]]))
    np.testing.assert_allclose(powers / powers.sum(-1, keepdims=True), wanted, atol=1e-5)
    assert (said[kinds == 2] == 0).all() and (kinds == 2).sum() == 3 and len(job.teachers) == 1


@pytest.mark.matrix
def test_a_run_with_both_is_evaluated_and_predicts(finished, tiny_model, cache, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    e = experiment(tiny_model, cache)
    e.data.unlabelled, e.data.unlabelled_share = str(tmp_path / "texts.txt"), 0.25
    e.objective = config.Objective(teacher=(str(finished),), uda=1.0)
    found = modes.train(e, tmp_path / "run")
    again = modes.evaluate(tmp_path / "run")
    assert again["validation/loss"] == pytest.approx(found["validation/loss"], rel=1e-5)
    assert {"prediction", "probabilities"} <= Predictor.open(tmp_path / "run")(TEXTS)[0].keys()
