"""A checkpoint's head: its outputs follow the names of the labels, or it is new, or refused."""

import dataclasses
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import support
from runs import MINILM, TINY
from safetensors.numpy import load_file, save_file

from jaxft import config, job, models, pretrained, program, tables, tasks
from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.hub import adapters, export, heads, parameters
from jaxft.models import nn
from jaxft.predict.predictor import Predictor
from jaxft.storage.workdir import Workdir
from jaxft.types import Params

CLASS = "ForSequenceClassification"


def named(*names: str, architecture: str = "BertForSequenceClassification") -> dict[str, Any]:
    return {"architectures": [architecture], "id2label": {str(i): name for i, name in enumerate(names)}}


@pytest.mark.parametrize(
    ("there", "here", "order"),
    [
        (("pos", "neg"), ("neg", "pos"), (1, 0)),
        (("c", "a", "b"), ("a", "b", "c"), (1, 2, 0)),
        (("POSITIVE", "Negative "), ("negative", "positive"), (1, 0)),
        (("neg", "pos"), ("neg", "pos"), ()),
        (("LABEL_0", "LABEL_1"), ("neg", "pos"), ()),
        (("pos", "neg"), ("0", "1"), ()),
        ((), ("neg", "pos"), ()),
    ],
)
def test_outputs_follow_names(there, here, order):
    found = heads.fit(named(*there), CLASS, here, "auto", ["classifier/bias"])
    assert found.order == order and not found.new


@pytest.mark.parametrize(
    ("hf", "why"),
    [
        (named("ham", "spam"), "for ham, spam"),
        (named("neg", "neg"), "for neg, neg"),
        (named("neg", "pos", architecture="BertForTokenClassification"), "is a BertForTokenClassification"),
    ],
)
def test_another_head_is_not_taken(hf, why):
    assert why in heads.fit(hf, CLASS, ("neg", "pos"), "auto", ["classifier/bias"]).new
    assert heads.fit(hf, CLASS, ("neg", "pos"), "load", ["classifier/bias"]).new == ""
    assert "config.model.head is new" in heads.fit(named("neg", "pos"), CLASS, ("neg", "pos"), "new", []).new


def test_what_becomes_of_each_parameter_of_a_head():
    """Those of a new head are initialized, whatever is there; those of one that must be there are refused where not."""
    paths = frozenset({"classifier/kernel", "classifier/bias"})
    there = parameters.Accounting(["bert/x", "classifier/bias", "classifier/kernel"], {}, {}, [])
    new = parameters._with_head(Path("x"), there, heads.Fit(paths, new="as asked"))
    assert (new.loaded, new.new) == (["bert/x"], ["classifier/bias", "classifier/kernel"])
    assert new.lines()[1] == "new head (initialized), as asked: classifier/bias, classifier/kernel"
    kept = parameters._with_head(Path("x"), there, heads.Fit(paths, order=(1, 0), note="in another order"))
    assert (kept.loaded, kept.new, kept.lines()[-1]) == (there.loaded, [], "in another order")
    lacking = dataclasses.replace(there, loaded=["bert/x"], missing={"classifier/bias": (2,), "bert/y": (3,)})
    assert parameters._with_head(Path("x"), lacking, heads.Fit(paths)).new == ["classifier/bias", "bert/y"]
    with pytest.raises(UserError, match=r"x: config\.model\.head is load, but the weights have no classifier/bias of"):
        parameters._with_head(Path("x"), lacking, heads.Fit(paths, must=True))


def composed(*labels: str) -> program.Program:
    options = config.SequenceClassification(labels=labels, problem="single_label")
    return support.compose(tasks.build(options), models.build(TINY))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Params]:
    """The directory of a model whose labels are pos and neg, in this order, and its parameters."""
    assert MINILM
    options, model = config.SequenceClassification(labels=("pos", "neg"), problem="single_label"), models.build(TINY)
    params = support.random_params(tasks.build(options), model, seed=3)
    settings = TINY | {**tables.build(options).published(model, 64).settings}
    folder = tmp_path_factory.mktemp("trained") / "export"
    export.export(folder, params, settings, "BertForSequenceClassification", MINILM, "A test.")
    return folder, params


def test_the_rows_of_a_loaded_head_are_those_of_its_names(trained):
    folder, there = trained
    here, accounting = pretrained.load(folder, composed("neg", "pos"))
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(here["classifier"][name], there["classifier"][name][..., ::-1])
    del here["classifier"], (body := dict(there))["classifier"]
    jax.tree.map(np.testing.assert_array_equal, here, body)
    assert "head: its outputs are put in the order of the labels: neg, pos" in accounting.lines()
    same, accounting = pretrained.load(folder, composed("pos", "neg"))
    jax.tree.map(np.testing.assert_array_equal, same, there)
    assert not any("head" in line for line in accounting.lines())


def test_a_head_of_other_names_is_new(trained):
    folder, there = trained
    new, accounting = pretrained.load(folder, composed("ham", "spam"))
    leaf = composed("ham", "spam").spec["classifier"]["kernel"]
    fresh = leaf.initial(nn.path_key(jax.random.key(0), "classifier/kernel"))
    np.testing.assert_allclose(new["classifier"]["kernel"], fresh, rtol=1e-6)
    said = "new head (initialized), as the checkpoint's is for pos, neg; "
    assert any(line.startswith(said) for line in accounting.lines())
    forced, _ = pretrained.load(folder, composed("ham", "spam"), head="load")
    np.testing.assert_array_equal(forced["classifier"]["kernel"], there["classifier"]["kernel"])
    asked, _ = pretrained.load(folder, composed("pos", "neg"), head="new")
    np.testing.assert_allclose(asked["classifier"]["kernel"], fresh, rtol=1e-6)


def test_a_head_that_must_be_there_is_refused_where_it_is_not(trained):
    folder, _ = trained
    with pytest.raises(UserError, match=r"config\.model\.head is load, but the weights have no classifier/bias, "):
        pretrained.load(folder, composed("a", "b", "c"), head="load")


@pytest.mark.parametrize(("types", "fits"), [((0, 0, 0), True), ((0, 1, 1), False)])
def test_types_of_tokens_that_the_model_lacks_are_refused(types, fits):
    """Alone as well as among others: the lookup would give another type's row without a word."""
    features = Features(np.asarray([0, 3]), {"token_type_ids": np.asarray(types, np.int32)}, {})
    model = models.build(TINY | {"type_vocab_size": 1})
    with nullcontext() if fits else pytest.raises(UserError, match=r"the token type 1, .* but the model has only 1 "):
        job.check_features(features, model, 8)
    job.check_features(features, models.build(TINY), 8)


def test_examples_longer_than_the_step_counts_on_are_refused():
    """As a table of one's own may make them: what lies beyond would not be attended to, without a word."""
    features = Features(np.asarray([0, 9]), {"token_type_ids": np.zeros(9, np.int32)}, {})
    job.check_features(features, models.build(TINY), 9)
    with pytest.raises(UserError, match=r"an example has 9 tokens, more than config\.data\.max_length 8"):
        job.check_features(features, models.build(TINY), 8)


def test_an_adapter_without_a_head_answers_nothing(finished, tmp_path):
    """Neither it nor its base has one; with the head beside it, it does."""
    e = dataclasses.replace(Workdir(finished).experiment(), adapt="lora", lora=config.Lora(rank=2))
    made = program.compose(e, models.build(TINY), tasks.build(e.task), steps=10)
    trainable, _ = made.split(support.random_params(made.task, made.model, seed=0))
    adapters.write(tmp_path / "whole", e, trainable)
    assert len(Predictor.open(finished, adapter=tmp_path / "whole")(["So it is."])) == 1
    shutil.copytree(tmp_path / "whole", tmp_path / "bare")
    tensors = load_file(tmp_path / "bare" / adapters.WEIGHTS)
    bare = {name: x for name, x in tensors.items() if "classifier" not in name}
    assert len(bare) < len(tensors)
    save_file(bare, tmp_path / "bare" / adapters.WEIGHTS)
    with pytest.raises(UserError, match=r"neither the adapter .*bare nor its base .* has classifier/"):
        Predictor.open(finished, adapter=tmp_path / "bare")


@pytest.mark.parametrize("name", ["cls.predictions.bias", "cls.predictions.decoder.bias"])
def test_the_bias_of_a_language_model_under_either_name(tmp_path, name):
    assert MINILM
    made = support.compose(tasks.build(config.MaskedLM()), models.build(TINY))
    params = support.random_params(made.task, made.model, seed=0)
    export.export(tmp_path / "made", params, TINY, "BertForMaskedLM", MINILM, "A test.")
    tensors = load_file(tmp_path / "made" / "model.safetensors")
    bias = tensors.pop("cls.predictions.bias")
    save_file(tensors | {name: bias}, tmp_path / "made" / "model.safetensors")
    found, accounting = pretrained.load(tmp_path / "made", made)
    np.testing.assert_array_equal(found["cls"]["predictions"]["bias"], params["cls"]["predictions"]["bias"])
    assert not accounting.new and not accounting.unused


def test_a_decoder_of_its_own_is_refused(trained, tmp_path):
    """Where it would be computed otherwise, and lost; a classifier has none."""
    folder = Path(shutil.copytree(trained[0], tmp_path / "copy"))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    pretrained.load(folder, composed("pos", "neg"))
    with pytest.raises(UserError, match=r"tie_word_embeddings is false; the head of MaskedLM "):
        pretrained.load(folder, support.compose(tasks.build(config.MaskedLM()), models.build(TINY)))
