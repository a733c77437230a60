"""Explanations of how alike two texts are: against autograd in float64 and the plain loop, and a planted word."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, TINY
from support import random_params

import jaxft
from jaxft import config, models, tables, tasks
from jaxft.errors import UserError
from jaxft.explain import page
from jaxft.explain.options import METHODS, Options
from jaxft.hub import export
from jaxft.predict.predictor import Predictor

ROWS = [
    {"anchor": "what an unbelievably good day", "positive": "no"},
    {"anchor": "never again", "positive": "a day, a night: never!"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random model of vectors."""
    options = config.SentenceEmbedding()
    params = random_params(tasks.build(options), models.build(TINY), seed=0)
    published = tables.build(options).published(models.build(TINY), 64)
    directory = tmp_path_factory.mktemp("alike") / "model"
    assert MINILM
    export.export(directory, params, TINY, "BertModel", MINILM, "A test.", files=published.files)
    return directory


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.open(folder)


@pytest.fixture(scope="module")
def reference(folder, torch) -> Any:
    """The same model in PyTorch, in float64, and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(str(folder)).double().eval(), AutoTokenizer.from_pretrained(str(folder))


def cosine(model: Any, first: Any, other: Any, **names: Any) -> Any:
    """Of the means of both texts' hidden states, `[n]`; each `[n, tokens, ...]`."""
    import torch

    vectors = [model(**{name: x}).last_hidden_state.mean(1) for x in (first, other) for name in names["by"]]
    return torch.nn.functional.cosine_similarity(*vectors)


def test_integrated_gradients_of_a_similarity_are_those_of_their_definition(predictor, reference, torch):
    """Autograd in float64: both texts go from their baselines to themselves at once, and all numbers add up."""
    model, tokenizer = reference
    for row, one in zip(ROWS, jaxft.explain(predictor, ROWS, samples=16), strict=True):
        (explanation,) = one.explanations
        assert explanation.target == "similarity" and explanation.probability is None
        nodes, weights = (torch.tensor(x) for x in np.polynomial.legendre.leggauss(int(explanation.facts["steps"])))
        points, shares, wanted = [], [], []
        for text in row.values():
            encoded = tokenizer(text, return_tensors="pt")
            ids, words = encoded["input_ids"], encoded.word_ids()
            empty = torch.tensor([[i if w is None else 0 for i, w in zip(ids[0].tolist(), words, strict=True)]])
            own, start = (model.get_input_embeddings()(part).detach() for part in (ids, empty))
            points.append((start + (nodes[:, None, None] + 1) / 2 * (own - start)).requires_grad_())
            shares.append(((own - start)[0], words))
        cosine(model, *points, by=["inputs_embeds"]).sum().backward()
        for at, (share, words) in zip(points, shares, strict=True):
            tokens = (share * torch.einsum("n,nld->ld", weights / 2, at.grad)).sum(-1).numpy()
            count = max(word for word in words if word is not None) + 1
            wanted += [tokens[[word == n for word in words]].sum() for n in range(count)]
        np.testing.assert_allclose(explanation.scores, wanted, atol=1e-4)
        assert np.abs(wanted).max() > 0.01, "something to be right about"
        ids = [tokenizer(text, return_tensors="pt")["input_ids"] for text in row.values()]
        similarity = float(cosine(model, *ids, by=["input_ids"]))
        assert explanation.output == pytest.approx(similarity, abs=1e-5) == one.answer["similarity"]
        change = explanation.output - explanation.facts["baseline_output"]
        assert sum(explanation.scores) == pytest.approx(change, rel=0.01)
        assert [unit.column for unit in one.units] == ["anchor"] * explanation_size(tokenizer, row["anchor"]) + [
            "positive"
        ] * explanation_size(tokenizer, row["positive"])


def explanation_size(tokenizer: Any, text: str) -> int:
    """Words of a text."""
    return len({word for word in tokenizer(text).word_ids() if word is not None})


@pytest.mark.matrix
@pytest.mark.parametrize("method", ["occlusion", "leave_one_out"])
def test_occlusion_of_a_similarity_is_the_plain_loop(predictor, reference, torch, method):
    model, tokenizer = reference
    for row, one in zip(ROWS, jaxft.explain(predictor, ROWS, method), strict=True):
        encoded = [tokenizer(text) for text in row.values()]
        whole = [torch.tensor([each["input_ids"]]) for each in encoded]
        wanted = []
        for side, each in enumerate(encoded):
            for hidden in range(max(word for word in each.word_ids() if word is not None) + 1):
                fill = [tokenizer.mask_token_id] if method == "occlusion" else []
                pairs = zip(each["input_ids"], each.word_ids(), strict=True)
                ids = [token for i, word in pairs for token in (fill if word == hidden else [i])]
                both = [torch.tensor([ids]) if n == side else other for n, other in enumerate(whole)]
                wanted.append(float(cosine(model, *whole, by=["input_ids"]) - cosine(model, *both, by=["input_ids"])))
        np.testing.assert_allclose(one.explanations[0].scores, wanted, atol=1e-5)
        assert one.passes == len(one.units) + 1


@pytest.mark.matrix
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.attention])
def test_every_method_has_numbers_for_the_words_of_both_texts(predictor, method):
    samples = {"lime": 400, "smoothgrad": 8}.get(method, 0)
    rows = [{"anchor": "a good day", "positive": "a fine night"}, {"anchor": "no", "positive": "a good day"}]
    both, alone = (
        [one for part in parts for one in jaxft.explain(predictor, part, method, samples=samples)]
        for parts in ([rows], [[row] for row in rows])
    )
    for one, other in zip(both, alone, strict=True):
        scores = one.explanations[0].scores
        assert len(scores) == len(one.units) and np.abs(scores).max() > 1e-4
        np.testing.assert_allclose(scores, other.explanations[0].scores, atol=1e-4)
    if METHODS[method].adds and method != "integrated_gradients":
        hidden = jaxft.explain(predictor, rows, "exact_shap")
        for one, exact in zip(both, hidden, strict=True):
            assert sum(one.explanations[0].scores) == pytest.approx(sum(exact.explanations[0].scores), abs=1e-4)


def test_the_page_of_a_similarity_has_both_texts_and_what_each_word_is_worth(predictor):
    found = jaxft.explain(predictor, ROWS, "leave_one_out")

    def similarity(*texts: str) -> float:
        first, other = (np.asarray(one["embedding"]) for one in predictor(texts))
        return float(first @ other)

    one, (first, other) = found[0], ROWS[0].values()
    words = first.split()
    left = [similarity(" ".join(words[:n] + words[n + 1 :]), other) for n in range(len(words))]
    assert one.explanations[0].scores[: len(words)] == pytest.approx(
        similarity(first, other) - np.asarray(left), abs=1e-5
    )
    made = page.made(found, Options("leave_one_out").check(), "model", "rows")
    assert "<b>anchor</b>" in made and "<b>positive</b>" in made
    assert f"similarity {found[0].explanations[0].output:.4g}</label>" in made


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"target": "score"}, "explain.target 'score': what two texts have is their similarity; leave it out"),
        ({"inputs": ["one text"]}, "texts has no column 'positive', which the run reads; it has 'anchor'"),
        ({"inputs": [{"anchor": "a", "positive": "\u200d"}]}, "rows, row 1: 'positive' has no word that the tokenizer"),
        ({"inputs": [{"anchor": "a", "positive": ""}]}, "rows, row 1: "),
        ({"inputs": []}, "there are no two texts to compare; give one row or more"),
        ({"examples": 2}, "explain.examples: the model's task is SentenceEmbedding; which training rows taught"),
    ],
)
def test_a_mistake_is_one_line(predictor, how, said):
    with pytest.raises(UserError) as error:
        jaxft.explain(predictor, **{"inputs": ROWS, **how})
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
