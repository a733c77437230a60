"""Turn texts into vectors that are near each other where the texts belong together.

Texts that belong together are pulled together and those of the rest of the batch pushed away (van den Oord et al. 2018,
equation 4; Henderson et al. 2017), or the cosine of two texts is fitted to a score: MultipleNegativesRankingLoss and
CosineSimilarityLoss of sentence-transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.models import Model, nn
from jaxft.tasks import losses, windows
from jaxft.tasks.base import Task
from jaxft.tasks.together import groups
from jaxft.types import Array, Batch, Float, Int, Outputs, Params


@dataclasses.dataclass(frozen=True)
class SentenceEmbedding(Task):
    """An example is one text, or a window of one, which has the vector of its text.

    The texts of a row of the table stay together.

    A text is no negative of its like: neither the positive's twins count, nor the positives of the anchor's twins.
    With `train.accumulate` a batch's parts are batches by themselves here: each sees its own negatives alone.
    """

    options: config.SentenceEmbedding
    hf_class: str = ""
    together: bool = True

    @property
    def reads(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return ("text",) if self.options.windows else ()

    @property
    def targets(self) -> Mapping[str, Target]:
        """`text` tells the texts apart that windows are of."""
        several = {"text": Target("example", np.int32, -1)} if self.options.windows else {}
        if self.options.score:
            return {"scores": Target("example", np.float32), **several}
        return {"twins": Target("example", np.int32), **several}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"embeddings": "example"}

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec()

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        if self.options.pooling == "mean":
            hidden = model.encode(params, batch, run)
            pooled = nn.mean_pool(hidden, batch["segment_ids"], batch["starts"].shape[1])
        else:
            pooled = model.encode(params, batch, run, at=self._place(batch))
        return {"embeddings": self._of_texts(nn.unit(pooled), batch)}

    def _of_texts(self, vectors: Float[Array, "rows slots dim"], batch: Mapping[str, Any]) -> Array:
        """Of each window, in place of its own, the vector of its text: the mean of all windows' vectors."""
        return nn.unit(windows.combined(vectors, batch["text"], "mean")) if self.options.windows else vectors

    def _place(self, batch: Batch) -> Int[Array, "rows slots"]:
        """Where the one token of each example stands that its vector is of."""
        starts = batch["starts"]
        return starts if self.options.pooling == "cls" else nn.last_places(batch["segment_ids"], starts.shape[1])

    def padded(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        """The hidden states, which sentence-transformers and transformers.js pool by themselves, and the embedding."""
        hidden = model.encode(params, batch, run)
        mean = self.options.pooling == "mean"
        pooled = nn.mean_pool(hidden, batch["segment_ids"], 1) if mean else nn.pick(hidden, self._place(batch))
        return {"last_hidden_state": hidden, "sentence_embedding": nn.unit(pooled).squeeze(1)}

    def unpadded(self, found: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Any]:
        if not self.options.windows:
            return {"embeddings": found["sentence_embedding"][:, None]}
        vectors = self._of_texts(jnp.asarray(found["sentence_embedding"])[None], {"text": jnp.asarray(batch["text"]).T})
        return {"embeddings": vectors.swapaxes(0, 1)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Over the first texts of the rows of the table: the others are told apart by their slots."""
        size = len(self.options.texts)
        once = (lambda x: windows.of_texts(x, batch["text"])) if self.options.windows else lambda x: x
        grouped = lambda x: groups(once(x), size)  # noqa: E731
        counts = batch["weights"] * windows.is_first(batch["text"]) if self.options.windows else batch["weights"]
        vectors, weights = grouped(outputs["embeddings"]), grouped(counts)[:, 0]
        if self.options.score:
            cosine = (vectors[:, 0] * vectors[:, 1]).sum(-1)
            return losses.squared_error(cosine, grouped(batch["scores"])[:, 0], weights)
        candidates = vectors[:, 1:].reshape(-1, vectors.shape[-1])
        logits = self.options.scale * vectors[:, 0] @ candidates.T
        own = jnp.arange(len(weights)) * (size - 1)
        twins = grouped(batch["twins"])
        anchors, others = twins[:, 0], twins[:, 1:].reshape(-1)
        positive = jnp.arange(len(others)) % (size - 1) == 0
        like = (others == twins[:, 1, None]) | (anchors[:, None] == jnp.repeat(anchors, size - 1)) & positive
        negative = (jnp.repeat(weights, size - 1) > 0) & ~like
        counted = negative | (jnp.arange(len(others)) == own[:, None])
        return losses.cross_entropy(jnp.where(counted, logits, -1e30), own, weights)
