"""Learn the language of a text: guess each token from those before it (Radford et al. 2019).

The loss is that of the ...ForCausalLM classes (transformers/loss/loss_utils.py). Scores of words never exist for all
tokens together: see `jaxft.tasks.likelihood`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import IGNORED, Target
from jaxft.models import Model, nn
from jaxft.tasks.base import Task
from jaxft.tasks.likelihood import Parts, block_size, likelihood, of_scores
from jaxft.types import Array, Batch, Float, Int, Outputs, Params

SCORES = 2**27
"""Scores of words that exist on a device at a time, at most: half a GiB of float32.

Of far fewer it takes longer to read their table, and to add to its gradient, than to multiply by it.
"""


@dataclasses.dataclass(frozen=True)
class CausalLM(Task):
    """An example is a text or a piece of one, of which the first token is not guessed; or a conversation.

    Attributes:
      scores: how many scores of words exist on a device at a time, at most.
    """

    options: config.CausalLM | config.Chat
    scores: int = SCORES
    hf_class: str = "ForCausalLM"
    reads: tuple[str, ...] = ("labels",)

    @property
    def targets(self) -> Mapping[str, Target]:
        """`labels` is the token itself where it is to be guessed."""
        return {"labels": Target("token", np.int32, IGNORED)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"log_probs": "token", "right": "token", "counted": "token"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(model.head("next"))

    def tied(self, model: Model) -> tuple[str, ...]:
        own = any(path.endswith("/embedding") for path in nn.flatten(model.head("next").spec))
        return () if own else (f"{model.facts.words}/embedding",)

    def places(self, model: Model, path: str, lengths: np.ndarray) -> np.ndarray:
        return np.maximum(lengths - 1, 0)

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """Of each token the log probability of it, and 1 where it is the best guess, by what stands before; else 0.

        `counted` is 1 where a token is guessed: not the first one of an example, nor one without a label.
        """
        x, head, guessed = model.encode(params, batch, run), model.head("next"), following(batch)
        rows, length = guessed.shape
        shards = run.shards if rows % run.shards == 0 else 1
        size = block_size(rows // shards, length, words=model.facts.vocabulary, scores=self.scores)
        places = {path.rpartition("/")[0] for path in (*nn.flatten(head.spec), *self.tied(model))}
        # Beside these parameters may stand what an adaptation has put there.
        beside = {path: one for path, one in nn.flatten(params).items() if path.rpartition("/")[0] in places}
        score = lambda scoring, x: head.apply(scoring, x, run)  # noqa: E731
        copied = partial(_copied, shards=shards, words=model.facts.vocabulary, run=run)
        parts = Parts(shards, copied) if shards > 1 else None
        return behind(*likelihood(score, nn.unflatten(beside), x, guessed, size, parts), guessed)

    def padded(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """The scores of all words at each token."""
        return {"logits": model.of_tokens(model.head("next"), params, batch, run)}

    def unpadded(self, found: Mapping[str, Any], batch: Mapping[str, Any]) -> Outputs:
        found, batch = jax.tree.map(jnp.asarray, (dict(found), dict(batch)))
        guessed = following(batch)
        return behind(*of_scores(found["logits"], guessed), guessed)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """-log probability, summed over the tokens that are guessed; and their number."""
        return -outputs["log_probs"].sum(), outputs["counted"].sum()


def _copied(one: Array, shards: int, words: int, run: nn.Run) -> Array:
    """Copies of a parameter, each on the devices of a part of the rows; words may be split over others."""
    axes = tuple("vocab" if size == words else None for size in one.shape)
    return run.constrain(jnp.broadcast_to(one, (shards, *one.shape)), ("rows", *axes))


def following(batch: Batch) -> Int[Array, "rows length"]:
    """Returns the label of the token behind each, where it is of the same example; else `IGNORED`."""
    segments, labels = batch["segment_ids"], batch["labels"]
    same = jnp.pad(segments[:, 1:], ((0, 0), (0, 1))) == segments
    return jnp.where(same, jnp.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED), IGNORED)


def behind(
    log_probs: Float[Array, "rows length"], right: Float[Array, "rows length"], guessed: Int[Array, "rows length"]
) -> Outputs:
    """Returns the outputs, each at the token that was guessed, one place behind where it was."""
    counted = (guessed != IGNORED).astype(jnp.float32)
    found = {"log_probs": log_probs, "right": right, "counted": counted}
    return {name: jnp.pad(x[:, :-1], ((0, 0), (1, 0))) for name, x in found.items()}
