"""Explanations: each method against its definition, a planted shortcut, and mistakes in a line."""

import dataclasses
import itertools
from math import factorial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from runs import MINILM, TINY, count_compilations
from support import random_params

import jaxft
from jaxft import config, hub, models, program, tables, tasks
from jaxft.errors import UserError
from jaxft.explain import ablation, units
from jaxft.explain import inputs as rows_of
from jaxft.explain.explainer import Explained
from jaxft.explain.methods import SMALLEST
from jaxft.explain.options import METHODS
from jaxft.hub import export
from jaxft.job import Body
from jaxft.models import nn
from jaxft.predict.engine import CompiledEngine
from jaxft.predict.predictor import Predictor
from jaxft.types import Params

TEXTS = ["what an unbelievably good day", "no", "never again, I said: never!"]
LABELS = ("bad", "fair", "good")


def written(folder: Path, options: config.SequenceClassification, params: Params, **hf: Any) -> Path:
    """The directory of a model with these parameters."""
    settings = tables.build(options).published(models.build(TINY), 64).settings
    assert MINILM
    export.export(folder, params, TINY | hf | dict(settings), "BertForSequenceClassification", MINILM, "A test.")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random model of three classes."""
    options = config.SequenceClassification(labels=LABELS, problem="single_label")
    params = random_params(tasks.build(options), models.build(TINY), seed=0)
    return written(tmp_path_factory.mktemp("explained") / "model", options, params)


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.open(folder)


@pytest.fixture(scope="module")
def reference(folder, torch):
    """The same model in PyTorch, in float64, and its tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).double().eval()
    return model, AutoTokenizer.from_pretrained(str(folder))


def embedded(reference, text: str, baseline: int) -> tuple[Any, Any, Any]:
    """Word embeddings of a text and of its baseline in which special tokens stay, and its words' numbers."""
    model, tokenizer = reference
    encoded = tokenizer(text, return_tensors="pt")
    words = encoded.word_ids()
    ids = encoded["input_ids"]
    empty = ids.clone()
    empty[0, [at for at, word in enumerate(words) if word is not None]] = baseline
    table = model.get_input_embeddings()
    return table(ids).detach(), table(empty).detach(), words


def of_words(tokens: np.ndarray, words: list[int | None]) -> np.ndarray:
    count = max(word for word in words if word is not None) + 1
    return np.asarray([tokens[[word == n for word in words]].sum() for n in range(count)])


@pytest.mark.parametrize("baseline", ["pad", "mask"])
def test_integrated_gradients_are_those_of_their_definition(predictor, reference, torch, baseline):
    """Autograd in float64, a backward pass a node of the quadrature."""
    model, tokenizer = reference
    token = {"pad": tokenizer.pad_token_id, "mask": tokenizer.mask_token_id}[baseline]
    for text, one in zip(TEXTS, jaxft.explain(predictor, TEXTS, baseline=baseline, samples=16), strict=True):
        explanation = one.explanations[0]
        own, empty, words = embedded(reference, text, token)
        nodes, weights = (torch.tensor(x) for x in np.polynomial.legendre.leggauss(int(explanation.facts["steps"])))
        at = (empty + (nodes[:, None, None] + 1) / 2 * (own - empty)).requires_grad_()
        model(inputs_embeds=at).logits[:, LABELS.index(explanation.target)].sum().backward()
        gradient = torch.einsum("n,nld->ld", weights / 2, at.grad)
        wanted = of_words(((own - empty)[0] * gradient).sum(-1).numpy(), words)
        np.testing.assert_allclose(explanation.scores, wanted, atol=1e-4)
        assert np.abs(wanted).max() > 0.02, "something to be right about"


def test_integrated_gradients_are_those_of_captum(predictor, reference, torch):
    captum = pytest.importorskip("captum.attr", reason="captum, a reference, is not installed")
    model, tokenizer = reference
    found = jaxft.explain(predictor, TEXTS, target="good", samples=16)
    for text, one in zip(TEXTS, found, strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        ids, words = encoded["input_ids"], encoded.word_ids()
        empty = ids.clone()
        empty[0, [at for at, word in enumerate(words) if word is not None]] = tokenizer.pad_token_id
        steps = int(one.explanations[0].facts["steps"])
        method = captum.LayerIntegratedGradients(lambda x: model(x).logits, model.get_input_embeddings())
        tokens = method.attribute(ids, baselines=empty, target=2, n_steps=steps, method="gausslegendre")
        wanted = of_words(tokens[0].sum(-1).detach().numpy(), words)
        np.testing.assert_allclose(one.explanations[0].scores, wanted, atol=1e-4)


def test_integrated_gradients_add_up(predictor):
    """Steps are doubled where they do not; what is said of it is so."""
    rough, fine = (jaxft.explain(predictor, TEXTS, samples=samples) for samples in (1, 32))
    for one, other in zip(rough, fine, strict=True):
        explanation, exact = one.explanations[0], other.explanations[0]
        change = explanation.output - explanation.facts["baseline_output"]
        gap = abs(sum(explanation.scores) - change) / max(abs(change), SMALLEST)
        assert explanation.facts["completeness_error"] == pytest.approx(gap, abs=1e-4) and gap < 0.01
        assert explanation.scores == pytest.approx(exact.scores, abs=0.1 * max(map(abs, exact.scores)))
        passes = [2 + (1 << n) for n in range(int(np.log2(explanation.facts["steps"])) + 1)]
        assert one.passes == sum(passes)
    assert max(one.explanations[0].facts["steps"] for one in rough) > 1, "one had to be doubled"


def test_gradient_x_input_is_that_of_autograd(predictor, reference):
    model, _ = reference
    for text, one in zip(TEXTS, jaxft.explain(predictor, TEXTS, "gradient_x_input", "bad"), strict=True):
        own, _, words = embedded(reference, text, 0)
        own.requires_grad_()
        model(inputs_embeds=own).logits[0, 0].backward()
        tokens = (own * own.grad)[0].sum(-1).detach().numpy()
        np.testing.assert_allclose(one.explanations[0].scores, of_words(tokens, words), atol=1e-4)
        special = tokens[[word is None for word in words]].sum()
        assert one.explanations[0].facts["special_tokens"] == pytest.approx(special, abs=1e-4)


def test_smoothgrad_is_its_mean_under_noise(predictor):
    """It draws the same wherever a text lies, with another seed something else; it is near the gradient."""
    plain = jaxft.explain(predictor, TEXTS, "gradient_x_input")
    few = jaxft.explain(predictor, TEXTS, "smoothgrad", samples=4)
    alone = [jaxft.explain(predictor, [text], "smoothgrad", samples=4)[0] for text in TEXTS]
    other = jaxft.explain(predictor, TEXTS, "smoothgrad", samples=4, seed=1)
    for one, two, three, four in zip(few, alone, other, plain, strict=True):
        scores = [np.asarray(x.explanations[0].scores) for x in (one, two, three, four)]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
        assert np.abs(scores[0] - scores[2]).max() > 1e-3 and np.abs(scores[0] - scores[3]).max() > 1e-3
        assert np.abs(scores[0] - scores[3]).max() < 0.5 * np.abs(scores[3]).max()


@pytest.mark.parametrize(("method", "baseline"), [("occlusion", "mask"), ("occlusion", "pad"), ("leave_one_out", "")])
def test_occlusion_is_the_plain_loop(predictor, reference, torch, method, baseline):
    model, tokenizer = reference
    fill = {"mask": tokenizer.mask_token_id, "pad": tokenizer.pad_token_id, "": None}[baseline]
    for text, one in zip(TEXTS, jaxft.explain(predictor, TEXTS, method, "all", baseline=baseline), strict=True):
        encoded = tokenizer(text)
        ids, words = encoded["input_ids"], encoded.word_ids()

        def logits(ids: list[int]) -> np.ndarray:
            with torch.no_grad():
                return model(torch.tensor([ids])).logits[0].numpy()

        wanted = []
        for hidden in range(len(one.units)):
            other = [fill if word == hidden else token for token, word in zip(ids, words, strict=True)]
            wanted.append(logits(ids) - logits([token for token in other if token is not None]))
        found = np.transpose([explanation.scores for explanation in one.explanations])
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        assert one.passes == len(one.units) + 1


def test_exact_shap_is_enumerated(predictor):
    """Over all orders in which the words of a text may come: the mean gain where a word's turn is."""
    text = "a good day, again"
    one = jaxft.explain(predictor, [text], "exact_shap", "good")[0]
    assert [unit.text for unit in one.units] == ["a", "good", "day", ",", "again"]
    _, (reading,) = rows_of.read(predictor, [text], "words")
    value: dict[tuple[bool, ...], float] = {}
    for kept in itertools.product([False, True], repeat=5):
        features = ablation.features(reading, np.asarray([kept]), 103)
        value[kept] = float(predictor.compute(features)["logits"][0, 2])
    wanted = np.zeros(5)
    for order in itertools.permutations(range(5)):
        kept = [False] * 5
        for word in order:
            before = value[tuple(kept)]
            kept[word] = True
            wanted[word] += value[tuple(kept)] - before
    np.testing.assert_allclose(one.explanations[0].scores, wanted / factorial(5), atol=1e-4)
    assert one.passes == 32
    same = jaxft.explain(predictor, [text], "shap", "good")[0]
    assert same.explanations == one.explanations, "few words: all coalitions"


def test_sampled_shap_of_a_text(predictor):
    text = "one two three four five six seven eight nine ten"
    sampled = jaxft.explain(predictor, [text], "shap", "good", samples=32)[0].explanations[0]
    exact = jaxft.explain(predictor, [text], "exact_shap", "good")[0].explanations[0]
    assert sampled.errors is not None and exact.errors is None
    assert sum(sampled.scores) == pytest.approx(sum(exact.scores), abs=1e-3)
    assert (np.abs(np.subtract(sampled.scores, exact.scores)) < 5 * np.asarray(sampled.errors) + 1e-4).all()
    again = jaxft.explain(predictor, [text, "no"], "shap", "good", samples=32)[0].explanations[0]
    assert again.scores == pytest.approx(sampled.scores, abs=1e-4), "it does not depend on its company"


def shortcut(folder: Path) -> Path:
    """A model by hand, whose first number of [CLS] is the mean of all tokens': it is large for the word zebra alone."""
    options = config.SequenceClassification(labels=("no", "yes"), problem="single_label")
    model = models.build(TINY | {"num_hidden_layers": 1})
    rng = np.random.default_rng(0)
    flat = nn.flatten(random_params(tasks.build(options), model, seed=0))
    flat = {path: np.zeros_like(x) + path.endswith("scale") for path, x in flat.items()}
    words, positions = (f"bert/embeddings/{name}_embeddings/embedding" for name in ("word", "position"))
    flat[words] = rng.normal(0, 0.02, flat[words].shape)
    flat[positions] = rng.normal(0, 0.05, flat[positions].shape)
    flat[words][:, 0], flat[positions][:, 0] = 0, 0
    assert MINILM
    flat[words][hub.load_tokenizer(MINILM).convert_tokens_to_ids("zebra"), 0] = 0.1
    for path in ("encoder/layer/0/attention/self/value", "encoder/layer/0/attention/output/dense", "pooler/dense"):
        flat[f"bert/{path}/kernel"] = np.eye(TINY["hidden_size"])
    flat["classifier/kernel"][0] = [-2, 2]
    params = nn.unflatten({path: jnp.asarray(x, jnp.float32) for path, x in flat.items()})
    return written(folder, options, params, num_hidden_layers=1)


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Predictor:
    return Predictor.open(shortcut(tmp_path_factory.mktemp("planted") / "model"))


SHORT = ["we saw a zebra today", "the film was a zebra of a kind, and I liked the rest of it"]


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.attention])
def test_a_shortcut_is_found_by_every_method(planted, method):
    texts = SHORT[:1] if method == "exact_shap" else SHORT
    for one in jaxft.explain(planted, texts, method, "yes"):
        scores = np.asarray(one.explanations[0].scores)
        assert one.units[int(scores.argmax())].text == "zebra"
        assert scores.max() > 2 * np.sort(np.abs(scores))[-2]


def test_faithful_is_more_than_chance(planted):
    for one in jaxft.explain(planted, SHORT, "occlusion", "yes", faithfulness=True):
        measured = one.explanations[0].faithfulness
        assert measured is not None
        needed, enough = measured["comprehensiveness"], measured["sufficiency"]
        assert needed["area"] > needed["random"] + 0.05 and enough["area"] < enough["random"] - 0.05
        assert np.mean(needed["curve"]) == pytest.approx(needed["area"]) and len(needed["curve"]) == 5


def test_faithfulness_is_the_plain_loop(planted):
    """What the probability loses without the strongest words, and with these alone."""
    one = jaxft.explain(planted, SHORT[1:], "leave_one_out", "yes", faithfulness=True)[0]
    scores, measured = one.explanations[0].scores, one.explanations[0].faithfulness
    assert measured is not None
    _, (reading,) = rows_of.read(planted, SHORT[1:], "words")
    ranked = sorted(range(len(scores)), key=lambda n: -scores[n])

    def probability(left: set[int]) -> float:
        kept = np.asarray([[n in left for n in range(len(scores))]])
        logits = planted.compute(ablation.features(reading, kept, None))["logits"].astype(float)
        return float(np.exp(logits[0, 1]) / np.exp(logits[0]).sum())

    whole = probability({*ranked})
    curves = {name: part["curve"] for name, part in measured.items()}
    for n, share in enumerate((0.01, 0.05, 0.1, 0.2, 0.5)):
        first = {*ranked[: int(np.ceil(share * len(scores)))]}
        assert curves["comprehensiveness"][n] == pytest.approx(whole - probability({*ranked} - first), abs=1e-4)
        assert curves["sufficiency"][n] == pytest.approx(whole - probability(first), abs=1e-4)


def test_units_are_stretches_of_the_text(predictor):
    text = "Unbelievably good!  It is. 很好。不错 Really?"
    _, (words,) = rows_of.read(predictor, [text], "words")
    assert [unit.text for unit in words.units[:4]] == ["Unbelievably", "good", "!", "It"]
    assert np.bincount(words.unit_of + 1)[1] > 1, "a word of several tokens"
    for kind in units.UNITS:
        _, (one,) = rows_of.read(predictor, [text], kind)
        assert all(text[unit.start : unit.end] == unit.text and unit.text for unit in one.units)
        assert sorted({*one.unit_of}) == [-1, *range(len(one.units))]
    _, (sentences,) = rows_of.read(predictor, [text], "sentences")
    assert [unit.text for unit in sentences.units] == ["Unbelievably good!", "It is.", "很好。", "不错 Really?"]


def test_what_is_cut_has_no_unit(predictor):
    text = "day " * 100
    one = jaxft.explain(predictor, [text], "leave_one_out")[0]
    assert one.cut and len(one.units) == 62 and one.units[-1].end == 62 * 4 - 1
    just, beyond = jaxft.explain(predictor, ["day " * 62, "day " * 63], "leave_one_out")
    assert (just.cut, beyond.cut, len(just.units), len(beyond.units)) == (False, True, 62, 62)


def test_pairs_and_several_labels_and_scores(tmp_path):
    several = config.SequenceClassification(labels=LABELS, problem="multi_label", text="one", text_pair="two")
    scores = config.SequenceClassification(problem="regression")
    for name, options in (("several", several), ("scores", scores)):
        params = random_params(tasks.build(options), models.build(TINY), seed=1)
        written(tmp_path / name, options, params)
    pairs = Predictor.open(tmp_path / "several", task=config.SequenceClassification(text="one", text_pair="two"))
    rows = [{"one": "a fine day", "two": "a good one"}, {"one": "no", "two": "never"}]
    found = jaxft.explain(pairs, rows, "occlusion")
    for row, one in zip(rows, found, strict=True):
        columns = [name for name in ("one", "two") for _ in row[name].split()]
        assert [unit.column for unit in one.units] == columns
        held = [explanation.target for explanation in one.explanations]
        assert held == one.answer["prediction"] or (not one.answer["prediction"] and len(held) == 1)
        for explanation in one.explanations:
            assert explanation.probability == pytest.approx(one.answer["probabilities"][explanation.target], abs=1e-5)
    both = jaxft.explain(pairs, rows[:1], target="good, bad")[0]
    assert [explanation.target for explanation in both.explanations] == ["good", "bad"]
    single = jaxft.explain(str(tmp_path / "scores"), ["a fine day"], "exact_shap")[0]
    assert single.explanations[0].target == "score" and single.explanations[0].probability is None
    assert single.explanations[0].output == pytest.approx(single.answer["score"], abs=1e-5)


def test_a_few_shapes_are_compiled_once(predictor):
    """Hundreds of ablations share rows; further texts compile nothing."""
    jaxft.explain(predictor, TEXTS * 3, "lime", samples=50)
    jaxft.explain(predictor, TEXTS * 3)
    other = [text.upper() + " too" for text in TEXTS * 3]
    assert count_compilations(lambda: jaxft.explain(predictor, other, "lime", samples=50)) == 0
    assert count_compilations(lambda: jaxft.explain(predictor, other)) == 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"method": "ocluson"}, "explain.method 'ocluson': there is no such method; did you mean 'occlusion'?"),
        ({"target": "god"}, "explain.target 'god': the model has no such label; did you mean 'good'?"),
        ({"units": "letters"}, "explain.units 'letters': there are no such units; there are: "),
        ({"baseline": "zero"}, "explain.baseline 'zero': integrated_gradients has pad or mask; take that"),
        ({"method": "occlusion", "samples": 3}, "explain.samples is 3, but occlusion draws no samples"),
        ({"method": "lime", "samples": 1}, "explain.samples is 1; lime needs 2 or more"),
        ({"method": "exact_shap", "inputs": ["a " * 13]}, "texts, row 1: it has 13 words; exact_shap takes 12 at most"),
        ({"inputs": ["fine", " "]}, "texts, row 2: "),
        ({"inputs": ["fine", ""]}, "texts, row 2: "),
        ({"inputs": ["fine", "\u200d"]}, "texts, row 2: 'text' has no word that the tokenizer knows of"),
        ({"inputs": []}, "there is no text and no row to answer"),
        ({"inputs": "fine"}, "a str is one input; give a list of them"),
    ],
)
def test_a_mistake_is_one_line(predictor, how, said):
    with pytest.raises(UserError) as error:
        jaxft.explain(predictor, **{"inputs": ["fine"], **how})
    assert str(error.value).startswith(said) and "\n" not in str(error.value)


def with_parts(predictor: Predictor, **parts: Any) -> Predictor:
    """The same model, of an experiment with other sections."""
    experiment = dataclasses.replace(predictor.experiment, **parts)
    model, task = predictor.engine.model, tasks.build(experiment.task)
    composed = program.compose(experiment, model, task, steps=1)
    weights = composed.split(random_params(task, model, seed=0))
    body = Body.of(experiment.model, experiment.data.max_length)
    return Predictor(experiment, body, tables.build(experiment.task), CompiledEngine(experiment, composed, weights))


def test_what_cannot_be_explained_yet_is_one_line(predictor):
    sentences = with_parts(predictor, task=config.NextSentence())
    with pytest.raises(UserError, match="the model's task is NextSentence; what can be explained is SequenceClassif"):
        jaxft.explain(sentences, ["a day"])
    windows = dataclasses.replace(predictor.table.options, windows="mean", stride=4)
    with pytest.raises(UserError, match=r"reads long texts in windows .*windows=mean.*, which cannot be explained yet"):
        jaxft.explain(with_parts(predictor, task=windows), ["a day"])


def test_virtual_tokens_have_no_gradient_by_words(predictor):
    """Neither do they stand in the way of what hides words; a prefix, which is no token, has gradients."""
    prompt = with_parts(predictor, adapt="prompt", prompt=config.Prompt(length=3))
    with pytest.raises(UserError, match=r"virtual tokens before each text \(adapt=prompt\)"):
        jaxft.explain(prompt, TEXTS)
    assert len(jaxft.explain(prompt, TEXTS, "occlusion")) == len(TEXTS)
    for one in jaxft.explain(with_parts(predictor, adapt="prefix", prefix=config.Prefix(length=3)), TEXTS):
        assert one.explanations[0].facts["completeness_error"] < 0.01


def test_what_comes_out_is_json(predictor):
    import json

    one = jaxft.explain(predictor, TEXTS[:1], "occlusion", faithfulness=True)[0]
    assert isinstance(one, Explained)
    found = json.loads(json.dumps(one.to_json()))
    assert found["units"][0] == {"text": "what", "column": "text", "start": 0, "end": 4}
    assert found["explanations"][0]["scores"] == one.explanations[0].scores
