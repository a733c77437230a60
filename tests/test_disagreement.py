"""How far models disagree, and answers of one model with dropout, by the mean of several passes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import TINY
from scipy.special import expit, softmax
from scipy.stats import entropy
from support import random_params
from test_explain import LABELS, TEXTS, written

from jaxft import cli, config, models, modes, tables, tasks
from jaxft.errors import UserError
from jaxft.predict import dropout
from jaxft.predict.dropout import DropoutEngine, dropping
from jaxft.predict.predictor import Predictor
from jaxft.sure import disagreement
from jaxft.sure.calibration import Calibration

RATE = 0.25


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random model, of whose pooled vectors a quarter drops out, and nothing else."""
    options = config.SequenceClassification(labels=LABELS, problem="single_label")
    params = random_params(tasks.build(options), models.build(TINY), seed=0)
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": RATE}
    return written(tmp_path_factory.mktemp("dropped") / "model", options, params, **rates)


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.open(folder)


def test_mutual_information_is_that_of_its_definition():
    logits = np.random.default_rng(0).normal(0, 3, (5, 4, 3)).astype(np.float32)
    p = softmax(logits.astype(float), -1)
    np.testing.assert_allclose(
        disagreement.of_classes(logits), entropy(p.mean(0), axis=-1) - entropy(p, axis=-1).mean(0)
    )
    p = np.stack([expit(logits.astype(float)), expit(-logits.astype(float))], -1)
    wanted = (entropy(p.mean(0), axis=-1) - entropy(p, axis=-1).mean(0)).sum(-1)
    np.testing.assert_allclose(disagreement.of_labels(logits), wanted)
    np.testing.assert_allclose(disagreement.of_scores(logits[..., 0]), logits[..., 0].astype(float).std(0))


def test_models_that_agree_have_no_disagreement_and_sure_ones_that_do_not_have_all():
    same = np.asarray([[[3.0, -2, 0.5]]] * 4, np.float32)
    assert disagreement.of_classes(same) == pytest.approx(0, abs=1e-12) and disagreement.of_classes(same) >= 0
    assert disagreement.of_labels(same) == pytest.approx(0, abs=1e-12)
    apart = np.asarray([[[2000.0, 0]], [[0, 2000.0]]], np.float32)
    assert disagreement.of_classes(apart) == pytest.approx(np.log(2))
    assert disagreement.of_labels(apart - 1000) == pytest.approx(2 * np.log(2))


def test_passes_are_of_what_the_masks_leave(predictor, folder, torch):
    """The mean of the logits is that without dropout; their variance that of the products that drop out."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    encoded = AutoTokenizer.from_pretrained(str(folder))(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        pooled = model.bert(**encoded).pooler_output[0].numpy().astype(float)
    parts = model.classifier.weight.detach().numpy() * pooled
    engine = dropping(predictor, 64).engine
    assert isinstance(engine, DropoutEngine)
    passes = np.stack([found["logits"][0] for found in engine.each(predictor.tokenized(TEXTS[:1]).features)])
    variance = RATE / (1 - RATE) * np.square(parts).sum(1)
    whole = parts.sum(1) + model.classifier.bias.detach().numpy()
    np.testing.assert_allclose(passes.mean(0), whole, atol=4 * np.sqrt(variance.max() / 64))
    np.testing.assert_allclose(passes.var(0), variance, rtol=0.6)


def test_an_answer_is_the_mean_of_the_passes_and_hangs_on_no_other_text(predictor):
    several = dropping(predictor, 6)
    assert isinstance(several.engine, DropoutEngine)
    answers = several(TEXTS)
    logits = np.stack([found["logits"] for found in several.engine.each(predictor.tokenized(TEXTS).features)])
    assert np.ptp(logits, axis=0).min() > 1e-3, "passes differ"
    wanted = softmax(logits.astype(float), -1).mean(0)
    for n, answer in enumerate(answers):
        assert [*answer["probabilities"].values()] == pytest.approx(wanted[n], abs=1e-5)
        assert answer["disagreement"] == pytest.approx(disagreement.of_classes(logits)[n], abs=1e-6)
        assert answer["disagreement"] > 1e-5
        (alone,) = several(TEXTS[n : n + 1])
        assert [*alone["probabilities"].values()] == pytest.approx([*answer["probabilities"].values()], abs=1e-5)
        assert alone["disagreement"] == pytest.approx(answer["disagreement"], abs=1e-5)
    assert dropping(predictor, 6)(TEXTS) == answers, "the same again"


def test_mode_predict_says_how_far_passes_disagree(folder, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    argv = ["run.py", "--mode=predict", f"--workdir={folder}", f"--input={tmp_path / 'texts.txt'}"]
    assert cli.main([*argv, "--predict.dropout=3", f"--output={tmp_path / 'answers.jsonl'}"], None) == 0
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(found) == len(TEXTS) and all(one["disagreement"] > 0 for one in found)
    assert cli.main([*argv, "--predict.dropout=1"], None) == 2
    assert "error: --predict.dropout is 1; a mean is of 2 passes or more" in capsys.readouterr().err


def test_mistakes_are_one_line(predictor, folder, tmp_path):
    engine: Any = predictor.engine
    plain = dataclasses.replace(engine.composed, numbers=engine.composed.numbers._replace(dropout={}))
    without = dropout.CompiledEngine(predictor.experiment, plain, engine.weights)
    with pytest.raises(UserError, match=r"no dropout rate in the model's config\.json is above zero; leave it out"):
        DropoutEngine(without, predictor.experiment, predictor.table, 2)
    with pytest.raises(UserError, match=r"--predict\.dropout: of answers of MaskedLM there is no mean"):
        DropoutEngine(engine, predictor.experiment, tables.build(config.MaskedLM()), 2)
    several = dropping(predictor, 2)
    with pytest.raises(UserError, match=r"--predict\.dropout is for one model by its parameters"):
        dropping(several, 2)
    with pytest.raises(UserError, match="answers with dropout are not served"):
        several.engine.warm(64)
    (tmp_path / "texts.txt").write_text("a")
    with pytest.raises(UserError, match=r"--predict\.dropout is not for texts that are written"):
        modes.predict(str(folder), str(tmp_path / "texts.txt"), writing={"max_new_tokens": 4}, dropout=2)


def test_a_calibration_is_left_out(predictor, capsys):
    other = dropping(predictor, 2)
    assert other.table == predictor.table and "calibration" not in capsys.readouterr().err
    calibrated = dropping(predictor, 2)
    calibrated.engine, calibrated.table = predictor.engine, predictor.table.calibrated(Calibration("single_label", 2.0))
    assert dropping(calibrated, 2).table == predictor.table
    assert "--predict.dropout: the calibration is left out" in capsys.readouterr().err
