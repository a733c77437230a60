"""`config.compute.frozen`: parameters that do not learn, in fewer bits."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import support

import jaxft
from jaxft import config, models, modes, program
from jaxft.adapt.base import count
from jaxft.errors import UserError
from jaxft.hub import adapters
from jaxft.models import nn
from jaxft.models.nn.forms import VALUES
from jaxft.report import tree
from jaxft.storage import fingerprint
from jaxft.storage.workdir import Workdir

CASE = support.TASKS["single_label"]
HF = support.SMALL | {"intermediate_size": 32}
MODEL = models.build(HF, dropout=0.0)
DENSE = "bert/encoder/layer/0/attention/self/query"
FORMS = ("bfloat16", "int8", "nf4")


def matrix(inputs: int, outputs: int, seed: int = 0) -> jax.Array:
    """Columns of very different sizes, and one of zeros."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(inputs, outputs)) * 10.0 ** rng.integers(-3, 3, outputs)
    x[:, 1] = 0
    return jnp.asarray(x, jnp.float32)


def test_int8_is_the_nearest_of_255_for_each_output():
    x = matrix(48, 6)
    kept = nn.narrow(x, "int8")
    assert kept.codes.shape == (48, 6) and kept.codes.dtype == jnp.int8 and kept.scales.shape == (1, 6)
    each = np.asarray(kept.scales)[0] * np.arange(-127, 128)[:, None]
    for column in range(6):
        nearest = np.abs(np.asarray(x)[:, column, None] - each[None, :, column]).min(-1)
        found = np.abs(np.asarray(x - nn.wide(kept, jnp.float32))[:, column])
        np.testing.assert_allclose(found, nearest, atol=1e-6 * float(jnp.abs(x).max()))
    np.testing.assert_allclose(jnp.abs(nn.wide(kept, jnp.float32)).max(0), jnp.abs(x).max(0), rtol=1e-6)


@pytest.mark.parametrize(("inputs", "block"), [(128, 64), (192, 64), (48, 16), (96, 32)])
def test_nf4_is_the_nearest_of_sixteen_for_each_block(inputs, block):
    x = matrix(inputs, 5)
    kept = nn.narrow(x, "nf4")
    assert kept.codes.shape == (inputs // 2, 5) and kept.codes.dtype == jnp.uint8
    assert kept.scales.shape == (inputs // block, 5)
    found, given = np.asarray(nn.wide(kept, jnp.float32), np.float64), np.asarray(x, np.float64)
    for first in range(0, inputs, block):
        part = given[first : first + block]
        scale = np.abs(part).max(0)
        each = scale * np.asarray(VALUES)[:, None, None]
        nearest = np.take_along_axis(each, np.abs(part - each).argmin(0)[None], 0)[0]
        np.testing.assert_allclose(found[first : first + block], nearest, rtol=1e-6)
    assert (found[:, 1] == 0).all()


def test_values_of_nf4_are_quantiles_of_normal_numbers():
    """Dettmers et al. 2023, equation 4: as many negative ones, with 0, as quantiles of 2^3 halves and 2^3 + 1."""
    from scipy.stats import norm

    offset = 0.5 * ((1 - 1 / 30) + (1 - 1 / 32))
    above, below = norm.ppf(np.linspace(offset, 0.5, 9)[:-1]), -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    whole = np.sort(np.concatenate([above, [0], below])) / norm.ppf(offset)
    np.testing.assert_allclose(VALUES, whole, atol=1e-6)


def test_the_same_twice_is_the_same():
    for form in FORMS:
        once = nn.wide(nn.narrow(matrix(64, 5), form), jnp.float32)
        np.testing.assert_allclose(nn.wide(nn.narrow(once, form), jnp.float32), once, rtol=1e-6)


def test_which_parameters_are_kept_in_which_form():
    spec = MODEL.param_spec() | {"odd": nn.dense_spec(24, 8, (None, None), 0.1)}
    of = {form: nn.flatten(nn.formed(spec, lambda path: "layer/1" in path, form)) for form in ("float32", *FORMS)}
    assert {leaf.form for leaf in of["float32"].values()} == {"float32"}
    for form in FORMS:
        assert of[form][f"{DENSE}/kernel"].form == form
        assert of[form][f"{DENSE}/bias"].form == of[form]["bert/embeddings/LayerNorm/scale"].form == "float32"
        assert of[form]["bert/embeddings/word_embeddings/embedding"].form == "bfloat16"
        assert {leaf.form for path, leaf in of[form].items() if "layer/1" in path} == {"float32"}
    assert [of[form]["odd/kernel"].form for form in FORMS] == ["bfloat16", "int8", "bfloat16"]


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_a_product_and_its_gradient(form):
    """They are those of the matrix that the form stands for, of which neither keeps anything."""
    kept = nn.narrow(matrix(32, 6), form)
    kernel, x = nn.wide(kept, jnp.float32), jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 32)), jnp.float32)
    y, back = jax.vjp(lambda x: nn.product(x, kept), x)
    expected, wide_back = jax.vjp(lambda x: nn.product(x, kernel), x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(back(y)[0], wide_back(y)[0], rtol=1e-6)
    held = [(array.shape, array.dtype) for array in jax.tree.leaves(back)]
    assert ((32, 6), jnp.float32) not in held and (kept.codes.shape, kept.codes.dtype) in held


@functools.lru_cache(maxsize=4)
def steps(form: str, method: str) -> program.Program:
    """A program that keeps gradients, of frozen parameters in a form."""
    sections = support.ADAPTATIONS[method]
    return support.compose(CASE.task, MODEL, keep_gradients=True, compute=config.Compute(frozen=form), **sections)


@pytest.mark.parametrize(
    ("form", "method"),
    support.once(
        [
            (form, method)
            for method in support.ADAPTATIONS
            for form in FORMS
            if method not in ("full", "mixout", "adalora")
        ],
        ("nf4", "lora"),
    ),
)
def test_a_step_is_that_of_the_parameters_that_a_form_stands_for(form, method):
    """Loss, gradients, outputs and what is merged."""
    narrow, wide = steps(form, method), steps("float32", method)
    params = support.random_params(CASE.task, MODEL, seed=0)
    rounded = nn.widened(nn.narrowed(params, nn.unflatten({p: narrow_leaf(narrow, p) for p in nn.flatten(params)})))
    assert not runs.bits_equal(params, rounded)
    features = support.random_features(np.random.default_rng(0), CASE, [9, 24, 4, 7], HF)
    host = support.lay_out(features, CASE.task, 24, 0)
    grads, metrics = support.gradients(narrow, params, host)
    expected, same = support.gradients(wide, rounded, host)
    assert float(metrics["loss"]) == pytest.approx(float(same["loss"]), rel=1e-5)
    support.assert_close(grads, expected, 1e-5)
    if narrow.merge and wide.merge:
        ours, theirs = narrow.merge(*narrow.split(params)), wide.merge(*wide.split(rounded))
        support.assert_close(nn.flatten(ours), nn.flatten(theirs), 1e-5)
        assert {x.dtype for x in jax.tree.leaves(ours)} == {jnp.dtype("float32")}


def narrow_leaf(composed: program.Program, path: str) -> nn.Leaf:
    return nn.flatten(composed.declared)[path]


def test_what_they_take():
    """Of a matrix of dense layers a byte or half of one for each number, beside its scales; and it is told so."""
    taken = {}
    for form in ("float32", *FORMS):
        composed = support.compose(CASE.task, MODEL, compute=config.Compute(frozen=form), adapt="bitfit")
        found = {entry.path: entry.array for entry in tree.entries(composed)}
        own = [x for path, x in found.items() if path.startswith(f"{DENSE}/kernel")]
        taken[form] = sum(math.prod(x.shape) * x.dtype.itemsize for x in own)
        assert all(x.sharding for x in own)
        assert {entry.array.dtype for entry in tree.entries(composed) if entry.learns} == {jnp.dtype("float32")}
    assert taken == {"float32": 1024, "bfloat16": 512, "int8": 256 + 64, "nf4": 128 + 64}
    assert count(composed.state.frozen) < sum(math.prod(x.shape) for x in nn.flatten(composed.spec).values())


def test_fingerprints_tell_forms_apart():
    params = {"a": {"kernel": matrix(32, 6)}}
    other = {"a": {"kernel": matrix(32, 6).at[0, 0].multiply(-1)}}
    prints = [fingerprint.of_params(params)]
    for form in FORMS:
        spec = {"a": {"kernel": nn.Leaf((32, 6), (None, None), form=form)}}
        prints += [fingerprint.of_params(nn.narrowed(one, spec)) for one in (params, other)]
    assert len({*prints}) == 7


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Workdir, config.Experiment]:
    """LoRA on a small model in nf4, and its adapter."""
    folder = tmp_path_factory.mktemp("forms")
    e = runs.experiment(runs.save_tiny_model(folder / "model"), folder / "cache", compute={"frozen": "nf4"})
    e = dataclasses.replace(e, adapt="lora", lora=config.Lora(rank=4, dropout=0.1))
    modes.train(e, str(folder / "run"))
    return Workdir(folder / "run"), e


def test_a_run_exports_what_it_has_measured(run):
    """The export, in float32, is not rounded again; nor is the base beside the adapter other than it was."""
    folder, e = run
    results, export, measured = folder.results(), folder.exported(), modes.evaluate(str(folder))
    assert results and export
    for name in ("test/accuracy", "test/loss", "validation/loss"):
        assert measured[name] == pytest.approx(results[name], abs=1e-5)
    texts = ["so happy today", "this is the worst", "nothing to say"]
    answers = [
        jaxft.Predictor.open(str(folder)),
        jaxft.Predictor.open(str(export)),
        jaxft.Predictor.open(e.model.path, adapter=str(folder.path / "adapter")),
    ]
    first, *others = ([one["probability"] for one in predictor(texts)] for predictor in answers)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)
    there = adapters.meaning(folder.path / "adapter")
    assert there and there.frozen == "nf4"


def test_a_run_does_not_go_on_in_another_form(run):
    folder, e = run
    other = dataclasses.replace(e, compute=config.Compute(frozen="int8"))
    with pytest.raises(UserError, match=r"compute\.frozen: 'nf4' there, 'int8' here"):
        modes.train(other, str(folder))
    assert json.loads((folder.path / "config.json").read_text())["compute"]["frozen"] == "nf4"
