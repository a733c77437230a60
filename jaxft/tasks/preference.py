"""Learn which of two answers is preferred, without a model of rewards.

Of the chosen answer c and the rejected one r, with the log probabilities log p of their tokens by the model and log q
by the one that the run begins with, beta being b:

- DPO (Rafailov et al. 2023, eq. 7): -log sigmoid(b h), h = (log p(c) - log q(c)) - (log p(r) - log q(r)).
- IPO (Azar et al. 2023, eq. 17): (h - 1 / (2 b))^2. Here log probabilities are means over the tokens of an answer, as
  TRL has them, so that long answers do not weigh more.
- ORPO (Hong et al. 2024, eqs. 6 and 7): -log p(c) - b log sigmoid(log odds(c) - log odds(r)), of the same means, with
  odds = p / (1 - p). It wants no q.

log q does not change: it is an array of the batch, computed before training by `jaxft.predict.reference`, so that there
is one copy of the model in memory, and a step costs no pass more.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.models import Model, nn
from jaxft.tasks.causal_lm import CausalLM
from jaxft.tasks.together import groups, sums
from jaxft.types import Array, Batch, Float, Outputs, Params

REFERENCE = "reference"
"""Name of log q in a batch and among features: of each example the sum over its answer's tokens."""


@dataclasses.dataclass(frozen=True)
class Preference(CausalLM):
    """An example is a conversation that ends with one of two answers: first the chosen one, beside it the rejected."""

    options: config.Preference  # pyright: ignore[reportIncompatibleVariableOverride]
    together: bool = True

    @property
    def targets(self) -> Mapping[str, Target]:
        """`labels` are the answer's tokens; a reference that has not been computed is not a number."""
        found = super().targets
        return found if self.options.loss == "orpo" else {**found, REFERENCE: Target("example", np.float32, math.nan)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"log_prob": "example", "counted": "example"}

    @property
    def numbers(self) -> Mapping[str, float]:
        return {"beta": self.options.beta}

    def with_numbers(self, numbers: Mapping[str, Array]) -> Preference:
        return dataclasses.replace(self, options=dataclasses.replace(self.options, **numbers))

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """Of each example the log probability of its answer, and of how many tokens that is."""
        return self._answers(super().forward(params, model, batch, run), batch)

    def unpadded(self, found: Mapping[str, Any], batch: Mapping[str, Any]) -> Outputs:
        return self._answers(super().unpadded(found, batch), jax.tree.map(jnp.asarray, dict(batch)))

    def _answers(self, found: Outputs, batch: Batch) -> Outputs:
        segments, slots = batch["segment_ids"], batch["starts"].shape[1]
        return {
            "log_prob": sums(found["log_probs"], segments, slots),
            "counted": sums(found["counted"], segments, slots),
        }

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Over pairs of which both answers have tokens that are learned; see the equations above."""
        tokens, log_probs = groups(outputs["counted"], 2), groups(outputs["log_prob"], 2)
        there = (tokens > 0).all(-1)  # not where a slot is empty either
        means, beta = log_probs / jnp.maximum(tokens, 1), self.options.beta
        if self.options.loss == "orpo":
            losses = orpo(means, beta)
        else:
            known = jnp.where(there[:, None], groups(batch[REFERENCE], 2), log_probs)
            losses = (
                dpo(log_probs, known, beta)
                if self.options.loss == "dpo"
                else ipo(means, known / jnp.maximum(tokens, 1), beta)
            )
        return jnp.where(there, losses, 0).sum(), there.sum().astype(jnp.float32)


def dpo(
    log_probs: Float[Array, "pairs 2"], reference: Float[Array, "pairs 2"], beta: float | Float[Array, ""]
) -> Float[Array, " pairs"]:
    """Returns the loss of each pair of answers, the chosen one first, by the sums of their log probabilities."""
    return -jax.nn.log_sigmoid(beta * _apart(log_probs - reference))


def ipo(
    log_probs: Float[Array, "pairs 2"], reference: Float[Array, "pairs 2"], beta: float | Float[Array, ""]
) -> Float[Array, " pairs"]:
    """Returns the same by the means of their log probabilities."""
    return jnp.square(_apart(log_probs - reference) - 1 / (2 * beta))


def orpo(log_probs: Float[Array, "pairs 2"], beta: float | Float[Array, ""]) -> Float[Array, " pairs"]:
    """Returns the same by their means alone, each below 0."""
    log_odds = log_probs - jnp.log(-jnp.expm1(jnp.minimum(log_probs, LARGEST)))
    return -log_probs[:, 0] - beta * jax.nn.log_sigmoid(_apart(log_odds))


LARGEST = -1e-6
"""Of a mean log probability, of which the odds are taken: those of certainty are without bound."""


def _apart(x: Float[Array, "pairs 2"]) -> Float[Array, " pairs"]:
    chosen, rejected = x.T
    return chosen - rejected
