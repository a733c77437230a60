"""Attention rollout and AttCAT, against PyTorch's attention weights and hidden states in float64."""

from functools import partial
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
from jaxft.explain import page
from jaxft.explain.attention import Inside
from jaxft.explain.options import METHODS, Options
from jaxft.explain.targets import Aim
from jaxft.explain.units import Reading, Unit
from jaxft.hub import export, settings_for_words
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


def attcat(model: Any, asked: Any, **inputs: Any) -> np.ndarray:
    """The definition: what each layer reads times its gradient, weighed by the attention that each token gets.

    Args:
      asked: outputs -> the number that is explained.
    """
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    states = outputs.hidden_states[:-1]
    import torch

    slopes = torch.autograd.grad(asked(outputs), states)
    of_layers = [
        (state * slope).sum(-1)[0] * layer[0].mean(0).mean(0)
        for state, slope, layer in zip(states, slopes, outputs.attentions, strict=True)
    ]
    return torch.stack(of_layers).sum(0).detach().numpy()


def test_attcat_is_hidden_states_times_gradients_by_attention(predictor, folder, torch):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    how = {"attn_implementation": "eager"}
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), **how).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    for text, one in zip(TEXTS, jaxft.explain(predictor, TEXTS, "attcat", "good,bad"), strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        for explanation, label in zip(one.explanations, (2, 0), strict=True):
            tokens = attcat(model, lambda outputs, label=label: outputs.logits[0, label], **encoded)
            wanted, special = (
                of_words(tokens, encoded.word_ids()),
                tokens[[word is None for word in encoded.word_ids()]].sum(),
            )
            np.testing.assert_allclose(explanation.scores, wanted, atol=1e-5)
            assert explanation.facts["special_tokens"] == pytest.approx(special, abs=1e-5)
            assert np.abs(wanted).max() > 1e-3, "something to be right about"


def test_the_attcat_of_a_tag_and_of_an_end_is_of_their_token(tmp_path, torch):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    options = config.TokenClassification(labels=("O", "B-LOC"), problem="entities")
    model = models.build(TINY)
    settings, files = tables.build(options).published(model, 64).settings, settings_for_words(MINILM or Path())
    params = random_params(tasks.build(options), model, seed=0)
    hf = TINY | dict(settings)
    export.export(tmp_path / "tags", params, hf, "BertForTokenClassification", MINILM or Path(), "A.", files=files)
    reference = AutoModelForTokenClassification.from_pretrained(str(tmp_path / "tags"), attn_implementation="eager")
    encoded = AutoTokenizer.from_pretrained(str(tmp_path / "tags"))(
        ["good", "Paris"], is_split_into_words=True, return_tensors="pt"
    )
    rows: list[dict[str, Any]] = [{"tokens": ["good", "Paris"]}]
    (one,) = jaxft.explain(str(tmp_path / "tags"), rows, "attcat", "Paris=B-LOC")
    tokens = attcat(reference.double().eval(), lambda outputs: outputs.logits[0, 2, 1], **encoded)
    np.testing.assert_allclose(one.explanations[0].scores, of_words(tokens, encoded.word_ids()), atol=1e-5)


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
    (one,), (other,) = (jaxft.explain(str(tmp_path / "model"), rows, name) for name in ("attention_rollout", "attcat"))
    both = [tokenizer(text, return_tensors="pt") for text in TEXTS]
    wanted = []
    for encoded in both:
        wanted += of_words(rolled_out(model, encoded["input_ids"]).mean(0), encoded.word_ids())
    np.testing.assert_allclose(one.explanations[0].scores, wanted, atol=1e-5)
    vectors, wanted = [model(**encoded).last_hidden_state.mean(1)[0].detach() for encoded in both], []
    for encoded, vector in zip(both, vectors[::-1], strict=True):
        cosine = partial(torch.nn.functional.cosine_similarity, vector, dim=0)
        tokens = attcat(model, lambda outputs, cosine=cosine: cosine(outputs.last_hidden_state.mean(1)[0]), **encoded)
        wanted += of_words(tokens, encoded.word_ids())
    np.testing.assert_allclose(other.explanations[0].scores, wanted, atol=1e-5)


@pytest.mark.parametrize("method", ["attention_rollout", "attcat"])
def test_the_page_says_that_it_is_no_explanation(predictor, method):
    found = jaxft.explain(predictor, TEXTS, method)
    made = page.made(found, Options(method).check(), "model", "rows")
    assert "Attention is no explanation by itself" in made and METHODS[method].title in made
    assert ("for whatever answer" in made) == (method == "attention_rollout")
    assert ("weighed by the attention that they get" in made) == (method == "attcat")


def test_tokens_that_look_at_others_are_refused(predictor):
    for name, options in (("prompt", config.Prompt(length=3)), ("prefix", config.Prefix(length=3))):
        for method in ("attention_rollout", "attcat"):
            with pytest.raises(UserError, match=rf"explain.method '{method}'.*virtual ones too"):
                jaxft.explain(with_parts(predictor, adapt=name, **{name: options}), TEXTS, method)


@pytest.mark.matrix
def test_attention_in_parts_is_refused():
    """A window of two tokens to either side: of a longer text each block asks those beside it alone."""
    model = models.build({**support.ARCHITECTURES["modernbert"], "local_attention": 4})
    task, experiment = tasks.build(config.SequenceClassification(labels=("a", "b"))), config.Experiment()
    composed = program.compose(experiment, model, task, steps=1)
    engine = CompiledEngine(experiment, composed, composed.split(random_params(task, model, seed=0)))

    def read(size: int) -> Reading:
        ids = np.arange(5, 5 + size, dtype=np.int32)
        return Reading(ids, np.zeros_like(ids), np.zeros(size, np.int64), [Unit("a", "text", 0, 1)], False)

    said = r"explain.method 'attcat': \S+ computes the attention of a text of 7 tokens in parts; take occlusion or shap"
    with pytest.raises(UserError, match=said):
        Inside(engine, read(7), "attcat").slopes([Aim("a", 0)])
    found = Inside(engine, read(6), "attcat").looks()
    assert found.shape[1:] == (6, 6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
