"""Gradients by word embeddings: integrated gradients, gradient x input, SmoothGrad, as one function of packed rows.

Each is a mean of slopes. Let token t have the embedding x_t(a) = b_t + a_t (e_t - b_t) + noise, between a baseline b
and its own e. Then the derivative of the output by a_t is the gradient by x_t times (e_t - b_t), the token's share:

  integrated gradients   the mean over a from 0 to 1, the same for all tokens (Sundararajan et al. 2017)
  gradient x input       at a = 1, with b = 0 (Shrikumar et al. 2016, section 3)
  SmoothGrad             the mean of that under noise (Smilkov et al. 2017)

Examples that share a row do not see each other, so that one backward pass of the sum of their outputs has the slopes of
all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxft import program, sharding
from jaxft.batch import Target
from jaxft.data.features import Features
from jaxft.explain.targets import Aim, logits_of, per_token
from jaxft.explain.units import Reading
from jaxft.models import nn
from jaxft.types import Array, Batch, Float, Int, Params

NOTHING = -1
"""The baseline that is a vector of zeros, among ids of tokens."""

COLUMNS: Mapping[str, Target] = {
    "place": Target("token", np.float32),
    "baseline": Target("token", np.int32),
    "token": Target("example", np.int32),
    "aim": Target("example", np.int32),
    "draw": Target("example", np.int32),
}
"""What the function reads of a batch beside tokens: a of each token, its baseline's id, which token's outputs are asked
for (where they are of tokens) and which of them, and the number of the example's noise."""

KINDS = {"slope": "token", "output": "example"}
"""What it returns: the derivative by `place` of the output that is asked for, and that output."""

Slopes = Callable[[tuple[Params, Params], Batch], dict[str, Array]]


class Between(struct.PyTreeNode):
    """An `nn.Change` of a table of word embeddings: a point between a baseline's embedding and the token's own.

    Attributes:
      place, baseline: `[rows, length]`, as `COLUMNS`.
      noise: `[rows, length, width]` in parts of the range of an example's embeddings; None: there is none.
      owner: `[rows, length]`, which example of its row a token is of; 0: none.
      slots: examples a row, at most.
      inner: what computed the table before.
    """

    place: Array
    baseline: Array
    noise: Array | None
    owner: Array
    slots: int = struct.field(pytree_node=False)
    inner: Any = None

    def __call__(self, p: Params, x: Array, run: nn.Run | None) -> Array:
        table = (lambda ids: p["embedding"][ids]) if self.inner is None else lambda ids: self.inner(p, ids, run)
        own = table(x)
        start = jnp.where(self.baseline[..., None] == NOTHING, 0, table(jnp.maximum(self.baseline, 0)))
        found = start + self.place[..., None] * (own - start)
        if self.noise is None:
            return found
        return found + self.noise * spread(own, self.owner, self.slots)[..., None]


def spread(x: Float[Array, "rows length width"], owner: Int[Array, "rows length"], slots: int) -> Array:
    """Returns for each token the largest less the smallest entry of its example, `[rows, length]`; 0 for padding."""
    own = owner[..., None] == jnp.arange(1, slots + 1)
    most = jnp.where(own, x.max(-1)[..., None], -jnp.inf).max(1)
    least = jnp.where(own, x.min(-1)[..., None], jnp.inf).min(1)
    between = jnp.where(own.any(1), most - least, 0)
    return jnp.einsum("rls,rs->rl", own.astype(x.dtype), between)


def make_slopes(composed: program.Program, level: float, seed: int) -> Slopes:
    """Returns the jitted function `(weights, batch) -> KINDS`; the batch has `COLUMNS` too.

    Args:
      level: standard deviation of the noise, in parts of the range of an example's embeddings; 0: there is none.
      seed: of the noise, which is a function of it, of `draw` and of the place in the example.
    """
    facts = composed.model.facts
    width = nn.flatten(composed.spec)[f"{facts.words}/embedding"].shape[1]

    def slopes(weights: tuple[Params, Params], batch: Batch) -> dict[str, Array]:
        inputs = {name: x for name, x in batch.items() if name not in COLUMNS}
        shift = noise(batch, facts.longest, width, seed) * level if level else None
        slots = batch["starts"].shape[1]

        def total(place: Array) -> tuple[Array, Array]:
            def change(params: Params) -> Params:
                flat, path = nn.flatten(params), f"{facts.words}/change"
                between = Between(place, batch["baseline"], shift, batch["segment_ids"], slots, flat.get(path))
                return nn.unflatten(flat | {path: between})

            outputs = composed.forward(weights, inputs, change)
            if "embeddings" in outputs:
                asked = cosines(outputs["embeddings"])
                return (asked * batch["weights"]).sum(), asked
            logits = logits_of(outputs, jnp.stack)
            if per_token(composed.task.outputs):
                logits = nn.pick(logits, batch["starts"] + batch["token"])
            asked = jnp.take_along_axis(logits, batch["aim"][..., None], axis=-1)[..., 0]
            return (asked * batch["weights"]).sum(), asked

        slope, output = jax.grad(total, has_aux=True)(batch["place"])
        return {"slope": slope, "output": output}

    places = jax.tree.map(lambda x: x.sharding, program.weights(composed.state))
    everywhere = sharding.replicated(composed.mesh)
    return jax.jit(slopes, in_shardings=(places, composed.batch_sharding), out_shardings=everywhere)


def cosines(vectors: Float[Array, "rows slots width"]) -> Float[Array, "rows slots"]:
    """Returns in the slot of a first text the cosine of its vector and that of the next slot; in others 0."""
    both = (vectors * jnp.roll(vectors, -1, axis=1)).sum(-1)
    return jnp.where(jnp.arange(vectors.shape[1]) % 2 == 0, both, 0)


def noise(batch: Batch, longest: int, width: int, seed: int) -> Array:
    """Returns standard normal numbers, `[rows, length, width]`: of a seed, a `draw` and a place in its example."""
    draw = {**batch, "order": batch["draw"]}
    numbers = nn.token_numbers(draw, longest)
    index = nn.count(numbers, (*numbers.shape, width))
    bits = nn.threefry_bits(jax.random.key(seed), index)
    uniform = (bits.astype(jnp.float32) + 0.5) * 2.0**-32
    return jax.scipy.special.ndtri(jnp.clip(uniform, 1e-7, 1 - 1e-7))


class Points(NamedTuple):
    """Where the slopes of a row are asked for, and what each counts: arrays `[points]`.

    Attributes:
      place: between the baseline, 0, and the text, 1.
      weight: of the slopes there in the mean.
      draw: the number of the noise.
    """

    place: np.ndarray
    weight: np.ndarray
    draw: np.ndarray


def path(steps: int) -> Points:
    """Returns the nodes of Gauss-Legendre quadrature from 0 to 1, and both ends, which count nothing."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    place, weight = np.concatenate([[0, 1], (nodes + 1) / 2]), np.concatenate([[0, 0], weights / 2])
    return Points(place, weight, np.zeros(len(place), np.int32))


def here(samples: int) -> Points:
    """Returns the text itself, so many times, each with noise of its own."""
    return Points(np.ones(samples), np.full(samples, 1 / samples), np.arange(samples, dtype=np.int32))


def features(reading: Reading, aim: Aim, points: Points, baseline: int) -> Features:
    """Returns an example for each point of a row; of two texts two, one after the other, with noise of their own.

    Args:
      aim: what is asked for.
      baseline: the token that stands for no word, while special tokens stay; or `NOTHING`, for all tokens.
    """
    count, size = len(points.place), len(reading.ids)
    stay = (reading.unit_of < 0) & (baseline != NOTHING)
    tokens = {
        "input_ids": reading.ids,
        "token_type_ids": reading.types,
        "baseline": np.where(stay, reading.ids, np.int32(baseline)),
    }
    flat = {name: np.tile(x, count) for name, x in tokens.items()}
    flat["place"] = np.repeat(points.place.astype(np.float32), size)
    texts, every = reading.texts, np.ones((count, size), bool)
    asked = {"token": aim.token, "aim": aim.entry}
    examples = {name: np.full(count * texts, number, np.int32) for name, number in asked.items()}
    examples["draw"] = (points.draw[:, None] * texts + np.arange(texts, dtype=np.int32)).ravel()
    return Features(np.cumsum([0, *reading.lengths(every)]), flat, examples | reading.examples(every))
