"""Texts without labels: a copy with a few words changed is to be answered as the text is (UDA, Xie et al. 2020, eq. 1).

L + weight * sum over texts x of [max p(x) >= confidence] KL(p'(x) || p(copy)), p' = softmax(logits(x) / temperature)
constant (section 3.2: confidence-based masking and sharpening), and all of it is divided by what the labelled examples
count and the number of texts. Text and copy are two examples side by side, with dropout masks of their own. A text
costs two examples.

It composes with every transform but mixup, and with every method. It wants classes, one a text.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxft.batch import COPY, UNLABELLED
from jaxft.tasks import losses
from jaxft.train.objective import Objective, ObjectiveTransform
from jaxft.types import Array, Batch, Outputs, Params


def uda(strengths: Mapping[str, Array]) -> ObjectiveTransform:
    """Returns the transform of training; what it is given is `counting`."""

    def transform(inner: Objective) -> Objective:
        def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
            (total, count), outputs = inner(params, batch, key)
            if key is None:
                return (total, count), outputs
            copies = outputs["logits"]
            texts = jax.lax.stop_gradient(jnp.roll(copies, 1, axis=1))  # a copy lies in the slot behind its text
            sure = jax.nn.softmax(texts).max(-1) >= strengths["uda_confidence"]
            apart = losses.divergence(texts / strengths["uda_temperature"], copies)
            return (total + strengths["uda"] * (batch[COPY] * sure * apart).sum(), count), outputs

        return objective

    return transform


def counting(inner: Objective) -> Objective:
    """Returns the objective of training, whose sum is also over the texts without labels, with a loss of 0 so far."""

    def objective(params: Params, batch: Batch, key: Array | None) -> tuple[tuple[Array, Array], Outputs]:
        (total, count), outputs = inner(params, batch, key)
        return (total, count if key is None else count + batch[UNLABELLED].sum()), outputs

    return objective
