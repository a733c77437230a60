"""Explanations of a word's tag: against autograd in float64 and the plain loop, and what may be asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, TINY
from support import random_params

import jaxft
from jaxft import config, models, tables, tasks
from jaxft.errors import UserError
from jaxft.explain import ablation, page
from jaxft.explain import inputs as rows_of
from jaxft.explain.options import Options
from jaxft.hub import export, settings_for_words
from jaxft.predict.predictor import Predictor

LABELS = ("O", "B-LOC", "B-PER", "I-PER")
ROWS = [{"tokens": ["Unbelievably", "good", "Paris", "!"]}, {"tokens": ["no", "Paris"]}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random model that tags words."""
    options = config.TokenClassification(labels=LABELS, problem="entities")
    model = models.build(TINY)
    params = random_params(tasks.build(options), model, seed=0)
    published = tables.build(options).published(model, 64)
    assert MINILM
    files = {**published.files, **settings_for_words(MINILM)}
    directory = tmp_path_factory.mktemp("tagged") / "model"
    hf = TINY | dict(published.settings)
    export.export(directory, params, hf, "BertForTokenClassification", MINILM, "A test.", files=files)
    return directory


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.open(folder)


@pytest.fixture(scope="module")
def reference(folder, torch) -> Any:
    """The same model in PyTorch, in float64, and its tokenizer."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(str(folder)).double().eval()
    return model, AutoTokenizer.from_pretrained(str(folder))


def encoded(reference: Any, row: dict[str, list[str]]) -> tuple[list[int], list[int | None]]:
    """Token ids of a row, and the word of each."""
    found = reference[1](row["tokens"], is_split_into_words=True)
    return found["input_ids"], found.word_ids()


def test_integrated_gradients_of_a_tag_are_those_of_their_definition(predictor, reference, torch):
    """Autograd in float64, a backward pass a node; the tag is read off the word's first token."""
    model, tokenizer = reference
    for row, one in zip(ROWS, jaxft.explain(predictor, ROWS, target="Paris=B-LOC", samples=16), strict=True):
        (explanation,) = one.explanations
        assert (explanation.target, explanation.word) == ("B-LOC", "Paris")
        assert [unit.text for unit in one.units] == row["tokens"]
        ids, words = encoded(reference, row)
        empty = [token if word is None else tokenizer.pad_token_id for token, word in zip(ids, words, strict=True)]
        own, start = (model.get_input_embeddings()(torch.tensor([part])).detach() for part in (ids, empty))
        nodes, weights = (torch.tensor(x) for x in np.polynomial.legendre.leggauss(int(explanation.facts["steps"])))
        at = (start + (nodes[:, None, None] + 1) / 2 * (own - start)).requires_grad_()
        place = words.index(row["tokens"].index("Paris"))
        model(inputs_embeds=at).logits[:, place, 1].sum().backward()
        tokens = ((own - start)[0] * torch.einsum("n,nld->ld", weights / 2, at.grad)).sum(-1).numpy()
        wanted = [tokens[[word == n for word in words]].sum() for n in range(len(row["tokens"]))]
        np.testing.assert_allclose(explanation.scores, wanted, atol=1e-4)
        assert np.abs(wanted).max() > 0.02, "something to be right about"
        logits = model(inputs_embeds=own).logits[0, place].detach().numpy()
        assert explanation.output == pytest.approx(logits[1], abs=1e-4)
        assert explanation.probability == pytest.approx(np.exp(logits[1]) / np.exp(logits).sum(), abs=1e-4)


@pytest.mark.matrix
def test_occlusion_of_all_words_tags_is_the_plain_loop(predictor, reference, torch):
    model, tokenizer = reference
    for row, one in zip(ROWS, jaxft.explain(predictor, ROWS, "occlusion", "all"), strict=True):
        ids, words = encoded(reference, row)
        places = [words.index(n) for n in range(len(row["tokens"]))]

        def logits(ids: list[int]) -> np.ndarray:
            with torch.no_grad():
                return model(torch.tensor([ids])).logits[0].numpy()

        whole = logits(ids)
        assert [each.word for each in one.explanations] == row["tokens"]
        for place, explanation in zip(places, one.explanations, strict=True):
            tag = int(whole[place].argmax())
            assert explanation.target == LABELS[tag]
            hidden = [
                logits(
                    [tokenizer.mask_token_id if word == n else token for token, word in zip(ids, words, strict=True)]
                )
                for n in range(len(row["tokens"]))
            ]
            wanted = [whole[place, tag] - other[place, tag] for other in hidden]
            np.testing.assert_allclose(explanation.scores, wanted, atol=1e-4)


def test_what_is_asked_for_of_words(predictor):
    """Without a target all entities; a tag: the words that are tagged so. Rows without any have no explanation."""
    answers = predictor(ROWS)
    for target in ("", "B-LOC,B-PER", "O"):
        asked = {"": LABELS[1:], "B-LOC,B-PER": LABELS[1:3], "O": LABELS[:1]}[target]
        if not any(tag in asked for answer in answers for tag in answer["prediction"]):
            continue
        for answer, one in zip(answers, jaxft.explain(predictor, ROWS, "gradient_x_input", target), strict=True):
            tagged = zip(answer["words"], answer["prediction"], strict=True)
            wanted = [(word, tag) for word, tag in tagged if tag in asked]
            assert [(each.word, each.target) for each in one.explanations] == wanted
    found = jaxft.explain(predictor, ROWS, "occlusion", "good=O")
    assert [len(one.explanations) for one in found] == [1, 0] and found[1].passes == 0
    _, (reading, _) = rows_of.read(predictor, ROWS, "words")
    with predictor.tokenizer() as tokenizer:
        hidden = ablation.features(reading, ~np.eye(5, 4, -1, bool), tokenizer.mask_token_id)
    of_good = predictor.compute(hidden)["logits"].reshape(5, len(reading.ids), 4)[:, list(reading.unit_of).index(1), 0]
    np.testing.assert_allclose(found[0].explanations[0].scores, of_good[0] - of_good[1:], atol=1e-5)
    html = page.made(found, Options("occlusion").check(), "model", "rows")
    assert "none of its words is asked for" in html and "good: O" in html


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"target": "B-LOK"}, "explain.target 'B-LOK': the model has no such tag; did you mean 'B-LOC'?; of one word"),
        ({"target": "Paris=LOC"}, "explain.target 'LOC': the model has no such tag; "),
        (
            {"target": "London=B-LOC"},
            "explain.target 'London=B-LOC': no row has such a word; leave it out, or take all",
        ),
        (
            {"method": "lime"},
            "explain.method 'lime' takes words out, also the one whose tag is asked for; take a method",
        ),
        ({"method": "occlusion", "faithfulness": True}, "explain.faithfulness takes words out, also the one whose tag"),
        ({"inputs": [{"tokens": ["no"] * 80}]}, "rows, row 1: it has 82 tokens, and 64 are read at once; what is read"),
    ],
)
def test_a_mistake_is_one_line(predictor, how, said):
    with pytest.raises(UserError) as error:
        jaxft.explain(predictor, **{"inputs": ROWS, **how})
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
