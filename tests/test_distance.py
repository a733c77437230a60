"""How far a text is from training rows: its definition, what is kept beside a model, and what answers have of it."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import support
from test_calibrating import TEXTS

from jaxft import Predictor, cli, config, models
from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.modes import calibrating, measured
from jaxft.predict.dropout import dropping
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.vectors import WithVectors, with_vectors
from jaxft.storage.workdir import Workdir
from jaxft.sure import distance
from jaxft.tables.labels import ids
from jaxft.tasks.sequence_classification import SequenceClassification

RNG = np.random.default_rng(0)


def test_the_distance_is_that_of_its_definition():
    """Of three classes, of which one has no row; where rows are few the ridge is what S has of the rest."""
    for rows in (200, 5):
        labels = np.resize([0, 2], rows)
        vectors = (RNG.normal(0, 1, (rows, 6)) @ RNG.normal(0, 1, (6, 6)) + labels[:, None]).astype(np.float32)
        asked = RNG.normal(0, 2, (7, 6)).astype(np.float32)
        found = distance.fit(vectors, labels, vectors)
        means = {n: vectors[labels == n].astype(float).mean(0) for n in (0, 2)}
        apart = np.stack([x - means[n] for x, n in zip(vectors.astype(float), labels, strict=True)])
        covariance = sum(np.outer(x, x) for x in apart) / rows
        inverse = np.linalg.inv(covariance + 1e-6 * np.trace(covariance) / 6 * np.eye(6))
        wanted = [min((x - mean) @ inverse @ (x - mean) for mean in means.values()) for x in asked.astype(float)]
        np.testing.assert_allclose(found.of(asked), wanted, rtol=1e-3)


def test_far_is_a_share_of_rows_that_are_nearer():
    found = distance.fit(RNG.normal(0, 1, (500, 4)), np.zeros(500, int), RNG.normal(0, 1, (400, 4)))
    assert found.far(np.zeros((1, 4))) == 0 and found.far(np.full((1, 4), 9.0)) == 1
    assert found.far(RNG.normal(0, 1, (400, 4))).mean() == pytest.approx(0.5, abs=0.05)


def test_vectors_that_say_nothing_are_refused():
    for vectors in (np.ones((4, 3)), np.full((4, 3), np.nan)):
        with pytest.raises(
            UserError, match=r"--calibrate\.distance: the vectors of training rows are no numbers, or all"
        ):
            distance.fit(vectors, np.zeros(4, int), vectors)


def test_a_text_is_encoded_once_and_its_loss_is_that_without_vectors():
    """Of a run that compares vectors in training, too."""
    options = config.SequenceClassification(labels=("a", "b", "c"), problem="single_label", contrastive=0.5)
    plain, vectors = SequenceClassification(options), WithVectors(options)
    hf, rng = support.with_layers(support.SMALL, 1), np.random.default_rng(0)
    model, case = models.build(hf), support.TASKS["single_label"]
    params = support.random_params(plain, model, seed=0)
    batch = support.arrays(support.lay_out(support.random_features(rng, case, [5, 3, 4], hf), plain, 12))

    def products(task: SequenceClassification) -> int:
        traced = jax.make_jaxpr(lambda params: task.forward(params, model, batch, nn.Run()))(params)
        return sum(eqn.primitive.name == "dot_general" for eqn in support.equations(traced.jaxpr))

    assert products(vectors) == products(plain) > 0
    losses = [task.loss(task.forward(params, model, batch, nn.Run()), batch) for task in (plain, vectors)]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def run(finished, tmp_path_factory) -> Path:
    """A copy of the finished run, whose answers say how far a text is."""
    copy = shutil.copytree(finished, tmp_path_factory.mktemp("far") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Workdir,
            "publish",
            lambda self, *names: published.append(((self.path / "export" / distance.FILE).exists(), names)),
        )
        published: list[Any] = []
        assert cli.main(["run.py", "--mode=calibrate", f"--workdir={copy}", "--calibrate.distance"], None) == 0
    assert published == [(True, ("export",))]
    return copy


def test_vectors_are_what_the_head_reads(run, torch):
    from transformers import AutoModel, AutoTokenizer

    predictor = Predictor.open(run)
    assert isinstance(predictor.engine, CompiledEngine) and isinstance(predictor.engine.task, WithVectors)
    features = predictor.tokenized(TEXTS).features
    found = predictor.compute(features)
    model = AutoModel.from_pretrained(str(run / "export")).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(run / "export"))
    with torch.no_grad():
        wanted = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0].numpy() for text in TEXTS]
    np.testing.assert_allclose(found["vectors"], wanted, atol=1e-4)


def test_answers_say_how_far_a_text_is_and_nothing_else_changes(run, finished, capsys):
    answers, plain = Predictor.open(run)(TEXTS), Predictor.open(finished)(TEXTS)
    job, predictor = Workdir(run).experiment(), Predictor.open(run)
    made = measured.of_run(job, predictor.table)
    assert isinstance(predictor.engine, CompiledEngine)
    vectors = {
        name: predictor.compute(predictor.tokenized(data).features)["vectors"]
        for name, data in (("train", made["train"]), ("validation", made["validation"]), ("asked", TEXTS))
    }
    options: Any = predictor.table.options
    fitted = distance.fit(vectors["train"], ids(options, made["train"]), vectors["validation"])
    for answer, before, far in zip(answers, plain, fitted.far(vectors["asked"]), strict=True):
        assert {*answer} - {*before} == {"far", "unusual"}
        assert answer["far"] == pytest.approx(far, abs=0.011)
        assert answer["prediction"] == before["prediction"]


@pytest.mark.matrix
def test_models_that_answer_together_do_not_say_it(run, finished):
    features = Predictor.open(run).tokenized(TEXTS).features
    for together in (Predictor.open(run, runs=[finished]), dropping(Predictor.open(run), 2)):
        assert all(
            {*answer} == {"prediction", "probability", "probabilities", "disagreement"} for answer in together(TEXTS)
        )
        (found,) = together.compute_each([features])
        assert {*found} == {*together.engine.task.outputs} == {"logits"}


def test_beside_other_weights_it_is_not_used(run, tmp_path, capsys):
    copy = shutil.copytree(run / "export", tmp_path / "model")
    kept, lines = distance.read(copy)
    assert kept and not lines
    with open(copy / "model.safetensors", "ab") as file:
        file.write(b" ")
    kept, lines = distance.read(copy)
    said = "is of other weights than are there now, and is not used; --mode=calibrate makes it anew"
    assert kept is None and lines == [f"{copy / distance.FILE} {said}"]
    (copy / distance.FILE).write_bytes(b"PK no")
    with pytest.raises(
        UserError, match=r"distance\.npz is damaged, or of another version; delete it, and calibrate anew"
    ):
        distance.read(copy)
    (copy / distance.FILE).unlink()
    assert distance.read(copy) == (None, [])


def test_what_has_no_distance_is_one_line(run):
    predictor: Any = Predictor.open(run)
    options = predictor.table.options
    told = {
        "is for a class a text, read without windows": [
            dataclasses.replace(options, windows="mean"), config.SequenceClassification(problem="regression")
        ],
        "is from the training rows of a run": [options],
    }  # fmt: skip
    for said, several in told.items():
        for one in several:
            asked = copy.copy(predictor)
            asked.table = dataclasses.replace(predictor.table, options=one)
            with pytest.raises(UserError, match=rf"--calibrate\.distance {said}"):
                calibrating._known(Workdir(run) if "class" in said else None, asked)
    graph = copy.copy(predictor)
    graph.engine = None
    with pytest.raises(
        UserError, match=r"--calibrate\.distance needs the vectors of texts, which a graph does not give"
    ):
        calibrating._known(Workdir(run), graph)
    assert with_vectors(predictor.engine) is with_vectors(predictor.engine), "made once"
    assert json.loads((run / "export" / "calibration.json").read_text())["float32"]
