"""Adversarial training on word embeddings: FGM, PGD and FreeLB, within each example, the clean loss kept.

L(x) + weight * L(x + d), the norm of d over all tokens of an example at most `radius`, and g the gradient by d:
  fgm     d = radius * g / |g|                                             (Miyato et al. 2017, eq. 5)
  pgd     d <- project(d + step * g / |g|), `steps` times from 0           (Madry et al. 2018, eq. 2, in L2)
  freelb  as pgd from random d; the mean of the losses at the `steps` d's  (Zhu et al. 2020, algorithm 1)
The clean pass gives the first g of fgm and pgd: passes forward and backward are 2, 1 + steps and 1 + steps. They share
dropout masks (Zhu et al. 2020, section 3.3).

It composes with every task, transform (R-Drop makes two of each pass) and method but `prompt`.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.config import Objective as Options
from jaxft.objectives.embeddings import Table, added, directed, projected, uniform
from jaxft.train.gradient import Gradient, GradientTransform
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.types import Array, Batch, Outputs, Params

SITE = zlib.crc32(b"freelb")
"""Part number of FreeLB's first d, no layer's."""

MOVED = "perturbation"
"""What is added to the embeddings has this path among the parameters that learn, for the time of a step."""


def movable(words: str) -> ObjectiveTransform:
    """Returns the transform that adds what lies at `MOVED`, if anything, to the rows of the table at `words`."""

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            own = {name: part for name, part in params.items() if name != MOVED}
            return inner(added(own, words, params[MOVED]) if MOVED in params else own, batch, key)

        return objective

    return transform


def adversarial(options: Options, strengths: Mapping[str, Array], table: Table) -> GradientTransform:
    """Returns the transform that adds the gradient of the loss of moved embeddings; what it is given is `movable`."""
    weight, radius = strengths["adversarial"], strengths["adversarial_radius"]
    steps = 1 if options.adversarial == "fgm" else options.adversarial_steps
    size = strengths.get("adversarial_step", radius)

    def transform(inner: Gradient) -> Gradient:
        def gradient(trainable: Params, frozen: Params, batch: Batch, key: Array) -> tuple[Array, Array, Params]:
            def at(d: Array) -> tuple[Array, Array, Params, Array]:
                total, count, grads = inner({**trainable, MOVED: d}, frozen, batch, key)
                return total, count, {name: part for name, part in grads.items() if name != MOVED}, grads[MOVED]

            def moved(d: Array, g: Array) -> Array:
                return projected(d + directed(g, size, batch), radius, batch)

            def climb(carry: Any, _: Any) -> tuple[Any, None]:
                d, sums = carry
                total, _, grads, g = at(d)
                return (moved(d, g), jax.tree.map(lambda a, b: a + b / steps, sums, (total, grads))), None

            total, count, grads, g = at(jnp.zeros((*batch["input_ids"].shape, table.width)))
            if options.adversarial == "freelb":
                d = radius * uniform(jax.random.fold_in(key, SITE), batch, table)
                sums = jnp.zeros(()), jax.tree.map(jnp.zeros_like, trainable)
                (_, (there, theirs)), _ = jax.lax.scan(climb, (d, sums), length=steps)
            else:
                further = lambda _, d: moved(d, at(d)[3])  # noqa: E731
                d = jax.lax.fori_loop(1, steps, further, moved(jnp.zeros_like(g), g))
                there, _, theirs, _ = at(d)
            return total + weight * there, count, jax.tree.map(lambda a, b: a + weight * b, grads, theirs)

        return gradient

    return transform
