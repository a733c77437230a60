"""Explanations of both ends of an answer: against autograd in float64, the plain loop, and a planted answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import MINILM, TINY
from support import random_params

import jaxft
from jaxft import config, models, tables, tasks
from jaxft.errors import UserError
from jaxft.explain import page, targets
from jaxft.explain.options import Options
from jaxft.hub import export
from jaxft.predict.predictor import Predictor

ROWS = [
    {"question": "who came?", "context": "Unbelievably, Paris came to the games"},
    {"question": "who?", "context": "It was me."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random model that answers questions."""
    options = config.QuestionAnswering(unanswerable="no", stride=8)
    model = models.build(TINY)
    params = random_params(tasks.build(options), model, seed=0)
    settings = dict(tables.build(options).published(model, 64).settings)
    directory = tmp_path_factory.mktemp("asked") / "model"
    assert MINILM
    export.export(directory, params, TINY | settings, "BertForQuestionAnswering", MINILM, "A test.")
    return directory


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.open(folder, task=config.QuestionAnswering(unanswerable="no", stride=8, question_length=6))


@pytest.fixture(scope="module")
def reference(folder, torch) -> Any:
    """The same model in PyTorch, in float64, and its tokenizer."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(str(folder)).double().eval()
    return model, AutoTokenizer.from_pretrained(str(folder))


def words_of(encoded: Any) -> list[tuple[int, int] | None]:
    """Of each token which text it is of and its word there; None: it is special."""
    both = zip(encoded.sequence_ids(), encoded.word_ids(), strict=True)
    return [None if sequence is None else (sequence, word) for sequence, word in both]


def place(encoded: Any, answer: dict[str, Any], name: str) -> int:
    """The token of the context that an answer begins or ends with."""
    spans = enumerate(zip(encoded.sequence_ids(), encoded["offset_mapping"][0].tolist(), strict=True))
    end = 0 if name == "start" else 1
    return next(at for at, (sequence, span) in spans if sequence == 1 and span[end] == answer[name])


def test_integrated_gradients_of_an_end_are_those_of_their_definition(predictor, reference, torch):
    model, tokenizer = reference
    answers = predictor(ROWS)
    for row, answer, one in zip(ROWS, answers, jaxft.explain(predictor, ROWS, samples=16), strict=True):
        encoded = tokenizer(row["question"], row["context"], return_tensors="pt", return_offsets_mapping=True)
        words, ids = words_of(encoded), encoded["input_ids"]
        units = list(dict.fromkeys(word for word in words if word is not None))
        assert len(one.units) == len(units) and {unit.column for unit in one.units} == {"question", "context"}
        assert [(each.target, each.word) for each in one.explanations] == [
            ("start", answer["prediction"]), ("end", answer["prediction"])
        ]  # fmt: skip
        empty = ids.clone()
        empty[0, [at for at, word in enumerate(words) if word is not None]] = tokenizer.pad_token_id
        own, start = (model.get_input_embeddings()(part).detach() for part in (ids, empty))
        for explanation in one.explanations:
            nodes, weights = (torch.tensor(x) for x in np.polynomial.legendre.leggauss(int(explanation.facts["steps"])))
            at = (start + (nodes[:, None, None] + 1) / 2 * (own - start)).requires_grad_()
            types = encoded["token_type_ids"].expand(len(nodes), -1)
            found = model(inputs_embeds=at, token_type_ids=types)
            found[f"{explanation.target}_logits"][:, place(encoded, answer, explanation.target)].sum().backward()
            tokens = ((own - start)[0] * torch.einsum("n,nld->ld", weights / 2, at.grad)).sum(-1).numpy()
            wanted = [tokens[[word == unit for word in words]].sum() for unit in units]
            np.testing.assert_allclose(explanation.scores, wanted, atol=1e-4)
            assert np.abs(wanted).max() > 0.02 and explanation.probability is None


@pytest.mark.matrix
def test_occlusion_of_an_end_is_the_plain_loop(predictor, reference, torch):
    model, tokenizer = reference
    row = ROWS[0]
    (one,), (answer,) = jaxft.explain(predictor, [row], "occlusion", "end"), predictor([row])
    (explanation,) = one.explanations
    encoded = tokenizer(row["question"], row["context"], return_tensors="pt", return_offsets_mapping=True)
    words = words_of(encoded)
    at = place(encoded, answer, "end")

    def logit(hidden: Any) -> float:
        ids = encoded["input_ids"].clone()
        ids[0, [n for n, word in enumerate(words) if word == hidden and word is not None]] = tokenizer.mask_token_id
        with torch.no_grad():
            return float(model(ids, token_type_ids=encoded["token_type_ids"]).end_logits[0, at])

    units = dict.fromkeys(word for word in words if word is not None)
    np.testing.assert_allclose(explanation.scores, [logit(None) - logit(unit) for unit in units], atol=1e-4)
    made = page.made([one], Options("occlusion").check(), "model", "rows")
    assert f"{answer['prediction']}: end {explanation.output:.4g}" in made and "<b>question</b>" in made


def test_which_tokens_are_the_ends():
    """Of tokens of one character the strongest; of no answer the first token."""
    places = np.asarray([-1, -1, 0, 3, 3, 5]), np.asarray([-1, -1, 3, 5, 5, 9])
    logits = np.asarray([[9, 9], [9, 9], [0, 0], [1, 4], [2, 3], [0, 0]], float)
    answer = {"prediction": "so", "start": 3, "end": 5}
    assert targets.of_answer("", answer, places, logits) == [("start", 0, "so", 4), ("end", 1, "so", 3)]
    assert targets.of_answer("all", answer, places, logits) == targets.of_answer("start, end", answer, places, logits)
    none = {"prediction": "", "start": None, "end": None}
    assert targets.of_answer("end", none, places, logits) == [("end", 1, targets.NO_ANSWER, 0)]
    with pytest.raises(UserError, match=r"explain.target 'middle': an answer has a start and an end; take one of them"):
        targets.of_answer("middle", answer, places, logits)


@pytest.mark.parametrize(
    ("row", "how", "said"),
    [
        (
            ROWS[0],
            {"method": "leave_one_out"},
            r"'leave_one_out' takes words out, also those of the answer; take a",
        ),
        (ROWS[0], {"faithfulness": True}, "explain.faithfulness takes words out, also those of the answer"),
        (
            {"question": "who? " * 6, "context": "me"},
            {},
            r"row 1: its question has 12 tokens, of which config.task.q",
        ),
        ({"question": "who?", "context": "me " * 99}, {}, "row 1: it has 104 tokens, and 64 are read at once"),
    ],
)
def test_a_mistake_is_one_line(predictor, row, how, said):
    with pytest.raises(UserError, match=said) as raised:
        jaxft.explain(predictor, [row], **how)
    assert "\n" not in str(raised.value)
