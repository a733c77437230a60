"""Texts whose words are tagged: named entities, parts of speech. Tables are as `words.read` makes them."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxft import config
from jaxft.batch import IGNORED
from jaxft.data import tags as schemes
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError, nearest
from jaxft.metrics import classification, entities
from jaxft.metrics.probabilities import softmax
from jaxft.models import Model
from jaxft.tables import means, weighting, windows, words
from jaxft.tables.base import Host, Published, Table, named
from jaxft.tables.words import STARTS, TEXT

USAGE = """from transformers import pipeline

predict = pipeline("token-classification", model="path/to/this/directory", aggregation_strategy="first")
print(predict("A text."))"""


@dataclasses.dataclass(frozen=True)
class TokenClassification(Table):
    options: config.TokenClassification
    words: bool = True
    lower: frozenset[str] = frozenset({"ece"})

    @property
    def metric(self) -> str:
        return "f1" if self.options.problem == "entities" else "accuracy"

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.options.tokens,)

    def read(self, split: Split, labelled: bool = True) -> Split:
        return words.read(self.options, split, labelled)

    def resolve(self, splits: Mapping[str, Split]) -> config.TokenClassification:
        """Says whether tags are entities, and lists them: those given, or the training data's.

        Of entities there is then each prefix that occurs with each type, so that no rare combination is unknown.
        """
        options = self.options
        tags = [split.table[options.tags].to_pylist() for split in splits.values()]
        there = sorted({tag for part in tags[list(splits).index("train")] for tag in part})
        entities_there = any(schemes.TAG.fullmatch(tag) and tag != "O" for tag in there)
        plain = options.problem == "words" or (options.problem == "auto" and not entities_there)
        if not plain:
            for split, column in zip(splits.values(), tags, strict=True):
                for row, part in enumerate(column):
                    for tag in part:
                        words.check_tag(tag, options.tags, split.where(row))
            pairs = {tag.partition("-")[::2] for tag in there if tag != "O"}
            there = ["O", *(f"{p}-{t}" for t in sorted({t for _, t in pairs}) for p in sorted({p for p, _ in pairs}))]
        labels = options.labels or tuple(there)
        if len(labels) == 1:
            raise UserError(f"{splits['train'].origin}: all tags in {options.tags!r} are {labels[0]!r}; it takes two")
        known = "config.task.labels" if options.labels else f"those of {splits['train'].origin}"
        for split in splits.values():
            _check_known(split, options.tags, labels, known)
        weighting.check(options, "single_label")
        count = Counter(tag for part in tags[list(splits).index("train")] for tag in part)
        weights = weighting.of_counts(options, np.asarray([count[name] for name in labels]))
        if len(weights) not in (0, len(labels)):
            told = f"config.task.class_weights has {len(weights)} numbers for {len(labels)} tags"
            raise UserError(f"{told}: {', '.join(labels)}")
        problem = "words" if plain else "entities"
        return dataclasses.replace(options, labels=labels, problem=problem, class_weights=weights)

    def check_labels(self, split: Split) -> None:
        _check_known(split, self.options.tags, self.options.labels, "those of the run")

    def assume(self) -> dict[str, Any]:
        """Returns two tags that are no entities."""
        known = {"problem": "words"} if self.options.problem == "auto" else {}
        return known | ({} if self.options.labels else {"labels": ("0", "1")})

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        """`words` is the word whose tag is read off a token, counted within its row; -1 for any other token."""
        words = split.table[self.options.tokens].to_pylist()
        options = {"max_length": max_length, "stride": self.options.stride, "is_split_into_words": True}
        encodings, rows = windows.encode(tokenizer, words, **options)
        seen: list[list[int]] = []
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows)) + 1):
            seen += windows.best_seen([encodings[i].word_ids for i in part])
        columns = {"input_ids": [e.ids for e in encodings], "token_type_ids": [e.type_ids for e in encodings]}
        columns |= {"words": seen, "row": rows}
        if labelled:
            ids = {name: i for i, name in enumerate(self.options.labels)}
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
        nothing = self.options.labels.index("O") if "O" in self.options.labels else 0
        found = np.tile(np.eye(len(self.options.labels))[nothing], (bounds[-1], 1))
        words = features.tokens["words"]
        rows = np.repeat(features.examples["row"], features.lengths)
        seen = words >= 0
        found[bounds[rows[seen]] + words[seen]] = softmax(outputs["logits"][seen])
        return found, bounds

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        probabilities, bounds = self._probabilities(outputs, features, split)
        tags = split.table[self.options.tags].to_pylist()
        ids = {name: i for i, name in enumerate(self.options.labels)}
        labels = np.asarray([ids[tag] for part in tags for tag in part], np.int64)
        if self.options.problem == "words":
            return classification.single_label(labels, probabilities, self.options.labels)
        predicted = self._tags(probabilities, bounds)
        found = entities.scores([schemes.read(part) for part in tags], [schemes.read(part) for part in predicted])
        return {"accuracy": float(np.mean(labels == probabilities.argmax(-1)))} | found

    def mean(self, several: Sequence[Host], features: Features) -> Host:
        return {"logits": means.of_classes(np.stack([outputs["logits"] for outputs in several]))}

    def _tags(self, probabilities: np.ndarray, bounds: np.ndarray) -> list[list[str]]:
        best = [self.options.labels[i] for i in probabilities.argmax(-1)]
        return [best[low:high] for low, high in itertools.pairwise(bounds)]

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """`prediction`, a tag a word; of entities also each one's ends in the text (or the words, joined by blanks)
        and its score, the mean probability of its words' tags; else `words` and the `probabilities` of their tags.
        """
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

    def errors(self, outputs: Host, features: Features, split: Split) -> np.ndarray:
        """A row is wrong where the tag of any of its words is."""
        predicted = self._tags(*self._probabilities(outputs, features, split))
        return np.asarray([a != b for a, b in zip(predicted, split.table[self.options.tags].to_pylist(), strict=True)])

    def plots(self, outputs: Host, features: Features, split: Split) -> dict[str, Any]:
        if self.options.problem == "words":
            return {"names": self.options.labels}
        return {"names": sorted({tag[2:] for tag in self.options.labels if tag != "O"})}

    def published(self, model: Model, max_length: int) -> Published:
        return Published("token-classification", USAGE, named(self.options.labels))


def _check_known(split: Split, column: str, labels: Sequence[str], known: str) -> None:
    """Raises UserError where a tag is not among the labels, which `known` calls by name."""
    for row, part in enumerate(split.table[column].to_pylist()):
        for tag in sorted(set(part) - set(labels)):
            raise UserError(f"{split.where(row)}: tag {tag!r} is not among {known}; {nearest(tag, labels)}")
