"""Tag each word of a text: named entities, parts of speech.

The first token of each word carries its tag. Head and loss are those of BertForTokenClassification
(transformers, modeling_bert.py).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxft import config
from jaxft.batch import Target
from jaxft.errors import UserError, nearest
from jaxft.models import Head, Model, nn
from jaxft.tasks.base import Host, Steady, softmax
from jaxft.tasks.losses import cross_entropy
from jaxft.types import Array, Batch, Outputs, Params

if TYPE_CHECKING:
    from jaxft.data.features import Features
    from jaxft.data.sources import Split

IGNORED = -100
"""The label of a token that carries no tag, as in PyTorch."""


@dataclasses.dataclass(frozen=True)
class TokenClassification(Steady):
    """See `jaxft.tasks.base.Task`. Its tables are as `jaxft.data.words.read` makes them."""

    options: config.TokenClassification
    head: str = "ForTokenClassification"
    words: bool = True
    pipeline: str = "token-classification"
    lower: frozenset[str] = frozenset({"ece"})
    usage: str = """from transformers import pipeline

predict = pipeline("token-classification", model="path/to/this/directory", aggregation_strategy="first")
print(predict("A text."))"""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.options.labels

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"labels": Target("token", np.int32, IGNORED)}

    @property
    def outputs(self) -> Mapping[str, str]:
        return {"logits": "token"}

    @property
    def metric(self) -> str:
        return "f1" if self.options.problem == "entities" else "accuracy"

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.options.tokens,)

    def param_spec(self, model: Model) -> nn.Spec:
        return model.param_spec(self._head(model))

    def _head(self, model: Model) -> Head:
        return model.head("token", outputs=len(self.labels))

    def forward(self, params: Params, model: Model, batch: Batch, run: nn.Run) -> Outputs:
        return {"logits": model.of_tokens(self._head(model), params, batch, run)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """-log softmax(logits)[label], summed over the tokens that carry a tag; and their number."""
        tagged = (batch["labels"] != IGNORED).astype(jnp.float32)
        return cross_entropy(outputs["logits"], jnp.maximum(batch["labels"], 0), tagged)

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        """`words` is the word whose tag is read off a token, counted within its row; -1 for any other token."""
        from jaxft.data import windows

        words = split.table[self.options.tokens].to_pylist()
        options = {"max_length": max_length, "stride": self.options.stride, "is_split_into_words": True}
        encodings, rows = windows.encode(tokenizer, words, **options)
        seen: list[list[int]] = []
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows)) + 1):
            seen += windows.best_seen([encodings[i].word_ids for i in part])
        columns = {"input_ids": [e.ids for e in encodings], "token_type_ids": [e.type_ids for e in encodings]}
        columns |= {"words": seen, "row": rows}
        if labelled:
            ids = {name: i for i, name in enumerate(self.labels)}
            labels = [[ids[tag] for tag in tags] for tags in split.table[self.options.tags].to_pylist()]
            columns["labels"] = [
                [labels[row][word] if word >= 0 else IGNORED for word in part]
                for row, part in zip(rows, seen, strict=True)
            ]
        return columns

    def _probabilities(self, outputs: Host, features: Features, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Of each tag for each word, `[words, tags]`; and `[rows + 1]`, where the words of each row begin in that.

        A word of which the tokenizer leaves nothing, such as a control character, is no entity.
        """
        sizes = [len(words) for words in split.table[self.options.tokens].to_pylist()]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        nothing = self.labels.index("O") if "O" in self.labels else 0
        found = np.tile(np.eye(len(self.labels))[nothing], (bounds[-1], 1))
        words = features.tokens["words"]
        rows = np.repeat(features.examples["row"], features.lengths)
        seen = words >= 0
        found[bounds[rows[seen]] + words[seen]] = softmax(outputs["logits"][seen])
        return found, bounds

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        from jaxft.data import tags as schemes
        from jaxft.metrics import classification, entities

        probabilities, bounds = self._probabilities(outputs, features, split)
        tags = split.table[self.options.tags].to_pylist()
        ids = {name: i for i, name in enumerate(self.labels)}
        labels = np.asarray([ids[tag] for part in tags for tag in part], np.int64)
        if self.options.problem == "words":
            return classification.single_label(labels, probabilities, self.labels)
        predicted = self._tags(probabilities, bounds)
        found = entities.scores([schemes.read(part) for part in tags], [schemes.read(part) for part in predicted])
        return {"accuracy": float(np.mean(labels == probabilities.argmax(-1)))} | found

    def _tags(self, probabilities: np.ndarray, bounds: np.ndarray) -> list[list[str]]:
        best = [self.labels[i] for i in probabilities.argmax(-1)]
        return [best[low:high] for low, high in itertools.pairwise(bounds)]

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """`prediction`, a tag a word; of entities also each one's ends in the text (or the words, joined by blanks)
        and its score, the mean probability of its words' tags; else `words` and the `probabilities` of their tags.
        """
        from jaxft.data import tags as schemes
        from jaxft.data.words import STARTS, TEXT

        probabilities, bounds = self._probabilities(outputs, features, split)
        best = np.split(probabilities.max(-1), bounds[1:-1])
        rows = zip(split.table.to_pylist(), self._tags(probabilities, bounds), best, strict=True)
        for row, tags, scores in rows:
            words, text, starts = (row[name] for name in (self.options.tokens, TEXT, STARTS))
            answer: dict[str, Any] = {"prediction": tags, "words": words}
            if self.options.problem == "words":
                yield answer | {"probabilities": scores.tolist()}
                continue
            answer["entities"] = []
            for label, first, last in schemes.read(tags):
                start, end = starts[first], starts[last - 1] + len(words[last - 1])
                place = {"label": label, "text": text[start:end], "start": start, "end": end}
                answer["entities"].append(place | {"score": float(scores[first:last].mean())})
            yield answer

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        if self.options.problem == "words":
            return {"names": self.labels}
        return {"names": sorted({tag[2:] for tag in self.labels if tag != "O"})}

    def hf_config(self) -> dict[str, Any]:
        return {
            "id2label": {str(i): name for i, name in enumerate(self.labels)},
            "label2id": {name: i for i, name in enumerate(self.labels)},
        }


def build(options: config.TokenClassification) -> TokenClassification:
    return TokenClassification(options)


def read(options: config.TokenClassification, split: Split, labelled: bool) -> Split:
    from jaxft.data import words

    return words.read(options, split, labelled)


def resolve(options: config.TokenClassification, splits: Mapping[str, Split]) -> config.TokenClassification:
    """Finds out whether tags are entities, and lists them: those given, or the training data's.

    Of entities there is then each prefix that occurs with each type, so that no rare combination is unknown.
    """
    from jaxft.data import tags as schemes
    from jaxft.data.words import check_tag

    tags = [split.table[options.tags].to_pylist() for split in splits.values()]
    there = sorted({tag for part in tags[list(splits).index("train")] for tag in part})
    plain = not any(schemes.TAG.fullmatch(tag) and tag != "O" for tag in there)
    words = options.problem == "words" or (options.problem == "auto" and plain)
    if not words:
        for split, column in zip(splits.values(), tags, strict=True):
            for row, part in enumerate(column):
                for tag in part:
                    check_tag(tag, options.tags, split.where(row))
        pairs = {tag.partition("-")[::2] for tag in there if tag != "O"}
        there = ["O", *(f"{p}-{t}" for t in sorted({t for _, t in pairs}) for p in sorted({p for p, _ in pairs}))]
    labels = options.labels or tuple(there)
    if len(labels) == 1:
        raise UserError(f"{splits['train'].origin}: all tags in {options.tags!r} are {labels[0]!r}; it takes two")
    known = "config.task.labels" if options.labels else f"those of {splits['train'].origin}"
    for split, column in zip(splits.values(), tags, strict=True):
        for row, part in enumerate(column):
            for tag in set(part) - set(labels):
                raise UserError(f"{split.where(row)}: tag {tag!r} is not among {known}; {nearest(tag, labels)}")
    return dataclasses.replace(options, labels=labels, problem="words" if words else "entities")


def assume(options: config.TokenClassification) -> dict[str, Any]:
    """Two tags that are no entities."""
    known = {"problem": "words"} if options.problem == "auto" else {}
    return known | ({} if options.labels else {"labels": ("0", "1")})
