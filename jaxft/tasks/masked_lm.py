"""Learn the language of a text: guess tokens that are hidden in it (Devlin et al. 2019).

Head and loss are those of BertForMaskedLM (transformers, modeling_bert.py), its decoder the word embedding;
they are computed where a token is hidden, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import IGNORED, Target
from jaxft.models import Model, nn
from jaxft.tasks.base import Task
from jaxft.types import Array, Batch, Float, Int, Outputs, Params


@dataclasses.dataclass(frozen=True)
class MaskedLM(Task):
    options: config.MaskedLM
    hf_class: str = "ForMaskedLM"
    reads: tuple[str, ...] = ("labels",)

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"labels": Target("token", np.int32, IGNORED)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"log_probs": "token", "right": "token"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(model.head("word"))

    def tied(self, model: Model) -> tuple[str, ...]:
        return (f"{model.facts.words}/embedding",)

    def places(self, model: Model, path: str, lengths: np.ndarray) -> np.ndarray:
        """The head of hidden tokens is needed at these alone; another one, such as next_sentence's, once an example."""
        hidden = path in self.tied(model) or path in nn.flatten(model.head("word").spec)
        return self.options.mask_fraction * lengths if hidden else np.ones_like(lengths)

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """Of each hidden token the log probability that it is what it was, and 1 where it is the best guess; else 0."""
        at = self.hidden_places(batch)
        x = model.encode(params, batch, run, at=at)
        return self.guesses(model.head("word").apply(params, x, run), batch, at)

    def padded(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """The scores of all words at each token."""
        return {"logits": model.of_tokens(model.head("word"), params, batch, run)}

    def unpadded(self, found: Mapping[str, Any], batch: Mapping[str, Any]) -> Outputs:
        found, batch = jax.tree.map(jnp.asarray, (dict(found), dict(batch)))
        at = self.hidden_places(batch)
        return self.guesses(nn.pick(found["logits"], at), batch, at)

    def hidden_places(self, batch: Batch) -> Int[Array, "rows places"]:
        """Where tokens are hidden in each row, and then any others: as many as a row can hold (see masking.most)."""
        hidden = batch["labels"] != IGNORED
        length = hidden.shape[1]
        count = min(int(self.options.mask_fraction * length) + batch["starts"].shape[1], length)
        return jnp.argsort(~hidden, axis=1, stable=True)[:, :count]

    def guesses(self, logits: Float[Array, "rows places words"], batch: Batch, at: Array) -> Outputs:
        """What these logits of the tokens at these places say."""
        rows, length = batch["labels"].shape
        labels = jnp.maximum(nn.pick(batch["labels"], at), 0)
        found = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1).squeeze(-1)
        right = (logits.argmax(-1) == labels).astype(jnp.float32)

        def back(values: Array) -> Array:
            spread = jnp.zeros((rows, length), jnp.float32).at[jnp.arange(rows)[:, None], at].set(values)
            return jnp.where(batch["labels"] != IGNORED, spread, 0)

        return {"log_probs": back(found), "right": back(right)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """-log probability, summed over the hidden tokens; and their number."""
        return -outputs["log_probs"].sum(), (batch["labels"] != IGNORED).sum().astype(jnp.float32)
