"""Smoothness: the model answers alike where embeddings are moved a little; SMART and VAT, within each example.

L(x) + weight * D(x, x + d), the norm of d over all tokens of an example at most `radius`, d where D grows most:
  smart  D = KL(p(x) || p(x + d)) + KL(p(x + d) || p(x)); d <- project(d + step * g / |g|), `steps` times from a random
         direction of norm `step`, g the gradient of D by d  (Jiang et al. 2020, section 3.1 and algorithm 1, in L2)
  vat    D = KL(p(x) || p(x + d)), p(x) constant; d = radius * g / |g|, g the gradient of D at step * u, where u is a
         random direction and then g / |g|, `steps` times     (Miyato et al. 2019, eqs. 5 to 12; Miyato et al. 2017)
Passes forward and backward are 2 + steps. They share dropout masks. The labels have no part in it. SMART's other half,
which keeps a step near the last one (section 3.2), is left out.

It composes with every transform (in R-Drop each of the two passes has it) and with every method but `prompt`. It wants
a task whose outputs are distributions (see `jaxft.tasks.base.Task.divergence`).
"""

import zlib
from collections.abc import Mapping

import jax

from jaxft.config import Objective as Options
from jaxft.objectives.embeddings import Table, added, directed, projected, uniform
from jaxft.tasks import Task
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.types import Array, Batch, Outputs, Params

KINDS = ("smart", "vat")

SITE = zlib.crc32(b"smooth")
"""Part number of the first direction, no layer's."""


def smooth(options: Options, strengths: Mapping[str, Array], table: Table, task: Task) -> ObjectiveTransform:
    """Returns the transform that adds D to the loss of training; the outputs are those of x."""
    weight, radius = strengths["adversarial"], strengths["adversarial_radius"]
    size, steps = strengths["adversarial_step"], options.adversarial_steps

    def apart(outputs: Outputs, moved: Outputs, batch: Batch) -> Array:
        if options.adversarial == "vat":
            return task.divergence(jax.lax.stop_gradient(outputs), moved, batch)
        return task.divergence(outputs, moved, batch) + task.divergence(moved, outputs, batch)

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            (total, count), outputs = inner(params, batch, key)
            if key is None:
                return (total, count), outputs

            def at(params: Params, outputs: Outputs, d: Array) -> Array:
                return apart(outputs, inner(added(params, table.words, d), batch, key)[1], batch)

            def climb(_: Array, d: Array) -> Array:
                g = jax.grad(at, argnums=2)(*jax.lax.stop_gradient((params, outputs)), d)
                if options.adversarial == "vat":
                    return directed(g, size, batch)
                return projected(d + directed(g, size, batch), radius, batch)

            first = directed(uniform(jax.random.fold_in(key, SITE), batch, table), size, batch)
            d = jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, climb, first))
            d = directed(d, radius, batch) if options.adversarial == "vat" else d
            return (total + weight * at(params, outputs, d), count), outputs

        return objective

    return transform
