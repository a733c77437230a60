"""What each method of `jaxft.adapt` lets learn and adds, by its rules alone: nothing is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft import adapt, config, models, tasks
from jaxft.adapt.prompt import VirtualTokens
from jaxft.errors import UserError
from jaxft.models import nn

TASK = tasks.build(config.SequenceClassification(labels=("a", "b"), problem="single_label"))
MODEL = models.build(support.SMALL | {"num_hidden_layers": 3})
SPEC = TASK.param_spec(MODEL)
QUERY = "bert/encoder/layer/1/attention/self/query"
HEAD = {"classifier", "bert/pooler/dense"}


def built(**sections) -> adapt.Adaptation:
    return adapt.build(config.Experiment(task=TASK.options, **sections), SPEC, MODEL)


def learned(**options) -> set[str]:
    """The modules that learn, layers by their number."""
    found = built(adapt="freeze", freeze=config.Freeze(**options))
    paths = {path.rpartition("/")[0] for path in nn.flatten(SPEC) if found.learns(path)}
    return {"/".join(path.split("/")[2:4]) if "/layer/" in path else path for path in paths}


@pytest.mark.parametrize(("last", "layers"), [(0, ""), (1, "2"), (2, "12"), (3, "012"), (-1, "012")])
def test_the_last_layers_learn(last, layers):
    assert learned(last_layers=last) == HEAD | {f"layer/{number}" for number in layers}


def test_embeddings_learn_where_asked():
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
    below = {f"bert/embeddings/{name}" for name in names}
    assert learned(last_layers=1, embeddings=True) == HEAD | below | {"layer/2"}
    assert learned(last_layers=0, learn=("position_embeddings",)) == HEAD | {"bert/embeddings/position_embeddings"}
    assert learned(last_layers=1, embeddings=True, still=("word_embeddings",)) == HEAD | (
        below - {"bert/embeddings/word_embeddings"}
    ) | {"layer/2"}


@pytest.mark.parametrize("key", ["learn", "still"])
def test_a_pattern_that_names_nothing_is_refused(key):
    with pytest.raises(UserError, match=rf"config\.freeze\.{key} has 'layr/1', which is no part of a path here"):
        learned(**{key: ("LayerNorm", "layr/1")})
    with pytest.raises(UserError, match=r"config\.freeze\.last_layers is 4, but the model has only 3 layers"):
        learned(last_layers=4)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 3.0), (True, 6.0)])
def test_corrections_of_lora_are_multiplied_by_their_scale(rslora, scale):
    """alpha / rank, or alpha / sqrt(rank), with alpha 12 and rank 4; as the model computes it and as it is merged."""
    method = built(adapt="lora", lora=config.Lora(rank=4, alpha=12.0, rslora=rslora, targets=("query",)))
    rng = np.random.default_rng(0)
    flat = {
        path: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        for path, leaf in nn.flatten(SPEC | method.spec).items()
    }
    wanted = scale * np.asarray(flat[f"lora/{QUERY}/a"]) @ np.asarray(flat[f"lora/{QUERY}/b"])
    change = nn.flatten(method.apply(nn.unflatten(flat)))[f"{QUERY}/change"]
    np.testing.assert_allclose(np.asarray(change.a) @ np.asarray(change.b), wanted, rtol=1e-5)
    assert method.merge is not None
    merged = nn.flatten(method.merge(nn.unflatten(flat)))
    np.testing.assert_allclose(merged[f"{QUERY}/kernel"] - flat[f"{QUERY}/kernel"], wanted, rtol=1e-4, atol=1e-5)
    assert merged.keys() == nn.flatten(SPEC).keys()


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize(("name", "options"), [("lora", config.Lora), ("adalora", config.AdaLora)])
def test_corrections_have_dropout_where_asked(name, options, rate):
    method = built(adapt=name, **{name: options(dropout=rate)})
    assert method.rates == ({"adapt": rate} if rate else {})
    flat = {path: jnp.zeros(leaf.shape) for path, leaf in nn.flatten(SPEC | method.spec).items()}
    assert nn.flatten(method.apply(nn.unflatten(flat)))[f"{QUERY}/change"].drops == (rate > 0)


def test_corrections_of_lora_begin_as_those_of_peft():
    """A is drawn with the variance of kaiming_uniform(a=sqrt(5)), 1 / (3 inputs); B is zero."""
    spec = nn.flatten(built(adapt="lora").spec)
    for path, inputs in ((QUERY, 16), ("bert/encoder/layer/1/output/dense", 24)):
        assert spec[f"lora/{path}/a"].stddev == pytest.approx((3 * inputs) ** -0.5)
        assert spec[f"lora/{path}/b"].init == "zeros"


def test_mixout_is_the_equation():
    """(m s + (1 - m) w - p s) / (1 - p), by the mask m that is seen; in evaluation, which has no key, there is none."""
    rate, rng = 0.3, np.random.default_rng(0)
    method = built(adapt="mixout", mixout=config.Mixout(rate=rate, targets=("query",)))
    assert method.rates == {"mixout": rate}
    flat = {path: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for path, leaf in nn.flatten(SPEC).items()}
    begun = nn.flatten(method.extend(nn.unflatten(flat), jax.random.key(0)))
    kernels = [path for path in flat if path.endswith("query/kernel")]
    assert begun.keys() - flat.keys() == {f"mixout/{path}/start" for path in kernels} and len(kernels) == 3
    assert not any(method.learns(path) for path in begun.keys() - flat.keys()) and all(map(method.learns, flat))
    now = {path: x + jnp.asarray(rng.normal(size=x.shape), jnp.float32) for path, x in flat.items()}
    run, masks = nn.Run(rates={"mixout": nn.Rate.of(rate)}), []
    for key in map(jax.random.key, (1, 2)):
        found = nn.flatten(method.drop(nn.unflatten(begun | now), dataclasses.replace(run, key=key)))
        assert all((found[path] == now[path]).all() for path in flat if path not in kernels)
        for path in kernels:
            w, s = (np.asarray(x[path], np.float64) for x in (now, flat))
            mask = np.asarray(found[path] == flat[path], np.float64)
            wanted = (mask * s + (1 - mask) * w - rate * s) / (1 - rate)
            np.testing.assert_allclose(found[path], np.where(mask > 0, s, wanted), rtol=1e-5, atol=1e-6)
            masks.append(mask)
    assert np.mean(masks) == pytest.approx(rate, abs=0.05)
    assert all((one != other).any() for i, one in enumerate(masks) for other in masks[:i]), "by layer and by step"
    clean = nn.flatten(method.drop(nn.unflatten(begun | now), run))
    assert all((clean[path] == now[path]).all() for path in flat)
    assert method.merge is not None and nn.flatten(method.merge(nn.unflatten(begun | now))).keys() == flat.keys()
    off = built(adapt="mixout", mixout=config.Mixout(rate=0.0))
    assert not off.spec and not off.rates and off.learns(QUERY)


def test_virtual_tokens_are_looked_up_by_negative_ids():
    words, virtual = jnp.arange(10.0).reshape(5, 2), 100 + jnp.arange(6.0).reshape(3, 2)
    found = VirtualTokens(virtual)({"embedding": words}, jnp.asarray([[-3, -2, -1, 0, 4]]), None)
    np.testing.assert_array_equal(found, [[*virtual, words[0], words[4]]])
    slope = jax.grad(lambda table: VirtualTokens(table)({"embedding": words}, jnp.asarray([-1, 0, 2]), None).sum())
    np.testing.assert_array_equal(slope(virtual), [[0, 0], [0, 0], [1, 1]])
