"""Texts that belong together, perhaps one that does not; or two and a score.

An example is one text, or a window of one; the texts of a row of the table stay together.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data.columns import with_scores, with_text
from jaxft.data.features import Features
from jaxft.data.sources import Split, require_columns
from jaxft.errors import UserError
from jaxft.metrics import classification, retrieval
from jaxft.models import Model
from jaxft.tables import means, windows
from jaxft.tables.base import Host, Published, Table

USAGE = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/directory")
print(model.encode(["A text."]))"""

OF_WINDOWS = """import torch
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/directory")
cut = dict(truncation=True, max_length={max_length}, stride={stride}, return_overflowing_tokens=True)
windows = model.tokenizer("A long text.", **cut, padding=True, return_tensors="pt")
windows.pop("overflow_to_sample_mapping")
with torch.no_grad():
    vectors = model(dict(windows))["sentence_embedding"]
print(torch.nn.functional.normalize(vectors.mean(0), dim=0))  # of the text"""


@dataclasses.dataclass(frozen=True)
class SentenceEmbedding(Table):
    options: config.SentenceEmbedding
    lower: frozenset[str] = frozenset({"mse"})

    @property
    def metric(self) -> str:
        return "spearman" if self.options.score else "mrr@10"

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.options.texts[:1]

    @property
    def apart(self) -> bool:
        return bool(self.options.score)

    @property
    def examples(self) -> int:
        return len(self.options.texts)

    def read(self, split: Split, labelled: bool = True) -> Split:
        names = self.options.texts if labelled else self.options.texts[:1]
        most = 2 if self.options.score else 3
        if not 2 <= len(self.options.texts) <= most:
            raise UserError(
                f"config.task.texts names {len(self.options.texts)} columns; it must name two{' or three' * (most > 2)}"
            )
        require_columns(split, {f"task.texts[{i}]": name for i, name in enumerate(names)})
        require_columns(split, {"task.score": self.options.score} if labelled else {})
        for name in names:
            split = with_text(split, name)
        if labelled and self.options.score:
            split = with_scores(split, self.options.score, "score")
            for row, value in enumerate(split.table[self.options.score].to_pylist()):
                if not -1 <= value <= 1:
                    hint = "it must be a number from -1 to 1; divide by the largest"
                    raise UserError(f"{split.where(row)}: score {value!r} in {self.options.score!r}; {hint}")
        return split

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        names = self.options.texts if labelled else self.inputs
        columns = [split.table[name].to_pylist() for name in names]
        texts = [text for row in zip(*columns, strict=True) for text in row]
        number = np.arange(len(texts))
        if self.options.windows:
            encodings, number = windows.encode(tokenizer, texts, max_length=max_length, stride=self.options.stride)
            found: dict[str, Any] = {"input_ids": [e.ids for e in encodings], "text": number}
            found["token_type_ids"] = [e.type_ids for e in encodings]
        else:
            encoded = tokenizer(
                texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=True
            )
            found = {name: encoded[name] for name in ("input_ids", "token_type_ids")}
        found["row"] = number // len(names)
        if not self.options.score:
            found["twins"] = _alike(found["input_ids"], number)
        elif labelled:
            found["scores"] = np.asarray(split.table[self.options.score], np.float32)[found["row"]]
        return found

    def _of_texts(self, column: np.ndarray, features: Features) -> np.ndarray:
        """Of each text what its first window has; all its windows have the same."""
        return column[_first(features.examples["text"])] if self.options.windows else column

    def mean(self, several: Sequence[Host], features: Features) -> Host:
        return {"embeddings": means.of_vectors(np.stack([outputs["embeddings"] for outputs in several]))}

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        size = len(self.options.texts)
        vectors = self._of_texts(outputs["embeddings"], features)
        vectors = vectors.reshape(-1, size, vectors.shape[-1])
        if self.options.score:
            cosines = (vectors[:, 0] * vectors[:, 1]).sum(-1)
            return classification.regression(self._of_texts(features.examples["scores"], features)[::size], cosines)
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
        vectors = self._of_texts(outputs["embeddings"], features).astype(np.float64)
        yield from ({"embedding": vector.tolist()} for vector in vectors)

    def published(self, model: Model, max_length: int) -> Published:
        """Returns what makes the export a model of sentence-transformers."""
        module = "sentence_transformers.models."
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": module + kind}
            for i, (path, kind) in enumerate(kinds.items())
        ]
        pooling = {"word_embedding_dimension": model.facts.width}
        pooling |= {
            f"pooling_mode_{mode}": mode.startswith(self.options.pooling)
            for mode in ("cls_token", "mean_tokens", "lasttoken")
        }
        files = {
            "modules.json": modules,
            "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
            "1_Pooling/config.json": pooling,
            "2_Normalize/config.json": {},
        }
        cut = {"max_length": max_length, "stride": self.options.stride}
        usage = OF_WINDOWS.format(**cut) if self.options.windows else USAGE
        settings = {"windows": {"combine": self.options.windows, **cut}} if self.options.windows else {}
        return Published("sentence-similarity", usage, settings, files, "sentence-transformers")


def _first(number: np.ndarray) -> np.ndarray:
    """Where each number stands for the first time, of numbers that ascend."""
    return np.flatnonzero(np.diff(number, prepend=-1))


def _alike(ids: Sequence[Sequence[int]], number: np.ndarray) -> np.ndarray:
    """Of each window, which is of text `number`, a number of its text that texts of the same tokens share."""
    sums = [zlib.crc32(np.asarray(each, np.int32).tobytes()) for each in ids]
    first = _first(number)
    texts = [zlib.crc32(np.asarray(part, np.uint32).tobytes()) for part in np.split(np.asarray(sums), first[1:])]
    return np.asarray(texts, np.uint32).view(np.int32)[number]
