"""Turn texts into vectors that are near each other where the texts belong together.

Texts that belong together are pulled together and those of the rest of the batch pushed away (van den Oord et al. 2018,
equation 4; Henderson et al. 2017), or the cosine of two texts is fitted to a score: MultipleNegativesRankingLoss and
CosineSimilarityLoss of sentence-transformers.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.tasks import losses
from jaxft.tasks.base import Host, Steady
from jaxft.types import Array, Batch, Float, Int, Outputs, Params, Shaped

if TYPE_CHECKING:
    from jaxft.data.features import Features
    from jaxft.data.sources import Split


def mean_pool(
    hidden: Float[Array, "rows length embed"], segments: Int[Array, "rows length"], slots: int
) -> Float[Array, "rows slots embed"]:
    """The mean of the hidden states of each example's tokens, in float32."""
    own = (segments[:, None, :] == jnp.arange(1, slots + 1)[None, :, None]).astype(jnp.float32)
    return jnp.einsum("rsl,rle->rse", own, hidden.astype(jnp.float32)) / jnp.maximum(own.sum(-1), 1)[..., None]


@dataclasses.dataclass(frozen=True)
class SentenceEmbedding(Steady):
    """See `jaxft.tasks.base.Task`. An example is one text; the texts of a row of the table stay together.

    A text is no negative of its like: neither the positive's twins count, nor the positives of the anchor's twins.
    With `train.accumulate` a batch's parts are batches by themselves here: each sees its own negatives alone.
    """

    options: config.SentenceEmbedding
    head: str = ""
    pipeline: str = "sentence-similarity"
    lower: frozenset[str] = frozenset({"mse"})
    together: bool = True
    usage: str = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/directory")
print(model.encode(["A text."]))"""

    @property
    def targets(self) -> Mapping[str, Target]:
        return (
            {"scores": Target("example", np.float32)} if self.options.score else {"twins": Target("example", np.int32)}
        )

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"embeddings": "example"}

    @property
    def metric(self) -> str:
        return "spearman" if self.options.score else "mrr@10"

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.options.texts[:1]

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec()

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        if self.options.pooling == "cls":
            pooled = model.encode(params, batch, run, at=batch["starts"]).astype(jnp.float32)
        else:
            hidden = model.encode(params, batch, run)
            pooled = mean_pool(hidden, batch["segment_ids"], batch["starts"].shape[1])
        square = jnp.square(pooled).sum(-1, keepdims=True)
        return {"embeddings": pooled / jnp.sqrt(jnp.maximum(square, 1e-24))}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Over the first texts of the rows of the table: the others are told apart by their slots."""
        size = len(self.options.texts)
        grouped = lambda x: _groups(x, size)  # noqa: E731
        vectors, weights = grouped(outputs["embeddings"]), grouped(batch["weights"])[:, 0]
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

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        names = self.options.texts if labelled else self.inputs
        columns = [split.table[name].to_pylist() for name in names]
        texts = [text for row in zip(*columns, strict=True) for text in row]
        encoded = tokenizer(
            texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=True
        )
        found = {name: encoded[name] for name in ("input_ids", "token_type_ids")}
        found["row"] = np.repeat(np.arange(split.table.num_rows), len(names))
        if not self.options.score:  # texts of the same tokens have the same number
            numbers = [zlib.crc32(np.asarray(ids, np.int32).tobytes()) for ids in found["input_ids"]]
            found["twins"] = np.asarray(numbers, np.uint32).view(np.int32)
        elif labelled:
            found["scores"] = np.repeat(np.asarray(split.table[self.options.score], np.float32), len(names))
        return found

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        from jaxft.metrics import classification, retrieval

        size = len(self.options.texts)
        vectors = outputs["embeddings"].reshape(-1, size, outputs["embeddings"].shape[-1])
        if self.options.score:
            cosines = (vectors[:, 0] * vectors[:, 1]).sum(-1)
            return classification.regression(features.examples["scores"][::size], cosines)
        columns = [split.table[name].to_pylist() for name in self.options.texts]
        asked, query = retrieval.distinct(columns[0])
        places, entry = retrieval.distinct([text for row in zip(*columns[1:], strict=True) for text in row])
        relevant: list[list[int]] = [[] for _ in asked]
        for number, found in zip(query, entry[:: size - 1], strict=True):
            relevant[number].append(int(found))
        corpus = vectors[:, 1:].reshape(-1, vectors.shape[-1])[places]
        loss = retrieval.contrastive(vectors[:, 0], corpus, entry[:: size - 1], self.options.scale)
        return {"loss": loss} | retrieval.scores(vectors[asked, 0], corpus, relevant)

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """The vector of each text of the first column, of length 1."""
        yield from ({"embedding": vector.tolist()} for vector in outputs["embeddings"].astype(np.float64))

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        return {}

    def hf_config(self) -> dict[str, Any]:
        return {}

    def files(self, model: Model, max_length: int) -> dict[str, Any]:
        """What makes the export a model of sentence-transformers."""
        module = "sentence_transformers.models."
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": module + kind}
            for i, (path, kind) in enumerate(kinds.items())
        ]
        pooling = {"word_embedding_dimension": model.facts.width}
        pooling |= {
            f"pooling_mode_{mode}": mode.startswith(self.options.pooling) for mode in ("cls_token", "mean_tokens")
        }
        return {
            "modules.json": modules,
            "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
            "1_Pooling/config.json": pooling,
            "2_Normalize/config.json": {},
        }


def _groups(x: Shaped[Array, "rows slots *rest"], size: int) -> Shaped[Array, "groups size *rest"]:
    """Each `size` slots side by side, of all rows; slots that are missing from the last group are empty."""
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), *((0, 0),) * (x.ndim - 2)))
    return x.reshape(-1, size, *x.shape[2:])


def build(options: config.SentenceEmbedding) -> SentenceEmbedding:
    return SentenceEmbedding(options)


def read(options: config.SentenceEmbedding, split: Split, labelled: bool) -> Split:
    """Checks every text and score.

    Raises:
      UserError: columns of too small or too large a number, texts or scores that are none, and where.
    """
    from jaxft.data.sources import check_text, require_columns

    names = options.texts if labelled else options.texts[:1]
    most = 2 if options.score else 3
    if not 2 <= len(options.texts) <= most:
        raise UserError(
            f"config.task.texts names {len(options.texts)} columns; it must name two{' or three' * (most > 2)}"
        )
    require_columns(split, {f"task.texts[{i}]": name for i, name in enumerate(names)})
    require_columns(split, {"task.score": options.score} if labelled else {})
    for name in names:
        check_text(split, name)
    if labelled and options.score:
        for row, value in enumerate(split.table[options.score].to_pylist()):
            if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
                hint = "it must be a number from -1 to 1; divide by the largest"
                raise UserError(f"{split.where(row)}: score {value!r} in {options.score!r}; {hint}")
    return split


def resolve(options: config.SentenceEmbedding, splits: Mapping[str, Split]) -> config.SentenceEmbedding:
    return options
