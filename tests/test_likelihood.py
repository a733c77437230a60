"""Log probabilities of tokens whose scores of words never exist together: values, gradients, and what is computed."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft.batch import IGNORED
from jaxft.models.heads import word_scores
from jaxft.tasks.likelihood import Parts, block_size, in_blocks, likelihood, of_scores

ROWS, LENGTH, WIDTH, WORDS = 3, 11, 4, 13
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(ROWS, LENGTH, WIDTH)), jnp.float32)
TABLE = {"table": jnp.asarray(RNG.normal(size=(WORDS, WIDTH)), jnp.float32)}
WEIGHTS = jnp.asarray(RNG.normal(size=(ROWS, LENGTH)), jnp.float32)
_LABELS = np.where(RNG.random((ROWS, LENGTH)) < 0.5, RNG.integers(0, WORDS, (ROWS, LENGTH)), IGNORED)
_LABELS[2, 3:] = IGNORED
GUESSED = jnp.asarray(_LABELS, jnp.int32)


def score(params: Any, x: jax.Array) -> jax.Array:
    return jnp.einsum("rpw,vw->rpv", jnp.tanh(x), params["table"])


def plain(params: Any, x: jax.Array) -> jax.Array:
    """The log probabilities by the definition, of all tokens together."""
    found = jnp.take_along_axis(jax.nn.log_softmax(score(params, x)), jnp.maximum(GUESSED, 0)[..., None], -1)[..., 0]
    return jnp.where(GUESSED == IGNORED, 0, found)


@pytest.mark.parametrize(("size", "shards"), [(11, 1), (4, 1), (1, 1), (4, 3)])
def test_values_and_gradients_are_those_of_all_scores_together(size: int, shards: int):
    """By hidden states alone, by the parameters that score alone, and by both; forward mode too."""
    parts = Parts(shards, lambda one: jnp.stack([one] * shards)) if shards > 1 else None
    ours = lambda params, x: likelihood(score, params, x, GUESSED, size, parts)  # noqa: E731
    log_probs, right = jax.jit(ours)(TABLE, X)
    np.testing.assert_allclose(log_probs, plain(TABLE, X), atol=1e-6)
    best = np.asarray(score(TABLE, X)).argmax(-1)
    np.testing.assert_array_equal(right, (best == GUESSED).astype(np.float32))
    total = lambda of: lambda params, x: (WEIGHTS * of(params, x)).sum()  # noqa: E731
    for of in (0, 1, (0, 1)):
        found = jax.jit(jax.grad(total(lambda *a: ours(*a)[0]), of))(TABLE, X)
        for one, true in zip(*map(jax.tree.leaves, (found, jax.grad(total(plain), of)(TABLE, X))), strict=True):
            np.testing.assert_allclose(one, true, atol=1e-5)
    along = jax.tree.map(jnp.cos, (TABLE, X))
    for primals, tangents in ((X, along[1]), ((TABLE, X), along)):
        of = lambda f: (lambda x: f(TABLE, x)) if primals is X else (lambda both: f(*both))  # noqa: E731, B023
        found, true = (jax.jvp(of(f), (primals,), (tangents,))[1] for f in (lambda *a: ours(*a)[0], plain))
        np.testing.assert_allclose(found, true, atol=1e-5)


def test_codes_may_stand_among_the_parameters():
    """Of what is kept in fewer bits there is no gradient; of the scale beside it there is."""

    def of_codes(params: Any, x: jax.Array) -> jax.Array:
        return score({"table": params["codes"] * params["scale"]}, x)

    codes = {"codes": jnp.round(TABLE["table"] * 40).astype(jnp.int8), "scale": jnp.float32(0.025)}

    def total(of: Any) -> Any:
        return jax.grad(lambda scale, x: (WEIGHTS * of({**codes, "scale": scale}, x)).sum(), (0, 1))

    def true(params: Any, x: jax.Array) -> jax.Array:
        return plain({"table": params["codes"] * params["scale"]}, x)

    found = total(lambda params, x: likelihood(of_codes, params, x, GUESSED, 4)[0])(codes["scale"], X)
    for one, other in zip(found, total(true)(codes["scale"], X), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_scores_are_computed_once_where_the_table_does_not_learn():
    """Two products of all words and the hidden states then, and four where it learns, of so many places at a time."""

    def products(of: Any) -> int:
        gradient = jax.grad(lambda params, x: likelihood(score, params, x, GUESSED, 4)[0].sum(), of)
        traced = jax.make_jaxpr(gradient)(TABLE, X)
        found = [eqn for eqn in support.equations(traced.jaxpr) if eqn.primitive.name == "dot_general"]
        return sum(any(WORDS in var.aval.shape for var in (*eqn.invars, *eqn.outvars)) for eqn in found)

    assert products(1) == 2 and products((0, 1)) == 4


def test_blocks_without_a_label_are_not_computed():
    """Of 33 places 16 at most, in order, have a label: the last blocks are left out, forward and backward."""
    seen: list[int] = []

    def watched(params: Any, x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: seen.append(1))
        return score(params, x)

    most = int((GUESSED != IGNORED).sum(1).max())
    for of, times in ((1, 1), (0, 2)):
        seen.clear()
        gradient = jax.jit(jax.grad(lambda params, x: likelihood(watched, params, x, GUESSED, 2)[0].sum(), of))
        jax.block_until_ready(gradient(TABLE, X))
        jax.effects_barrier()
        assert len(seen) == times * -(-most // 2) < times * -(-LENGTH // 2)


def test_scores_of_labels():
    logits = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25], [0.125, 0.5, 0.375], [0.1, 0.2, 0.7]]]))
    log_probs, right = of_scores(logits, jnp.asarray([[0, 2, IGNORED]]))
    np.testing.assert_allclose(log_probs, [[math.log(0.5), math.log(0.375), 0]], rtol=1e-5)
    assert right.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize(
    ("rows", "length", "words", "scores", "size"),
    [(4, 10, 8, 320, 10), (4, 10, 8, 319, 5), (4, 10, 8, 96, 3), (4, 10, 8, 95, 2), (4, 10, 8, 1, 1)],
)
def test_blocks_keep_to_so_many_scores(rows, length, words, scores, size):
    assert block_size(rows, length, words, scores) == size


@pytest.mark.parametrize("size", [7, 3, 1])
def test_blocks_are_put_together_again(size):
    """Of two rows of seven positions, whatever a block is."""
    x, guessed = jnp.arange(42.0).reshape(2, 7, 3), jnp.arange(14).reshape(2, 7)
    sums, doubled = in_blocks(lambda x, guessed: (x.sum(-1), 2.0 * guessed), x, guessed, size)
    assert sums.tolist() == x.sum(-1).tolist() and doubled.tolist() == (2 * guessed).tolist()


def test_of_one_place_a_row_the_table_is_the_left_side_of_the_product():
    """XLA turns products and their transposes around; so it is its program that is read."""
    x, table, bias = jnp.zeros((8, 1, 64)), jnp.zeros((1000, 64)), jnp.zeros(1000)
    program = jax.jit(word_scores).lower(x, table, bias).compile().as_text() or ""
    assert re.findall(r"f32\[([0-9,]+)\]\S* dot\(", program) == ["1000,8"]
