"""Attention rollout: the product of PyTorch's attention weights, where each kind of answer is read off."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import support
from runs import MINILM, TINY
from support import random_params
from test_explain import with_parts, written

import jaxft
from jaxft import config, models, program, tables, tasks
from jaxft.errors import UserError
from jaxft.explain import attention, page
from jaxft.explain.options import Options
from jaxft.hub import export
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Predictor

TEXTS = ["what an unbelievably good day", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    options = config.SequenceClassification(labels=("bad", "fair", "good"), problem="single_label")
    params = random_params(tasks.build(options), models.build(TINY), seed=0)
    return written(tmp_path_factory.mktemp("rolled") / "model", options, params)


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.open(folder)


def rolled_out(model: Any, ids: Any) -> np.ndarray:
    """The definition, of PyTorch's weights in float64."""
    import torch

    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions
    product = np.eye(ids.shape[1])
    for layer in weights:
        own = 0.5 * layer[0].mean(0).numpy() + 0.5 * np.eye(len(product))
        product = own / own.sum(-1, keepdims=True) @ product
    return product


def of_words(tokens: np.ndarray, words: list[int | None]) -> list[float]:
    return [tokens[[word == n for word in words]].sum() for n in sorted({word for word in words if word is not None})]


def test_rollout_is_the_product_of_pytorchs_weights(predictor, folder, torch):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    how = {"attn_implementation": "eager"}
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), **how).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    for text, one in zip(TEXTS, jaxft.explain(predictor, TEXTS, "attention_rollout", "good,bad"), strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        first = rolled_out(model, encoded["input_ids"])[0]
        wanted, special = (
            of_words(first, encoded.word_ids()),
            first[[word is None for word in encoded.word_ids()]].sum(),
        )
        for explanation in one.explanations:
            np.testing.assert_allclose(explanation.scores, wanted, atol=1e-5)
            assert explanation.facts["special_tokens"] == pytest.approx(special, abs=1e-5)
            assert sum(explanation.scores) + special == pytest.approx(1)
        assert np.ptp(wanted) > 1e-4 or len(wanted) == 1, "something to be right about"


@pytest.mark.matrix
def test_a_similarity_has_the_mean_over_the_tokens_of_each_text(tmp_path, torch):
    from transformers import AutoModel, AutoTokenizer

    params = random_params(tasks.build(config.SentenceEmbedding()), models.build(TINY), seed=0)
    files = tables.build(config.SentenceEmbedding()).published(models.build(TINY), 64).files
    assert MINILM
    export.export(tmp_path / "model", params, TINY, "BertModel", MINILM, "A test.", files=files)
    model = AutoModel.from_pretrained(str(tmp_path / "model"), attn_implementation="eager").double().eval()
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "model"))
    rows: list[dict[str, Any]] = [dict(zip(("anchor", "positive"), TEXTS, strict=True))]
    (one,) = jaxft.explain(str(tmp_path / "model"), rows, "attention_rollout")
    wanted = []
    for text in TEXTS:
        encoded = tokenizer(text, return_tensors="pt")
        wanted += of_words(rolled_out(model, encoded["input_ids"]).mean(0), encoded.word_ids())
    np.testing.assert_allclose(one.explanations[0].scores, wanted, atol=1e-5)


def test_the_page_says_that_it_is_no_explanation(predictor):
    found = jaxft.explain(predictor, TEXTS, "attention_rollout")
    made = page.made(found, Options("attention_rollout").check(), "model", "rows")
    assert "Attention is no explanation by itself" in made and "for whatever answer" in made


def test_tokens_that_look_at_others_are_refused(predictor):
    for name, options in (("prompt", config.Prompt(length=3)), ("prefix", config.Prefix(length=3))):
        with pytest.raises(UserError, match=r"attention_rollout'.*virtual ones too"):
            jaxft.explain(with_parts(predictor, adapt=name, **{name: options}), TEXTS, "attention_rollout")


@pytest.mark.matrix
def test_attention_in_parts_is_refused():
    """A window of two tokens to either side: of a longer text each block asks those beside it alone."""
    model = models.build({**support.ARCHITECTURES["modernbert"], "local_attention": 4})
    task, experiment = tasks.build(config.SequenceClassification(labels=("a", "b"))), config.Experiment()
    composed = program.compose(experiment, model, task, steps=1)
    engine = CompiledEngine(experiment, composed, composed.split(random_params(task, model, seed=0)))
    ids = np.arange(5, 12, dtype=np.int32)
    with pytest.raises(
        UserError, match="computes the attention of a text of 7 tokens in parts; take occlusion or shap"
    ):
        attention.attended(engine, ids, np.zeros_like(ids))
    found = attention.attended(engine, ids[:6], np.zeros_like(ids[:6]))
    assert found.shape[1:] == (6, 6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
