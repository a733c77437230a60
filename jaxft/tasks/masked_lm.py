"""Learn the language of a text: guess tokens that are hidden in it (Devlin et al. 2019).

Head and loss are those of BertForMaskedLM (transformers, modeling_bert.py), its decoder the word embedding;
they are computed where a token is hidden, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.data.masking import IGNORED, Piece
from jaxft.models import Model, nn
from jaxft.tasks.base import Host, Steady
from jaxft.types import Array, Batch, Float, Int, Outputs, Params

if TYPE_CHECKING:
    from jaxft.data.features import Features
    from jaxft.data.sources import Split


@dataclasses.dataclass(frozen=True)
class MaskedLM(Steady):
    """See `jaxft.tasks.base.Task`.

    Texts to train and evaluate on are put one after the other and cut; those to predict of are each by itself.
    """

    options: config.MaskedLM
    head: str = "ForMaskedLM"
    pipeline: str = "fill-mask"
    metric: str = "perplexity"
    lower: frozenset[str] = frozenset({"perplexity"})
    reads: tuple[str, ...] = ("labels",)
    usage: str = """from transformers import pipeline

predict = pipeline("fill-mask", model="path/to/this/directory")
print(predict(f"A {predict.tokenizer.mask_token}."))"""

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"labels": Target("token", np.int32, IGNORED)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"log_probs": "token", "right": "token"}

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.options.text,)

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
        found = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        right = (logits.argmax(-1) == labels).astype(jnp.float32)

        def back(values: Array) -> Array:
            spread = jnp.zeros((rows, length), jnp.float32).at[jnp.arange(rows)[:, None], at].set(values)
            return jnp.where(batch["labels"] != IGNORED, spread, 0)

        return {"log_probs": back(found), "right": back(right)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """-log probability, summed over the hidden tokens; and their number."""
        return -outputs["log_probs"].sum(), (batch["labels"] != IGNORED).sum().astype(jnp.float32)

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        from jaxft.data import masking

        pieces, rows = masking.cut(tokenizer, split.table[self.options.text].to_pylist(), max_length, join=labelled)
        columns = self.hide(pieces, tokenizer) | {"token_type_ids": [np.zeros(len(p.ids), np.int32) for p in pieces]}
        return columns | ({} if labelled else {"row": np.asarray(rows)})

    def hide(self, pieces: Sequence[Piece], tokenizer: Any) -> dict[str, Any]:
        """Columns of the pieces, hidden as in every evaluation.

        `words` tells what is hidden together; that, `mask` and `vocabulary` are for `vary`.
        """
        from jaxft.data import masking

        if not self.options.whole_words:
            pieces = [p._replace(words=np.where(p.words < 0, -1, np.arange(len(p.words)))) for p in pieces]
        mask, size = tokenizer.mask_token_id, len(tokenizer)
        hide = lambda i: masking.hide(  # noqa: E731
            pieces[i], self.options.mask_fraction, mask, size, seed=0, epoch=masking.FIXED, example=i
        )
        ids, labels = zip(*map(hide, range(len(pieces))), strict=True)
        columns: dict[str, Any] = {"input_ids": ids, "labels": labels, "words": [piece.words for piece in pieces]}
        return columns | {"mask": np.full(len(ids), mask, np.int32), "vocabulary": np.full(len(ids), size, np.int32)}

    def vary(self, features: Features, examples: np.ndarray, seed: int, epoch: int) -> Features:
        """Other tokens are hidden in each epoch."""
        from jaxft.data import masking

        tokens, offsets = dict(features.tokens), features.offsets
        plain = np.where(tokens["labels"] == IGNORED, tokens["input_ids"], tokens["labels"])
        ids, labels = [], []
        for i, example in enumerate(examples):
            piece = masking.Piece(*(part[offsets[i] : offsets[i + 1]] for part in (plain, tokens["words"])))
            mask, size = (int(features.examples[name][i]) for name in ("mask", "vocabulary"))
            fraction = self.options.mask_fraction
            found = masking.hide(piece, fraction, mask, size, seed=seed, epoch=epoch, example=int(example))
            ids.append(found[0])
            labels.append(found[1])
        tokens |= {"input_ids": np.concatenate(ids), "labels": np.concatenate(labels)}
        return dataclasses.replace(features, tokens=tokens)

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        hidden = features.tokens["labels"] != IGNORED
        if not hidden.any():
            return {}
        log_probs = outputs["log_probs"][hidden].astype(np.float64)
        return {"perplexity": float(np.exp(-log_probs.mean())), "accuracy": float(outputs["right"][hidden].mean())}

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """Of each text the perplexity, as in evaluation: how strange it is to the model; and how many were hidden."""
        hidden = features.tokens["labels"] != IGNORED
        for low, high in zip(features.bounds, features.bounds[1:], strict=False):
            part = slice(features.offsets[low], features.offsets[high])
            found = outputs["log_probs"][part][hidden[part]].astype(np.float64)
            perplexity = float(np.exp(-found.mean())) if len(found) else None
            yield {"perplexity": perplexity, "hidden": len(found)}

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        return {}

    def hf_config(self) -> dict[str, Any]:
        return {}


def build(options: config.MaskedLM) -> MaskedLM:
    return MaskedLM(options)


def read(options: config.MaskedLM, split: Split, labelled: bool) -> Split:
    """Checks every text."""
    from jaxft.data.sources import check_text, require_columns

    require_columns(split, {"task.text": options.text})
    check_text(split, options.text)
    return split


def resolve(options: config.MaskedLM, splits: Mapping[str, Split]) -> config.MaskedLM:
    return options
