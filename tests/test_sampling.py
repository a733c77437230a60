"""What scores become before a token is drawn, against transformers' own classes; and how often each word is drawn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxft.errors import UserError
from jaxft.generate import sampling
from jaxft.generate.options import How, Options
from jaxft.generate.sampling import Numbers

ROWS, WORDS, ROOM = 5, 11, 9
RNG = np.random.default_rng(0)
SCORES = RNG.normal(scale=2.0, size=(ROWS, WORDS)).astype(np.float32)
LENGTHS = np.asarray([1, 2, 5, 8, 9])
TEXT = RNG.integers(0, 2, (ROWS, ROOM))


def theirs(torch, processor: Any, each: bool = False) -> np.ndarray:
    """What a class of transformers makes of the scores; of texts of several lengths, row by row."""
    if not each:
        return processor(None, torch.tensor(SCORES)).numpy()
    rows = [
        processor(torch.tensor(TEXT[row : row + 1, :length]), torch.tensor(SCORES[row : row + 1].copy()))
        for row, length in enumerate(LENGTHS)
    ]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("count", [1, 3, WORDS, 50])
def test_the_best_words(torch, count: int):
    from transformers import TopKLogitsWarper

    found = sampling.top_k(jnp.asarray(SCORES), count)
    np.testing.assert_array_equal(found, theirs(torch, TopKLogitsWarper(count)))
    assert np.isfinite(found).sum(-1).tolist() == [min(count, WORDS)] * ROWS


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_the_fewest_words_that_make_a_share(torch, share: float):
    from transformers import TopPLogitsWarper

    found = np.asarray(sampling.top_p(jnp.asarray(SCORES), jnp.float32(share)))
    np.testing.assert_array_equal(found, theirs(torch, TopPLogitsWarper(share)))
    probs = np.exp(SCORES.astype(np.float64))
    probs /= probs.sum(-1, keepdims=True)
    for row, kept in zip(probs, np.isfinite(found), strict=True):
        assert row[kept].sum() >= share > row[kept].sum() - row[kept].min()


def test_words_as_likely_as_a_part_of_the_likeliest(torch):
    from transformers import MinPLogitsWarper

    for part in (0.01, 0.2, 1.0):
        found = np.asarray(sampling.min_p(jnp.asarray(SCORES), jnp.float32(part)))
        np.testing.assert_array_equal(found, theirs(torch, MinPLogitsWarper(part)))
        probs = np.exp(SCORES.astype(np.float64))
        assert (np.isfinite(found) == (probs >= part * probs.max(-1, keepdims=True))).all()


@pytest.mark.parametrize("penalty", [1.7, 0.4])
def test_words_of_the_text_are_penalized(torch, penalty: float):
    """The tokens behind a text's end are not in it."""
    from transformers import RepetitionPenaltyLogitsProcessor

    found = sampling.penalized(jnp.asarray(SCORES), jnp.asarray(TEXT), jnp.asarray(LENGTHS), jnp.float32(penalty))
    np.testing.assert_allclose(found, theirs(torch, RepetitionPenaltyLogitsProcessor(penalty), each=True), rtol=1e-6)
    assert ((SCORES > 0) & (found != SCORES)).any() and ((SCORES < 0) & (found != SCORES)).any()


@pytest.mark.parametrize("size", [1, 2, 3, ROOM, ROOM + 1])
def test_no_run_of_tokens_comes_again(torch, size: int):
    from transformers import NoRepeatNGramLogitsProcessor

    found = sampling.without_repeats(jnp.asarray(SCORES), jnp.asarray(TEXT), jnp.asarray(LENGTHS), size)
    np.testing.assert_array_equal(found, theirs(torch, NoRepeatNGramLogitsProcessor(size), each=True))
    assert np.isinf(found).any() == (size <= 3)


def draws(how: How, **values: Any) -> tuple[np.ndarray, np.ndarray]:
    """How often each of the words is drawn by 20,000 keys; and the scores in float64."""
    scores = SCORES[0] / 2
    keys = jax.random.split(jax.random.key(1), 20_000)
    options = Options(**values)
    drawn = jax.jit(lambda x, keys: sampling.drawn(x, keys, how, Numbers.of(options)))
    tokens = drawn(jnp.broadcast_to(scores, (len(keys), WORDS)), keys)
    return np.bincount(np.asarray(tokens), minlength=WORDS), scores.astype(np.float64)


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"temperature": 1.0}, WORDS),
        ({"temperature": 0.6}, WORDS),
        ({"temperature": 1.5, "top_k": 4}, 4),
        ({"temperature": 0.8, "top_k": 6, "top_p": 0.95, "min_p": 0.1}, None),
    ],
)
def test_words_are_drawn_as_often_as_they_are_likely(values: dict[str, Any], left: int | None):
    """By a chi-squared test, against the softmax of what is left, worked out in float64 one step after the other."""
    counts, scores = draws(Options(**values).how, **values)
    scores = scores / values["temperature"]
    order = np.argsort(-scores)
    probs = np.zeros(WORDS)
    probs[order[: values.get("top_k") or WORDS]] = np.exp(scores[order[: values.get("top_k") or WORDS]])
    probs /= probs.sum()
    before = np.concatenate([[0], np.cumsum(probs[order])[:-1]])
    probs[order[before >= values.get("top_p", 1.1)]] = 0
    probs[probs < values.get("min_p", 0) * probs.max()] = 0
    probs /= probs.sum()
    assert not counts[probs == 0].any() and (left is None or (probs > 0).sum() == left)
    assert (probs > 0).sum() > 2
    there = probs > 0
    assert stats.chisquare(counts[there], counts.sum() * probs[there]).pvalue > 0.01
    assert stats.chisquare(counts[there], counts.sum() * np.full(there.sum(), 1 / there.sum())).pvalue < 1e-6


def test_without_a_temperature_the_best_is_taken():
    found = sampling.drawn(jnp.asarray(SCORES), jax.random.split(jax.random.key(0), ROWS), How(), Numbers.of(Options()))
    assert found.tolist() == SCORES.argmax(-1).tolist()


def test_what_is_in_the_text_counts_before_anything_is_drawn(monkeypatch):
    """Penalties first, then runs that may not come again, as transformers orders them; each where it is asked for."""
    called = []
    for name in ("penalized", "without_repeats"):
        monkeypatch.setattr(sampling, name, lambda scores, *rest, name=name: called.append((name, rest[-1])) or scores)
    numbers = Numbers.of(Options(repetition_penalty=1.5))
    for how in (How(), How(repetition=True), How(ngram=3), How(repetition=True, ngram=2)):
        sampling.kept(jnp.asarray(SCORES), jnp.asarray(TEXT), jnp.asarray(LENGTHS), how, numbers)
    names = [name for name, _ in called]
    assert names == ["penalized", "without_repeats", "penalized", "without_repeats"]
    assert [float(given) for _, given in called] == [1.5, 3, 1.5, 2]


def test_what_the_program_depends_on():
    assert Options().how == How() == How(False, 0, False, False, False, 0, 1)
    every = Options(
        temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.2, no_repeat_ngram=2, seed=7, rows=4
    )
    assert every.check().how == How(True, 3, True, True, True, 2, 1)
    assert Options(beams=4, length_penalty=0.5).check().how == How(beams=4)
    assert [float(x) for x in Numbers.of(every)] == pytest.approx([0.5, 0.9, 0.1, 1.2, 1.0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "generate.max_new_tokens is 0; it must be 1 or more"),
        ({"temperature": -0.1}, "generate.temperature is -0.1; it must be 0 or more"),
        ({"temperature": 1.0, "top_k": -1}, "generate.top_k is -1; it must be 0 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, "generate.top_p is 0.0; it must be above 0, at most 1"),
        ({"temperature": 1.0, "top_p": 1.1}, "generate.top_p is 1.1; it must be above 0, at most 1"),
        ({"temperature": 1.0, "min_p": 1.5}, "generate.min_p is 1.5; it must be 0 or more, at most 1"),
        ({"repetition_penalty": 0.0}, "generate.repetition_penalty is 0.0; it must be above 0"),
        ({"no_repeat_ngram": -1}, "generate.no_repeat_ngram is -1; it must be 0 or more"),
        ({"beams": 0}, "generate.beams is 0; it must be 1 or more, at most 64"),
        ({"beams": 65}, "generate.beams is 65; it must be 1 or more, at most 64"),
        ({"seed": -1}, "generate.seed is -1; it must be 0 or more, at most 4294967295"),
        ({"rows": 0}, "generate.rows is 0; it must be 1 or more"),
        ({"stop": ("a", "")}, "generate.stop has an empty word, at which every answer would end; leave it out"),
        ({"top_k": 5}, "generate.top_k is 5, but nothing is drawn; set generate.temperature above 0, or leave it out"),
        ({"top_p": 0.5}, "generate.top_p is 0.5, but nothing is drawn"),
        ({"min_p": 0.5}, "generate.min_p is 0.5, but nothing is drawn"),
        ({"beams": 2, "temperature": 1.0}, "generate.beams is 2 and generate.temperature 1.0; beams take what is best"),
        ({"beams": 2, "stop": ("a",)}, "generate.beams is 2, and generate.stop has words; beams end at tokens alone"),
        ({"answers": 0}, "generate.answers is 0; it must be 1 or more, at most 1024"),
        ({"answers": 2}, "generate.answers is 2, but nothing is drawn, and generate.beams is 1; set generate.temp"),
        ({"answers": 4, "beams": 3}, "generate.answers is 4, but nothing is drawn, and generate.beams is 3; set gen"),
        (
            {"answers": 2, "temperature": 1.0, "seed": 2**32 - 1},
            "generate.seed is 4294967295, and 2 answers have seeds from there on; the greatest is 4294967295",
        ),
        ({"length_penalty": 0.5}, "generate.length_penalty is 0.5, but there is one beam; set generate.beams to 2"),
    ],
)
def test_what_cannot_be_asked_for(values: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        Options(**values).check()
    assert message in str(error.value)


def test_what_is_just_within_bounds():
    for values in (
        {"max_new_tokens": 1, "temperature": 0.1, "top_k": 1, "top_p": 1.0, "min_p": 1.0, "seed": 2**32 - 1, "rows": 1},
        {"beams": 64, "length_penalty": -1.0, "repetition_penalty": 0.1, "no_repeat_ngram": 1, "answers": 64},
        {"temperature": 0.1, "answers": 1024, "seed": 2**32 - 1024},
    ):
        options = Options(**values)
        assert options.check() is options
