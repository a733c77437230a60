"""Texts that are continued token by token: pure functions of a state, compiled for rows of a few sizes."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxft import batch
from jaxft.adapt import Adaptation
from jaxft.generate import sampling
from jaxft.generate.options import How
from jaxft.generate.sampling import Numbers
from jaxft.models import Model, nn
from jaxft.program import Program
from jaxft.types import Array, Batch, Bool, Float, Int, Key, Params


class Ends(NamedTuple):
    """What ends an answer.

    Attributes:
      tokens: any of these, which is its last one; -1 is none.
      limits: so many tokens of each row.
    """

    tokens: Int[Array, " ends"]
    limits: Int[Array, " rows"]

    def reached(self, token: Int[Array, "rows *beams"], count: Int[Array, ""]) -> Bool[Array, "rows *beams"]:
        """Tells which answers of `count` tokens end with this token of theirs."""
        limits = self.limits.reshape(-1, *(1,) * (token.ndim - 1))
        return (token[..., None] == self.tokens).any(-1) | (count >= limits)


class State(struct.PyTreeNode):
    """Texts on their way.

    Attributes:
      cache: of all tokens but the last of each text.
      text: of each row the first `lengths` tokens, its prompt's first; room for more.
      lengths: of the texts.
      log_probs: of the answers' tokens, by the model alone, where they stand in the text.
      count: tokens that answers have which have not ended.
      done: which have.
      keys: of what is drawn for each row.
    """

    cache: nn.Cache
    text: Int[Array, "rows room"]
    lengths: Int[Array, " rows"]
    log_probs: Float[Array, "rows room"]
    count: Int[Array, ""]
    done: Bool[Array, " rows"]
    keys: Key[Array, " rows"]

    @classmethod
    def of(cls, cache: nn.Cache, prompts: Array, lengths: Array, keys: Array, room: int) -> "State":
        """Returns that of prompts, padded at their ends, which are in the cache; with room for so many tokens more."""
        rows, length = prompts.shape
        return cls(
            cache=cache,
            text=jnp.pad(prompts, ((0, 0), (0, room))),
            lengths=lengths,
            log_probs=jnp.zeros((rows, length + room)),
            count=jnp.int32(0),
            done=jnp.zeros(rows, bool),
            keys=keys,
        )

    def texts(
        self,
    ) -> tuple[Int[Array, "rows texts room"], Int[Array, "rows texts"], Float[Array, "rows texts room"]]:
        """Returns the texts of each row, the best first: their tokens, lengths and log probabilities; here one."""
        return self.text[:, None], self.lengths[:, None], self.log_probs[:, None]


class Writer(NamedTuple):
    """What computes the scores of the words that come next.

    Attributes:
      model, run: what is computed, and how.
      method: what it adds to the tokens of a text: those that stand before them, or positions that are none's.
    """

    model: Model
    run: nn.Run
    method: Adaptation

    @classmethod
    def of(cls, program: Program) -> "Writer":
        """Returns that of a program, whatever its task, for texts longer than its examples too."""
        return cls(program.model, dataclasses.replace(program.run, reach=0), program.adaptation)

    def read(
        self, params: Params, prompts: Int[Array, "rows length"], lengths: Int[Array, " rows"], more: int
    ) -> tuple[Float[Array, "rows words"], nn.Cache]:
        """Reads prompts, padded at their ends; there is room for so many more tokens in the cache that it returns."""
        rows, length = prompts.shape
        whole = batch.padded(prompts, (jnp.arange(length) < lengths[:, None]).astype(jnp.int32))
        last = (lengths - 1)[:, None]
        if self.method.tokens:
            whole, places = batch.put_before(whole, {}, self.method.tokens)
            last = nn.pick(places, last)
        else:
            whole = {**whole, "positions": whole["positions"] + self.method.positions}
        spec = self.model.cache_spec(rows, whole["input_ids"].shape[1] + more)
        return self._scores(params, whole, nn.Cache.of(spec, self.run), last)

    def read_on(
        self,
        params: Params,
        tokens: Int[Array, "rows length"],
        lengths: Int[Array, " rows"],
        before: Int[Array, ""],
        cache: nn.Cache,
    ) -> tuple[Float[Array, "rows words"], nn.Cache]:
        """Reads what follows the first `before` tokens of texts, padded at its ends; a cache has these alone."""
        there = jnp.arange(tokens.shape[1]) < lengths[:, None]
        more = batch.padded(tokens, there.astype(jnp.int32))
        positions = jnp.where(there, more["positions"] + before + self.method.positions, 0)
        return self._scores(params, {**more, "positions": positions}, cache, (lengths - 1)[:, None])

    def follow(
        self, params: Params, token: Int[Array, " rows"], position: Int[Array, " rows"], cache: nn.Cache
    ) -> tuple[Float[Array, "rows words"], nn.Cache]:
        """Reads one more token of each text, which stands at this position of it."""
        one = batch.padded(token[:, None], jnp.ones((len(token), 1), jnp.int32))
        return self._scores(params, {**one, "positions": position[:, None] + self.method.positions}, cache, None)

    def _scores(
        self, params: Params, tokens: Batch, cache: nn.Cache, at: Int[Array, "rows 1"] | None
    ) -> tuple[Float[Array, "rows words"], nn.Cache]:
        x, cache = self.model.decode(params, tokens, self.run, cache, at)
        return self.model.head("next").apply(params, x, self.run)[:, 0], cache


Begin = Callable[..., State]
"""`((trainable, frozen), prompts, lengths, keys, ends, numbers) -> state`, whose answers have a token each."""

GoOn = Callable[..., State]
"""`((trainable, frozen), state, ends, numbers, until) -> state`: up to so many tokens an answer; it is donated."""


def begin(program: Program, how: How, room: int) -> Begin:
    """Returns the function that reads prompts and begins answers of at most `room` tokens, jitted."""
    writer = Writer.of(program)

    def run(
        pair: tuple[Params, Params], prompts: Array, lengths: Array, keys: Array, ends: Ends, numbers: Numbers
    ) -> State:
        scores, cache = writer.read(program.computed(*pair), prompts, lengths, room)
        return with_token(State.of(cache, prompts, lengths, keys, room), scores, ends, how, numbers)

    return jax.jit(run)


def go_on(program: Program, how: How) -> GoOn:
    """Returns the function that goes on until answers have so many tokens or all have ended, jitted."""
    writer = Writer.of(program)

    def run(pair: tuple[Params, Params], state: State, ends: Ends, numbers: Numbers, until: Array) -> State:
        params = program.computed(*pair)

        def step(state: State) -> State:
            last = jnp.take_along_axis(state.text, state.lengths[:, None] - 1, axis=1)[:, 0]
            scores, cache = writer.follow(params, last, state.lengths - 1, state.cache)
            return with_token(state.replace(cache=cache), scores, ends, how, numbers)

        return jax.lax.while_loop(lambda state: (state.count < until) & ~state.done.all(), step, state)

    return partial(jax.jit, donate_argnums=1)(run)


def with_token(state: State, scores: Float[Array, "rows words"], ends: Ends, how: How, numbers: Numbers) -> State:
    """Returns the state with one more token of each answer that has not ended, by the scores of what comes next."""
    count, open_ = state.count + 1, ~state.done
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, count)
    token = sampling.drawn(sampling.kept(scores, state.text, state.lengths, how, numbers), keys, how, numbers)
    here = (jnp.arange(state.text.shape[1]) == state.lengths[:, None]) & open_[:, None]
    return state.replace(
        text=jnp.where(here, token[:, None], state.text),
        log_probs=jnp.where(here, log_prob(scores, token)[:, None], state.log_probs),
        lengths=state.lengths + open_,
        count=count,
        done=state.done | ends.reached(token, count),
    )


def log_prob(scores: Float[Array, "rows words"], token: Int[Array, " rows"]) -> Float[Array, " rows"]:
    """Returns the log probability of a word of each row, by the model's scores."""
    return jnp.take_along_axis(jax.nn.log_softmax(scores), token[:, None], axis=1)[:, 0]
