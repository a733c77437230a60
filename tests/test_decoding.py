"""Answers token by token: those of transformers' `generate`, whatever else is in the batch, and what ends them."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
import torch_reference
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxft import batch, config, models, program, sharding, tasks
from jaxft.errors import UserError
from jaxft.generate import writing
from jaxft.generate.decoding import Ends
from jaxft.generate.options import Options
from jaxft.models import nn
from jaxft.predict.engine import CompiledEngine

ENDS = (2, 9, 17, 25, 33)
"""Tokens that end a text, in the small models."""

SEEDS = {"gpt2": 0, "gemma3_text": 0}
"""Of models of which some answers end by themselves and some do not, where it is not 3."""

NEW = 12
BEAMS = {"beams": 4, "length_penalty": 0.7, "no_repeat_ngram": 2}
THEIRS = {"num_beams": 4, "length_penalty": 0.7, "no_repeat_ngram_size": 2}


def engine(hf: dict[str, Any], seed: int = 0, params: Any = None, **keys: Any) -> CompiledEngine:
    """One that has random parameters, or these, on one device."""
    model, task = models.build(hf), tasks.build(config.CausalLM())
    params = support.random_params(task, model, seed) if params is None else params
    e = config.Experiment(task=config.CausalLM(), **keys)
    mesh = sharding.make_mesh(e.mesh, jax.devices()[:1])
    composed = program.compose(e, model, task, steps=1, mesh=mesh)
    return CompiledEngine(e, composed, composed.split(params))


def prompts(count: int, longest: int = 16, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 40, rng.integers(1, longest + 1)).tolist() for _ in range(count)]


def generated(torch, theirs: Any, asked: Sequence[Sequence[int]], **how: Any) -> list[tuple[list[int], float]]:
    """The answers of transformers, and their log probabilities by the model alone; prompts of a length together."""
    found: dict[int, tuple[list[int], float]] = {}
    for length in sorted({len(prompt) for prompt in asked}):
        numbers = [number for number, prompt in enumerate(asked) if len(prompt) == length]
        ids = torch.tensor([asked[number] for number in numbers])
        how = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": list(ENDS), **how}
        texts = theirs.generate(ids, attention_mask=torch.ones_like(ids), **how)
        with torch.no_grad():
            scores = torch.log_softmax(theirs(texts).logits[:, length - 1 : -1], -1)
        each = scores.gather(2, texts[:, length:, None])[..., 0]
        for number, tokens, log_probs in zip(numbers, texts[:, length:].tolist(), each, strict=True):
            size = next((at for at, token in enumerate(tokens, 1) if token in ENDS), len(tokens))
            found[number] = tokens[:size], float(log_probs[:size].sum())
    return [found[number] for number in range(len(asked))]


def assert_as_transformers(torch, hf: dict[str, Any], folder: Path, options: Options, count: int, **how: Any) -> None:
    theirs = torch_reference.torch_model(hf, tasks.build(config.CausalLM()), seed=SEEDS.get(hf["model_type"], 3))
    theirs.save_pretrained(folder)
    params = torch_reference.load(folder, tasks.build(config.CausalLM()))[1]
    asked = prompts(count)
    found = writing.written(engine(hf, params=params), asked, ENDS, options)
    for one, (tokens, log_prob) in zip(found, generated(torch, theirs, asked, **how), strict=True):
        assert one.tokens == tokens
        assert sum(one.log_probs) == pytest.approx(log_prob, rel=1e-3, abs=1e-3)
        assert one.ended == (tokens[-1] in ENDS)
    assert any(one.ended for one in found) and not all(one.ended for one in found)


GREEDY = Options(max_new_tokens=NEW, rows=64)


@pytest.mark.parametrize("kind", support.once(support.DECODERS, "qwen2"))
def test_the_best_tokens_are_those_of_transformers(torch, tmp_path, kind: str):
    """Of models with windows, heads that share keys, and rotations of llama3 and yarn; 200 prompts each."""
    assert_as_transformers(torch, support.ARCHITECTURES[kind], tmp_path, GREEDY, count=12 if kind == "qwen2" else 200)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", support.DECODERS)
def test_beams_are_those_of_transformers(torch, tmp_path, kind: str):
    options = Options(max_new_tokens=NEW, rows=16, **BEAMS)
    assert_as_transformers(torch, support.ARCHITECTURES[kind], tmp_path, options, count=50, **THEIRS)


@pytest.mark.matrix
@pytest.mark.parametrize("values", [{"repetition_penalty": 1.6}, {"no_repeat_ngram": 3}, {"beams": 3}], ids=str)
def test_penalties_and_plain_beams_are_those_of_transformers(torch, tmp_path, values: dict[str, Any]):
    names = {"no_repeat_ngram": "no_repeat_ngram_size", "beams": "num_beams"}
    how = {names.get(name, name): value for name, value in values.items()}
    options = Options(max_new_tokens=NEW, rows=16, **values)
    assert_as_transformers(torch, support.ARCHITECTURES["llama"], tmp_path, options, count=50, **how)


@pytest.fixture(scope="module")
def llama() -> CompiledEngine:
    return engine(support.ARCHITECTURES["llama"])


def test_a_batch_gives_what_each_prompt_gives(llama):
    """Alone or among others of other lengths; another seed draws others. Of the best tokens parity says the same."""
    asked = prompts(5)
    several: dict[str, Any] = {"temperature": 1.2, "top_k": 12, "top_p": 0.9}
    whole = writing.written(llama, asked, ENDS, Options(max_new_tokens=NEW, **several))
    parts = writing.written(llama, asked, ENDS, Options(max_new_tokens=NEW, rows=1, **several))
    assert [one.tokens for one in whole] == [one.tokens for one in parts]
    for one, same in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.log_probs, same.log_probs, atol=1e-4)
    other = writing.written(llama, asked, ENDS, Options(max_new_tokens=NEW, seed=1, **several))
    assert [one.tokens for one in other] != [one.tokens for one in whole]


def test_several_draws_are_those_of_further_seeds(llama):
    """Each as it would be alone, whatever is computed beside it; the first is the one that there would be alone."""
    asked, several = prompts(3), {"temperature": 1.2, "max_new_tokens": NEW}
    found = writing.written(llama, asked, ENDS, Options(**several, answers=3, seed=4))
    for seed, answers in enumerate(zip(*([one, *one.others] for one in found), strict=True), 4):
        alone = writing.written(llama, asked, ENDS, Options(**several, seed=seed))
        assert [one.tokens for one in answers] == [one.tokens for one in alone]
        assert [one.ended for one in answers] == [one.ended for one in alone]
        np.testing.assert_allclose(
            [sum(one.log_probs) for one in answers], [sum(one.log_probs) for one in alone], atol=1e-4
        )
    assert len({tuple(one.tokens) for first in found for one in (first, *first.others)}) > 6
    assert all(other.others == () for one in found for other in one.others)


@pytest.mark.matrix
def test_the_best_beams_are_the_sequences_of_transformers(torch, tmp_path):
    """As many as are asked for, the best first, the first one as if it were alone; in a batch and by itself."""
    hf, asked, options = support.ARCHITECTURES["llama"], prompts(12), Options(max_new_tokens=NEW, **BEAMS, answers=3)
    theirs = torch_reference.torch_model(hf, tasks.build(config.CausalLM()), seed=3)
    theirs.save_pretrained(tmp_path)
    made = engine(hf, params=torch_reference.load(tmp_path, tasks.build(config.CausalLM()))[1])
    found = writing.written(made, asked, ENDS, options)
    assert [one._replace(others=()).tokens for one in found] == [
        one.tokens for one in writing.written(made, asked, ENDS, dataclasses.replace(options, answers=1))
    ]
    how = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": list(ENDS), **THEIRS}
    for prompt, one in zip(asked, found, strict=True):
        ids = torch.tensor([prompt])
        texts = theirs.generate(ids, attention_mask=torch.ones_like(ids), **how, num_return_sequences=3)
        answers = [tokens[len(prompt) :].tolist() for tokens in texts]
        cut = [next((at for at, token in enumerate(x, 1) if token in ENDS), len(x)) for x in answers]
        assert [answer.tokens for answer in (one, *one.others)] == [
            tokens[:size] for tokens, size in zip(answers, cut, strict=True)
        ]


def test_an_answer_ends_where_it_may(llama):
    """At a token that ends it, at so many, at the model's last position, or where who watches says so."""
    asked = [*prompts(3), [5] * 27]
    free = writing.written(llama, asked, (), Options(max_new_tokens=NEW))
    assert [len(one.tokens) for one in free] == [NEW, NEW, NEW, 1]
    assert not any(one.ended for one in free)
    assert all(len(one.log_probs) == len(one.tokens) for one in free)
    stop = free[0].tokens[3]
    short = writing.written(llama, asked, (stop,), Options(max_new_tokens=NEW))
    at = free[0].tokens.index(stop) + 1
    assert short[0].tokens == free[0].tokens[:at] and short[0].ended
    (last,) = writing.written(llama, asked[:1], (stop,), Options(max_new_tokens=at))
    assert last.tokens == short[0].tokens and last.ended
    five = writing.written(llama, asked, (), Options(max_new_tokens=5))
    assert [one.tokens for one in five] == [one.tokens[:5] for one in free]
    seen: dict[int, list[list[int]]] = {}

    def watch(number: int, tokens: list[int]) -> bool:
        seen.setdefault(number, []).append(tokens)
        return number == 1 and len(tokens) >= 4

    watched = writing.written(llama, asked, (), Options(max_new_tokens=NEW), watch, every=3)
    assert [len(one.tokens) for one in watched] == [NEW, 4, NEW, 1]
    assert [one.ended for one in watched] == [False, True, False, False]
    assert [len(tokens) for tokens in seen[0]] == [1, 4, 7, 10]
    assert [tokens for tokens in seen[0]] == [free[0].tokens[:n] for n in (1, 4, 7, 10)] and 3 not in seen


def test_nothing_is_compiled_once_it_has_been(llama):
    """Other prompts of about these lengths, other numbers and other lengths of answers take the same programs."""
    how: dict[str, Any] = {"temperature": 1.0, "top_p": 0.8}
    options = [Options(max_new_tokens=n, temperature=t, top_p=0.5, rows=4) for n, t in ((12, 0.5), (9, 2.0))]
    writing.written(llama, prompts(9), ENDS, Options(max_new_tokens=NEW, rows=4, **how))
    before = compiled(llama)
    for at, one in enumerate(options):
        writing.written(llama, prompts(7, seed=at), ENDS[:5], one)
    assert compiled(llama) == before


def compiled(engine: CompiledEngine) -> list[int]:
    return [function._cache_size() for function in engine._functions.values()]


@given(st.integers(1, 5000))
def test_sizes_are_few_and_not_far_above(count: int):
    found = writing.size(count)
    assert found >= count and (found == 16 or found < 1.5 * count)
    assert found in {16 << n for n in range(10)} | {24 << n for n in range(10)}
    assert writing.size(found) == found


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 9), st.sampled_from([1, 2, 4]))
def test_groups_hold_every_prompt_once(lengths: list[int], rows: int, shards: int):
    found = list(writing.groups(lengths, rows, shards, 60))
    assert sorted(number for group in found for number in group.numbers) == list(range(len(lengths)))
    for group in found:
        assert 0 < len(group.numbers) <= min(rows, group.rows) and group.rows % shards == 0
        assert group.length == min(writing.size(max(lengths[number] for number in group.numbers)), 60)
    assert len({group.rows for group in found}) == 1 and found[0].rows < 2 * max(min(rows, len(lengths)), shards)
    assert [lengths[group.numbers[0]] for group in found] == sorted(
        (lengths[group.numbers[0]] for group in found), reverse=True
    )


def test_what_ends_an_answer():
    ends = Ends(jnp.asarray([2, 7]), jnp.asarray([3, 9]))
    assert ends.reached(jnp.asarray([7, 1]), jnp.int32(1)).tolist() == [True, False]
    assert ends.reached(jnp.asarray([1, 1]), jnp.int32(3)).tolist() == [True, False]
    assert ends.reached(jnp.asarray([[1, 2], [2, 3]]), jnp.int32(8)).tolist() == [[True, True], [True, False]]


def test_a_cache_is_declared_like_parameters():
    """Keys and values of each layer, of as many heads as these have, split over devices as they are."""
    model = models.build(support.ARCHITECTURES["llama"])
    leaf = nn.Leaf((3, 2, 20, 4), ("rows", "kv_heads", None, None), "zeros")
    assert model.cache_spec(3, 20) == {str(at): {"key": leaf, "value": leaf} for at in range(2)}
    qwen3 = models.build(support.ARCHITECTURES["qwen3"]).cache_spec(1, 8)
    assert qwen3["0"]["key"].shape == (1, 2, 8, 6)
    assert models.build(support.ARCHITECTURES["gpt2"]).cache_spec(1, 8)["1"]["value"].shape == (1, 2, 8, 8)
    mesh = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
    run = nn.Run(dtype=jnp.bfloat16, constrain=sharding.constrain(mesh))
    cache = nn.Cache.of(model.cache_spec(3, 20), run)
    assert cache.empty and len(cache.layers) == 2 and cache.layers[0].key.dtype == jnp.bfloat16
    with pytest.raises(UserError, match="Bert writes no text, as each of its tokens sees those after it too; take a"):
        models.build(support.SMALL).cache_spec(1, 8)


@pytest.mark.matrix
@pytest.mark.parametrize("method", ["lora", "prompt"])
def test_methods_write_as_they_score(method: str):
    """Virtual tokens and changed layers: the best token each time is that of the whole text, computed anew."""
    hf, asked = support.ARCHITECTURES["qwen3"] | {"max_position_embeddings": 40}, prompts(4)
    made = engine(hf, adapt=method)
    rng = np.random.default_rng(0)
    trainable, frozen = made.weights
    drawn = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(scale=0.3, size=x.shape), x.dtype), trainable)
    made.weights = drawn, frozen
    plain = writing.written(engine(hf), asked, (), Options(max_new_tokens=6))
    found = writing.written(made, asked, (), Options(max_new_tokens=6))
    assert [one.tokens for one in found] != [one.tokens for one in plain]
    composed = made.composed
    for prompt, one in zip(asked, found, strict=True):
        ids = jnp.asarray([[*prompt, *one.tokens]])
        outputs = composed.outputs(made.weights, {**batch.padded(ids, jnp.ones_like(ids)), "labels": ids})
        assert outputs["right"][0, len(prompt) :].tolist() == [1.0] * 6
        np.testing.assert_allclose(outputs["log_probs"][0, len(prompt) :], one.log_probs, atol=1e-4)


@pytest.mark.matrix
def test_the_model_draws_as_often_as_it_says(llama):
    """One token behind the same prompt 2,048 times, by a chi-squared test against what the model gives it."""
    asked = [[5, 8, 13]] * 2048
    found = writing.written(llama, asked, (), Options(max_new_tokens=1, temperature=1.0, rows=2048))
    counts = np.bincount([one.tokens[0] for one in found], minlength=40)
    probs = {one.tokens[0]: np.exp(one.log_probs[0]) for one in found}
    often = [token for token, p in probs.items() if p * len(found) > 5]
    rest = 1 - sum(probs[token] for token in often)
    seen = np.asarray([*counts[often], len(found) - counts[often].sum()])
    expected = len(found) * np.asarray([*(probs[token] for token in often), rest])
    assert len(often) > 5 and stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 0.01


def test_prompts_may_be_longer_than_the_examples_of_training():
    """A program whose examples are short attends to what is near alone; an answer has all of its prompt before it."""
    hf, asked = support.ARCHITECTURES["gpt2"], prompts(4)
    model, task = models.build(hf), tasks.build(config.CausalLM())
    e = config.Experiment(task=config.CausalLM())
    mesh = sharding.make_mesh(e.mesh, jax.devices()[:1])
    composed = program.compose(e, model, task, steps=1, mesh=mesh, longest=2)
    assert composed.run.reach == 2
    short = CompiledEngine(e, composed, composed.split(support.random_params(task, model, 0)))
    options = Options(max_new_tokens=4)
    assert writing.written(short, asked, (), options) == writing.written(engine(hf), asked, (), options)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_mesh_changes_no_answer(kind: str):
    """Caches are split by rows and by heads, parameters as in training; of one text and of beams."""
    worker = Path(__file__).with_name("decoding_worker.py")
    done = subprocess.run(
        [sys.executable, str(worker), kind], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": PATHS}
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 6
    for beams in (1, 3):
        first, *others = [line[2:] for line in lines if line[1] == beams]
        for tokens, log_probs in others:
            assert tokens == first[0]
            np.testing.assert_allclose(log_probs, first[1], atol=1e-4)


PATHS = os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent)))
