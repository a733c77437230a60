"""Texts that go on where earlier ones have ended: the same answers, of which the new tokens alone are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from test_decoding import ENDS, engine, prompts

from jaxft.generate import resuming, writing
from jaxft.generate.options import Options
from jaxft.generate.resuming import Kept, common
from jaxft.models import nn
from jaxft.predict.engine import CompiledEngine

QWEN2 = support.ARCHITECTURES["qwen2"] | {"max_position_embeddings": 300}
"""One with a window, and heads that share keys and values."""

DRAWN = Options(max_new_tokens=3, temperature=1.3, repetition_penalty=1.2)


def goes_on(tokens: list[int]) -> bool:
    return False


@pytest.fixture(scope="module")
def qwen2() -> CompiledEngine:
    return engine(QWEN2)


def assert_same(made: CompiledEngine, prompt: list[int], kept: Kept | None, options: Options = DRAWN) -> Kept:
    """The answer is the one without anything kept; returns what is kept now."""
    found, after = resuming.written(made, prompt, ENDS, options, kept, goes_on)
    (alone,) = writing.written(made, [prompt], ENDS, options)
    assert found.tokens == alone.tokens and found.ended == alone.ended
    np.testing.assert_allclose(found.log_probs, alone.log_probs, atol=1e-4)
    assert after.tokens == [*prompt, *found.tokens[:-1]]
    return after


def test_turns_are_those_of_whole_prompts(qwen2):
    """Behind what was written; behind a part of it, where the rest has become another; and of another text."""
    kept = assert_same(qwen2, [*range(3, 40)] * 5, None)
    kept = assert_same(qwen2, [*kept.tokens, 7, 30, 11], kept)  # 251 places of 256, before the answer
    assert_same(qwen2, [*kept.tokens[:150], *[8, 9] * 4], kept)
    assert_same(qwen2, kept.tokens[:-4], kept)
    assert_same(qwen2, [39] * 180, kept)


def test_who_watches_may_end_an_answer(qwen2):
    """After each token."""
    seen: list[list[int]] = []

    def ends(tokens: list[int]) -> bool:
        seen.append(tokens)
        return len(tokens) == 2

    found, kept = resuming.written(qwen2, [*range(3, 40)] * 5, (), DRAWN, None, ends)
    assert seen == [found.tokens[:1], found.tokens] and len(found.tokens) == 2 and found.ended
    assert kept.tokens == [*range(3, 40)] * 5 + found.tokens[:1]


def test_new_tokens_alone_are_read(qwen2, monkeypatch):
    read: list[tuple[int, ...]] = []
    decode = type(qwen2.model).decode

    def recorded(model, params, tokens, run, cache, at=None):
        read.append(tokens["input_ids"].shape)
        return decode(model, params, tokens, run, cache, at)

    monkeypatch.setattr(type(qwen2.model), "decode", recorded)
    fresh, options = engine(QWEN2), Options(max_new_tokens=1)
    prompt = [*range(3, 39)] * 6
    kept = resuming.written(fresh, prompt, (), options, None, goes_on)[1]
    assert (1, 256) in read and (1, resuming.FEW) not in read
    read.clear()
    resuming.written(fresh, [*prompt, 4, 4], (), options, kept, goes_on)
    assert read[0] == (1, resuming.FEW) and (1, 256) not in read


def test_what_two_texts_begin_with():
    assert common([], [1]) == common([2], [1]) == 0
    assert common([1, 2], [1, 2, 3]) == common([1, 2, 3], [1, 2]) == common([1, 2, 3], [1, 2, 4]) == 2


@pytest.mark.parametrize("places", [4, 9, 12])
def test_the_first_tokens_of_a_cache(places: int):
    """Wherever they lie; the others are gone, and there are places for more."""
    rng = np.random.default_rng(0)
    key, value = (jnp.asarray(rng.normal(size=(1, 2, 9, 3)), jnp.float32) for _ in range(2))
    segments = jnp.asarray([[1, 1, 0, 0, 1, 1, 1, 0, 0]])
    positions = jnp.asarray([[0, 1, 2, 3, 3, 2, 4, 0, 0]])
    cache = nn.Cache((nn.LayerCache(key, value),), segments, positions, jnp.int32(7))
    found = cache.first(jnp.int32(4), places)
    assert found.size == 4 and not found.empty
    assert found.segments.tolist() == [[1] * 4 + [0] * (places - 4)]
    assert found.positions.tolist() == [[0, 1, 2, 3] + [0] * (places - 4)]
    for before, after in ((key, found.layers[0].key), (value, found.layers[0].value)):
        assert after.shape == (1, 2, places, 3)
        np.testing.assert_array_equal(after[:, :, :4], before[:, :, np.asarray([0, 1, 5, 4])])


@pytest.mark.matrix
@pytest.mark.parametrize("kind", support.DECODERS)
def test_every_decoder_goes_on(kind: str):
    """At the end of its positions too, beyond which padding must not reach."""
    made = engine(support.ARCHITECTURES[kind])
    kept = assert_same(made, prompts(1, longest=9)[0], None)
    kept = assert_same(made, [*kept.tokens, 9, 9, 4], kept)
    assert_same(made, [*kept.tokens, *[7] * (27 - len(kept.tokens))], kept)


@pytest.mark.matrix
@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_methods_go_on(method: str):
    """Virtual tokens, which stand before a text, stay before it."""
    made = engine(support.ARCHITECTURES["qwen3"] | {"max_position_embeddings": 300}, adapt=method)
    rng = np.random.default_rng(0)
    trainable, frozen = made.weights
    drawn = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(scale=0.3, size=x.shape), x.dtype), trainable)
    made.weights = drawn, frozen
    kept = assert_same(made, prompts(1)[0], None)
    assert_same(made, [*kept.tokens, 9, 9, 4], kept)
