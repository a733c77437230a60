"""Explanations of the next word and of the word at [MASK]: against autograd in float64 and the plain loop."""

from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pytest
from runs import MINILM, TINY
from support import random_params

import jaxft
from jaxft import config, models, tasks
from jaxft.errors import UserError
from jaxft.explain import page
from jaxft.explain.options import METHODS, Options
from jaxft.hub import export
from jaxft.predict.predictor import Predictor

PROMPTS = ["the cat sat on", "dogs run the mat"]
HIDDEN = ["a good [MASK], I said", "[MASK] again"]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    return decoders.save(tmp_path_factory.mktemp("next"))


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> Path:
    """A small random model that guesses hidden words."""
    params = random_params(tasks.build(config.MaskedLM()), models.build(TINY), seed=0)
    directory = tmp_path_factory.mktemp("masked") / "model"
    assert MINILM
    export.export(directory, params, TINY, "BertForMaskedLM", MINILM, "A test.")
    return directory


@pytest.fixture(scope="module")
def following(decoder) -> Predictor:
    return Predictor.open(decoder)


@pytest.fixture(scope="module")
def filling(masked) -> Predictor:
    return Predictor.open(masked)


def opened(folder: Path, kind: str) -> tuple[Any, Any]:
    """A model in PyTorch, in float64, and its tokenizer."""
    import transformers

    model = getattr(transformers, kind).from_pretrained(str(folder)).double().eval()
    return model, transformers.AutoTokenizer.from_pretrained(str(folder))


def at_place(tokenizer: Any, ids: list[int]) -> int:
    """Where the guess is made."""
    return ids.index(tokenizer.mask_token_id) if tokenizer.mask_token_id in ids else len(ids) - 1


def check_integrated_gradients(predictor: Predictor, texts: list[str], model: Any, tokenizer: Any, word: str) -> None:
    """The logit of a word, by autograd in float64, a backward pass a node; [MASK] is no unit, and stays."""
    import torch

    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    for text, one in zip(texts, jaxft.explain(predictor, texts, target=word.strip(), samples=16), strict=True):
        (explanation,) = one.explanations
        encoded = tokenizer(text)
        ids, words = encoded["input_ids"], encoded.word_ids()
        place = at_place(tokenizer, ids)
        units = [None if token == tokenizer.mask_token_id else word for token, word in zip(ids, words, strict=True)]
        empty = [i if unit is None else tokenizer.pad_token_id for i, unit in zip(ids, units, strict=True)]
        own, start = (model.get_input_embeddings()(torch.tensor([part])).detach() for part in (ids, empty))
        nodes, weights = (torch.tensor(x) for x in np.polynomial.legendre.leggauss(int(explanation.facts["steps"])))
        at = (start + (nodes[:, None, None] + 1) / 2 * (own - start)).requires_grad_()
        model(inputs_embeds=at).logits[:, place, token].sum().backward()
        tokens = ((own - start)[0] * torch.einsum("n,nld->ld", weights / 2, at.grad)).sum(-1).numpy()
        wanted = [tokens[[unit == n for unit in units]].sum() for n in sorted({u for u in units if u is not None})]
        np.testing.assert_allclose(explanation.scores, wanted, atol=1e-4)
        assert np.abs(wanted).max() > 0.01, "something to be right about"
        logits = model(inputs_embeds=own).logits[0, place].detach().numpy()
        assert explanation.target == word.strip() and explanation.output == pytest.approx(logits[token], abs=1e-4)
        chance = np.exp(logits[token]) / np.exp(logits).sum()
        assert explanation.probability == pytest.approx(chance, abs=1e-4)
        assert one.answer == {"prediction": tokenizer.decode([int(logits.argmax())]).strip()}


@pytest.mark.matrix
def test_integrated_gradients_of_the_next_word(following, decoder, torch):
    check_integrated_gradients(following, PROMPTS, *opened(decoder, "AutoModelForCausalLM"), " cat")


def test_integrated_gradients_of_the_word_at_mask(filling, masked, torch):
    check_integrated_gradients(filling, HIDDEN, *opened(masked, "AutoModelForMaskedLM"), "day")


@pytest.mark.parametrize("kind", ["next", pytest.param("mask", marks=pytest.mark.matrix)])
def test_leave_one_out_of_a_guess_is_the_plain_loop(request, torch, kind):
    """The best guess of the whole text is asked for; where words before [MASK] are taken out it moves."""
    names = {
        "next": ("following", "decoder", "AutoModelForCausalLM"),
        "mask": ("filling", "masked", "AutoModelForMaskedLM"),
    }
    predictor, folder, head = names[kind]
    model, tokenizer = opened(request.getfixturevalue(folder), head)
    texts = PROMPTS if kind == "next" else HIDDEN

    def logits(ids: list[int]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0, at_place(tokenizer, ids)].numpy()

    for text, one in zip(texts, jaxft.explain(request.getfixturevalue(predictor), texts, "leave_one_out"), strict=True):
        encoded = tokenizer(text)
        pairs = list(zip(encoded["input_ids"], encoded.word_ids(), strict=True))
        whole = logits(encoded["input_ids"])
        best, words = int(whole.argmax()), {word for token, word in pairs if token != tokenizer.mask_token_id}
        (explanation,) = one.explanations
        assert explanation.output == pytest.approx(whole[best], abs=1e-4)
        left = [logits([token for token, word in pairs if word != hidden]) for hidden in sorted(words - {None})]
        np.testing.assert_allclose(explanation.scores, [whole[best] - other[best] for other in left], atol=1e-4)


@pytest.mark.matrix
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.attention])
@pytest.mark.parametrize("kind", ["next", "mask"])
def test_every_method_has_numbers_for_the_words_of_a_text(request, kind, method):
    predictor = request.getfixturevalue("following" if kind == "next" else "filling")
    baseline = "pad" if kind == "next" and method in ("occlusion", "shap", "exact_shap", "partition_shap") else ""
    texts = PROMPTS if kind == "next" else HIDDEN
    how = {"baseline": baseline, "samples": 50 if method == "lime" else 0, "faithfulness": True}
    both = jaxft.explain(predictor, texts, method, "the,a" if kind == "next" else "day,night", **how)
    for text, one in zip(texts, both, strict=True):
        assert len(one.explanations) == 2
        (alone,) = jaxft.explain(predictor, [text], method, "the,a" if kind == "next" else "day,night", **how)
        for explanation, other in zip(one.explanations, alone.explanations, strict=True):
            assert np.abs(explanation.scores).max() > 1e-4
            np.testing.assert_allclose(explanation.scores, other.scores, atol=1e-4)


def test_the_page_of_a_guess(filling):
    found = jaxft.explain(filling, HIDDEN, "leave_one_out", "day, night")
    made = page.made(found, Options("leave_one_out").check(), "model", "rows")
    assert "[MASK]" in made and all(
        f"{word} {found[0].explanations[n].probability:.1%}</label>" in made for n, word in enumerate(("day", "night"))
    )


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        ("mask", {"target": "unbelievably"}, "explain.target 'unbelievably': the model has no token that is this word"),
        (
            "mask",
            {"inputs": ["a day"]},
            "texts, row 1: the word at [MASK] is asked for, and it stands there 0 times; wr",
        ),
        ("mask", {"inputs": ["[MASK] [MASK]"]}, "texts, row 1: the word at [MASK] is asked for, and it stands there 2"),
        ("mask", {"inputs": ["[MASK]"]}, "texts, row 1: 'text' has no word that the tokenizer knows of; nothing to"),
        ("mask", {"target": "a,b,c,d,e,f,g,h,i"}, "explain.target names 9 words; 8 can be asked for at a time"),
        (
            "next",
            {"inputs": ["the cat " * 40]},
            "texts, row 1: it has 82 tokens, and 64 are read at once; give the pas",
        ),
        ("next", {"method": "occlusion"}, "explain.baseline 'mask': the model's tokenizer has no token for it; take"),
        ("next", {"inputs": []}, "there is no text and no row to answer; give one or more"),
        ("next", {"examples": 1}, "explain.examples: the model's task is CausalLM; which training rows taught"),
    ],
)
def test_a_mistake_is_one_line(request, kind, how, said):
    predictor = request.getfixturevalue("following" if kind == "next" else "filling")
    with pytest.raises(UserError) as error:
        jaxft.explain(predictor, **{"inputs": PROMPTS if kind == "next" else HIDDEN, **how})
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
