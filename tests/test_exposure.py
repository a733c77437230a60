"""Exposure of canaries: the rank of a secret by the likelihood of its text, and a model that has learned one."""

import copy
import math
from pathlib import Path
from typing import Any

import decoders
import numpy as np
import pytest
from runs import MINILM, TINY, experiment
from support import random_params

from jaxft import config, models, modes, tables, tasks
from jaxft.audit import exposure, page
from jaxft.audit.exposure import Exposure
from jaxft.audit.found import Audit
from jaxft.data import rows
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.predict.predictor import Predictor


def canaries(*pairs: tuple[Any, Any]) -> Split:
    return rows.split_of([{"template": template, "secret": secret} for template, secret in pairs], "canaries.jsonl")


@pytest.fixture(scope="module")
def following(tmp_path_factory) -> tuple[Path, Predictor]:
    folder = decoders.save(tmp_path_factory.mktemp("next"))
    return folder, Predictor.open(folder)


@pytest.fixture(scope="module")
def filling(tmp_path_factory) -> tuple[Path, Predictor]:
    """A small random model that guesses hidden words."""
    params = random_params(tasks.build(config.MaskedLM()), models.build(TINY), seed=0)
    directory = tmp_path_factory.mktemp("masked") / "model"
    assert MINILM
    export.export(directory, params, TINY, "BertForMaskedLM", MINILM, "A test.")
    return directory, Predictor.open(directory)


def test_other_secrets_are_of_the_kind_and_come_once():
    drawn = exposure.others("a7-Bé9", np.random.default_rng(0))
    assert len(drawn) == len({*drawn}) == exposure.OTHERS and "a7-Bé9" not in drawn
    for one in drawn:
        assert one[0].islower() and one[1].isdigit() and one[2] == "-" and one[3].isupper() and one[4:5] == "é"
    assert {one[1] for one in drawn} == {*"0123456789"}
    assert sorted(exposure.others("4", np.random.default_rng(0))) == [*"012356789"]


def test_the_likelihood_is_that_of_all_tokens(following, torch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, predictor = following
    model = AutoModelForCausalLM.from_pretrained(str(folder)).double().eval()
    tokenizer, secrets = AutoTokenizer.from_pretrained(str(folder)), ["cat", "dog and the cat", "41"]
    wanted = []
    for secret in secrets:
        ids = [*tokenizer(f"the {secret} sat")["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            chances = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
        wanted.append(sum(float(chances[at, token]) for at, token in enumerate(ids[1:])))
    found = exposure.likelihoods(predictor, "the {} sat", secrets, "")
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_pseudo_likelihood_hides_each_token_of_the_secret_alone(filling, torch):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder, predictor = filling
    model = AutoModelForMaskedLM.from_pretrained(str(folder)).double().eval()
    tokenizer, secrets, wanted = AutoTokenizer.from_pretrained(str(folder)), ["7351", "unbelievably"], []
    for secret in secrets:
        encoded = tokenizer(f"it is {secret}, I said", return_offsets_mapping=True)
        ids, total = encoded["input_ids"], 0.0
        places = [at for at, (low, high) in enumerate(encoded["offset_mapping"]) if 6 <= low < high <= 6 + len(secret)]
        for at in places:
            hidden = [tokenizer.mask_token_id if n == at else token for n, token in enumerate(ids)]
            with torch.no_grad():
                total += float(torch.log_softmax(model(torch.tensor([hidden])).logits[0, at], -1)[ids[at]])
        wanted.append(total)
        assert len(places) > 1, "several tokens"
    np.testing.assert_allclose(exposure.likelihoods(predictor, "it is {}, I said", secrets, ""), wanted, atol=1e-3)


def test_exposure_is_of_the_rank(following, monkeypatch):
    """Of a secret and nine others two are likelier, one as likely: it is the fourth of ten."""
    told = np.asarray([5.0, 9, 1, 5, 8, 0, 0, 0, 0, 0])
    monkeypatch.setattr(exposure, "likelihoods", lambda predictor, template, secrets, where: told[: len(secrets)])
    (one,) = exposure.exposures(following[1], canaries(("it is {}", "4")))
    assert one == ("canaries.jsonl, row 1", "it is 4", 4, 10, math.log2(10) - 2) and one.chance == 0.4


def test_the_page_has_the_most_exposed_first():
    exposures = [Exposure("c, row 1", "a <b>", 500, 1001, 1.0), Exposure("c, row 2", "k", 1, 1001, math.log2(1001))]
    empty: dict[str, Any] = {name: {} for name in ("metrics", "sure", "diagrams")}
    listed = dict.fromkeys(("mistakes", "slices", "duplicates", "doubtful", "notes"), ())
    found = Audit(rows=3, level=0.95, wrong=None, exposures=exposures, **empty, **listed)
    made = page.made(found, "model", "rows")
    assert made.index("1 of 1,001") < made.index("500 of 1,001") and "a &lt;b&gt;" in made and ">10.0<" in made
    assert found.to_json()["exposures"][0]["rank"] == 500
    assert "canaries" not in page.made(found._replace(exposures=[]), "model", "rows")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("it is 4", "4"), "canaries.jsonl, row 1: its template must be a text with {} once in it, where the secret"),
        (("{} is {}", "4"), "canaries.jsonl, row 1: its template must be a text with {} once"),
        (("it is {}", "-"), "canaries.jsonl, row 1: its secret must be a text with letters or digits, in whose place"),
        (("it is {}", None), "canaries.jsonl, row 1: its secret must be a text"),
    ],
)
def test_a_mistake_is_one_line(following, pair, said):
    with pytest.raises(UserError) as error:
        list(exposure.exposures(following[1], canaries(pair)))
    assert str(error.value).startswith(said)


def test_what_has_no_canaries_is_one_line(following, filling):
    other = copy.copy(following[1])
    other.table = tables.build(config.NextSentence())
    with pytest.raises(
        UserError, match=r"--audit\.canaries is for models of CausalLM and MaskedLM, and this is one of Nex"
    ):
        list(exposure.exposures(other, canaries(("it is {}", "4"))))
    with pytest.raises(UserError, match=r"rows has no column 'secret'; canaries have template and secret"):
        list(exposure.exposures(following[1], rows.split_of([{"template": "it is {}"}], "rows")))
    with pytest.raises(
        UserError, match=r"canaries\.jsonl, row 1: it has \d+ tokens, more than are read at once; short"
    ):
        list(exposure.exposures(filling[1], canaries(("day " * 80 + "{}", "4"))))


@pytest.mark.matrix
def test_a_planted_canary_is_exposed_and_another_is_not(tmp_path, cache):
    """A small decoder learns a few texts by heart, one of them with a number."""
    model = decoders.save(tmp_path)
    e = experiment(model, cache, train={"epochs": 40, "eval_every": 1000, "batch_size": 8}, data={"max_length": 32})
    e.task = config.CausalLM()
    e.data = config.Data(max_length=32, shapes=1, validation_fraction=0.0, cache=str(cache))
    texts = [*decoders.TEXTS, "the pin of the cat is 73519"] * 4
    modes.train(e, str(tmp_path / "run"), data={"train": [{"text": text} for text in texts]})
    asked = canaries(("the pin of the cat is {}", "73519"), ("the pin of the cat is {}", "40286"))
    learned, other = exposure.exposures(Predictor.open(tmp_path / "run"), asked)
    assert learned.rank == 1 and learned.exposure == pytest.approx(math.log2(1001)) and other.rank > 10
