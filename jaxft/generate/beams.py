"""Beam search: of each row several texts are continued at a time, and the best that ends is the answer.

As `_beam_search` of transformers/generation/utils.py with early_stopping=False, each row by itself: a row is done once
its best open text, were it to end now, would not be better than the worst of those that have ended, when these are as
many as there are beams (https://github.com/huggingface/transformers/pull/20901).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxft.generate import sampling
from jaxft.generate.decoding import Ends, Writer
from jaxft.generate.options import How
from jaxft.generate.sampling import Numbers
from jaxft.models import nn
from jaxft.program import Program
from jaxft.types import Array, Bool, Float, Int, Params

NEVER = -1e9
"""The score of what is not there: below that of any text, and its sums are finite."""


class Texts(struct.PyTreeNode):
    """So many texts of each row, the best first.

    Attributes:
      text: their tokens, the prompt's first.
      log_probs: of the answers' tokens, by the model alone, where they stand in the text.
      lengths: tokens of each.
      scores: of open texts, the sum of the log probabilities that are chosen by; of those that have ended, this divided
        by the number of the answer's tokens to the power of the length penalty.
      there: whether there is one; of open texts the others are copies, whose scores are below all.
    """

    text: Int[Array, "rows beams room"]
    log_probs: Float[Array, "rows beams room"]
    lengths: Int[Array, "rows beams"]
    scores: Float[Array, "rows beams"]
    there: Bool[Array, "rows beams"]

    def pick(self, at: Int[Array, "rows picked"]) -> "Texts":
        """Returns these of each row."""
        return jax.tree.map(lambda x: nn.pick(x, at), self)

    def best(self, count: int) -> tuple["Texts", Int[Array, "rows picked"]]:
        """Returns so many of each row, by their scores, and which they are."""
        at = jax.lax.top_k(self.scores, count)[1]
        return self.pick(at), at


class Beams(struct.PyTreeNode):
    """Rows on their way.

    Attributes:
      cache: of all tokens but the last of each open text; row r's texts are its rows from r * beams on.
      open, ended: the texts that are continued, and the best of those that are not.
      count: tokens of the answers that are open.
      done: rows whose answer is found.
    """

    cache: nn.Cache
    open: Texts
    ended: Texts
    count: Int[Array, ""]
    done: Bool[Array, " rows"]

    def texts(
        self,
    ) -> tuple[Int[Array, "rows texts room"], Int[Array, "rows texts"], Float[Array, "rows texts room"]]:
        """Returns the texts of each row that have ended, as `jaxft.generate.decoding.State.texts`."""
        return self.ended.text, self.ended.lengths, self.ended.log_probs


def begin(program: Program, how: How, room: int) -> Callable[..., Beams]:
    """Returns what `jaxft.generate.decoding.begin` returns, for beams."""
    writer, beams = Writer.of(program), how.beams

    def run(
        pair: tuple[Params, Params], prompts: Array, lengths: Array, keys: Array, ends: Ends, numbers: Numbers
    ) -> Beams:
        logits, cache = writer.read(program.computed(*pair), prompts, lengths, room)
        rows, size = len(prompts), prompts.shape[1] + room
        each = lambda x: jnp.repeat(x[:, None], beams, axis=1)  # noqa: E731
        scores = jnp.full((rows, beams), NEVER)
        none = jnp.zeros((rows, beams), bool)
        text = each(jnp.pad(prompts, ((0, 0), (0, room))))
        texts = Texts(text, jnp.zeros((rows, beams, size)), each(lengths), scores, none)
        state = Beams(
            cache=cache.rows(jnp.repeat(jnp.arange(rows), beams)),
            open=texts.replace(scores=scores.at[:, 0].set(0.0)),
            ended=texts,
            count=jnp.int32(0),
            done=jnp.zeros(rows, bool),
        )
        return with_token(state, jnp.repeat(logits, beams, axis=0), ends, how, numbers)

    return jax.jit(run)


def go_on(program: Program, how: How) -> Callable[..., Beams]:
    """Returns what `jaxft.generate.decoding.go_on` returns, for beams."""
    writer = Writer.of(program)

    def run(pair: tuple[Params, Params], state: Beams, ends: Ends, numbers: Numbers, until: Array) -> Beams:
        params = program.computed(*pair)

        def step(state: Beams) -> Beams:
            at = state.open.lengths - 1
            last = jnp.take_along_axis(state.open.text, at[..., None], axis=2)
            logits, cache = writer.follow(params, last.reshape(-1), at.reshape(-1), state.cache)
            return with_token(state.replace(cache=cache), logits, ends, how, numbers)

        return jax.lax.while_loop(lambda state: (state.count < until) & ~state.done.all(), step, state)

    return partial(jax.jit, donate_argnums=1)(run)


def with_token(state: Beams, logits: Float[Array, "texts words"], ends: Ends, how: How, numbers: Numbers) -> Beams:
    """Returns the state with one more token of each open text, by the logits of what comes next."""
    beams, count = how.beams, state.count + 1
    more, token, at = _continued(state.open, logits, beams * (1 + max(len(ends.tokens), 1)), how, numbers)
    hit = ends.reached(token, count)
    open_, chosen = more.replace(scores=more.scores + NEVER * hit).best(beams)
    from_ = jnp.arange(len(token))[:, None] * beams + nn.pick(at, chosen)
    ended = _ended(state.ended, more, hit, count, beams, numbers)
    keep = lambda new, old: jax.tree.map(partial(_where, state.done), new, old)  # noqa: E731
    open_, ended = keep(open_, state.open), keep(ended, state.ended)
    possible = open_.scores[:, 0] / count.astype(jnp.float32) ** numbers.length_penalty
    worst = jnp.where(ended.there.all(-1), ended.scores.min(-1), NEVER)
    return Beams(
        cache=state.cache.rows(from_.reshape(-1)),
        open=open_,
        ended=ended,
        count=count,
        done=state.done | hit.all(-1) | (possible <= worst),
    )


def _continued(
    texts: Texts, logits: Float[Array, "texts words"], most: int, how: How, numbers: Numbers
) -> tuple[Texts, Int[Array, "rows most"], Int[Array, "rows most"]]:
    """The best continuations of each row by a token, the token of each, and which text it continues."""
    rows, beams, room = texts.text.shape
    plain = jax.nn.log_softmax(logits)
    chosen = sampling.kept(plain, texts.text.reshape(-1, room), texts.lengths.reshape(-1), how, numbers)
    flat: Any = lambda x: x.reshape(rows, -1)  # noqa: E731
    words = logits.shape[-1]
    scores, best = jax.lax.top_k(
        flat(chosen.reshape(rows, beams, words) + texts.scores[..., None]), min(most, beams * words)
    )
    at, token = best // words, best % words
    more = texts.pick(at)
    here = jnp.arange(room) == more.lengths[..., None]
    log_probs = jnp.where(here, nn.pick(flat(plain), best)[..., None], more.log_probs)
    text = jnp.where(here, token[..., None], more.text)
    there = jnp.ones_like(token, bool)
    return Texts(text, log_probs, more.lengths + 1, scores, there), token, at


def _ended(
    ended: Texts, more: Texts, hit: Bool[Array, "rows most"], count: Int[Array, ""], beams: int, numbers: Numbers
) -> Texts:
    """The best texts that have ended, with those among the first `beams` continuations that end now."""
    now = hit & (jnp.arange(hit.shape[1]) < beams)
    scores = more.scores / count.astype(jnp.float32) ** numbers.length_penalty
    ending = more.replace(scores=jnp.where(now, scores, scores + NEVER), there=now)
    return jax.tree.map(lambda *both: jnp.concatenate(both, axis=1), ended, ending).best(beams)[0]


def _where(done: Bool[Array, " rows"], new: Array, old: Array) -> Array:
    """What rows that are done had, and what the others have now."""
    return jnp.where(done.reshape(-1, *(1,) * (new.ndim - 1)), old, new)
