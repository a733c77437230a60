"""Questions, contexts that may answer them, and answers. Tables are as `questions.read` makes them."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxft import config
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.metrics import answers
from jaxft.metrics.answers import Span, Window, best_spans
from jaxft.models import Model
from jaxft.tables import means, questions, windows
from jaxft.tables.base import Host, Published, Table, named
from jaxft.tables.questions import STARTS, TEXTS

USAGE = """from transformers import AutoModelForQuestionAnswering, AutoTokenizer

path = "path/to/this/directory"
tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForQuestionAnswering.from_pretrained(path)
inputs = tokenizer("A question?", "A text that answers it.", return_tensors="pt")
found = model(**inputs)
start, end = found.start_logits.argmax(), found.end_logits.argmax()
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))"""


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(Table):
    options: config.QuestionAnswering
    metric: str = "f1"

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.options.question, self.options.context)

    def read(self, split: Split, labelled: bool = True) -> Split:
        return questions.read(self.options, split, labelled)

    def resolve(self, splits: Mapping[str, Split]) -> config.QuestionAnswering:
        """Says whether some questions have no answer."""
        answered = [bool(part) for part in splits["train"].table[TEXTS].to_pylist()]
        if not any(answered):
            raise UserError(f"{splits['train'].origin}: no question in {self.options.answers!r} has an answer")
        if self.options.unanswerable != "auto":
            return self.options
        return dataclasses.replace(self.options, unanswerable="no" if all(answered) else "yes")

    def assume(self) -> dict[str, Any]:
        """Returns that every question has an answer."""
        return {"unanswerable": "no"} if self.options.unanswerable == "auto" else {}

    def features(self, split: Split, tokenizer: Any, max_length: int, labelled: bool = True) -> dict[str, Any]:
        """`first` and `last` are the characters that a token of the context begins at and ends before; -1 elsewhere.

        A window that does not hold the whole first answer is labelled with [CLS], as is a question without an answer.
        """
        asked, contexts = (split.table[name].to_pylist() for name in self.inputs)
        asked, used = _shortened(asked, tokenizer, self.options.question_length)
        given = {"max_length": max_length, "stride": self.options.stride, "used": used}
        encodings, rows = windows.encode(tokenizer, asked, contexts, **given)
        columns: dict[str, Any] = {"input_ids": [e.ids for e in encodings], "row": rows}
        columns |= {"token_type_ids": [e.type_ids for e in encodings]}
        inside = [[i == 1 for i in e.sequence_ids] for e in encodings]
        places = [
            [visible(contexts[row], *place) if own else (-1, -1) for place, own in zip(e.offsets, part, strict=True)]
            for e, part, row in zip(encodings, inside, rows, strict=True)
        ]
        for at, name in enumerate(("first", "last")):
            columns[name] = [[place[at] for place in part] for part in places]
        if labelled:
            known = list(zip(split.table[TEXTS].to_pylist(), split.table[STARTS].to_pylist(), strict=True))
            ends = [
                _positions(first, last, *known[row])
                for first, last, row in zip(columns["first"], columns["last"], rows, strict=True)
            ]
            columns["start_positions"], columns["end_positions"] = np.asarray(ends, np.int32).T.copy()
        return columns

    def _spans(self, outputs: Host, features: Features) -> Iterator[tuple[list[Span], float]]:
        """Of each question its best spans, and by how much no answer scores above the best of them."""
        columns = (outputs["start_logits"], outputs["end_logits"], features.tokens["first"], features.tokens["last"])
        for row in range(len(features.bounds) - 1):
            windows = []
            for i in range(features.bounds[row], features.bounds[row + 1]):
                starts, ends, first, last = (c[features.offsets[i] : features.offsets[i + 1]] for c in columns)
                own = first >= 0
                windows.append(Window(starts[own], ends[own], first[own], last[own], float(starts[0] + ends[0])))
            spans = best_spans(windows, self.options.n_best, self.options.answer_length)
            best = spans[0].score if spans else -1e9
            yield spans, min(window.null for window in windows) - best

    def _limit(self) -> float | None:
        """A larger doubt means no answer; None: not chosen yet."""
        return self.options.null_threshold if self.options.unanswerable == "yes" else np.inf

    def metrics(self, outputs: Host, features: Features, split: Split) -> dict[str, float]:
        contexts, texts = split.table[self.options.context].to_pylist(), split.table[TEXTS].to_pylist()
        found = list(self._spans(outputs, features))
        best = [c[s[0].start : s[0].end] if s else "" for c, (s, _) in zip(contexts, found, strict=True)]
        doubts = [doubt for _, doubt in found]
        return answers.scores(texts, best, doubts, self._limit(), self.options.unit)

    def predictions(self, outputs: Host, features: Features, split: Split) -> Iterator[dict[str, Any]]:
        """`prediction` (empty where there is no answer), its ends in the context and its share of the `n_best`, by a
        softmax of their scores; where answers may be missing also `doubt`, the score of none less that of the best.
        """
        contexts, limit = split.table[self.options.context].to_pylist(), self._limit() or 0.0
        for context, (spans, doubt) in zip(contexts, self._spans(outputs, features), strict=True):
            scores = np.exp([span.score - spans[0].score for span in spans])
            listed = [
                {"text": context[s.start : s.end], "start": s.start, "end": s.end, "score": float(score)}
                for s, score in zip(spans, scores / scores.sum(), strict=True)
            ]
            answer = {"text": "", "start": None, "end": None, "score": None}
            if listed and doubt <= limit:
                answer = listed[0]
            known = {"doubt": float(doubt)} if self.options.unanswerable == "yes" else {}
            yield {"prediction": answer["text"], **{k: answer[k] for k in ("start", "end", "score")}, **known} | {
                "n_best": listed
            }

    def errors(self, outputs: Host, features: Features, split: Split) -> np.ndarray:
        """An answer is wrong where it is none of the true ones, as `exact` has it."""
        predicted = [answer["prediction"] for answer in self.predictions(outputs, features, split)]
        return ~answers.exact(split.table[TEXTS].to_pylist(), predicted, self.options.unit)

    def undecided(self) -> dict[str, float]:
        return self.thresholds() if self._limit() is None else {}

    def thresholds(self) -> dict[str, float]:
        return {"no_answer": self._limit() or 0.0} if self.options.unanswerable == "yes" else {}

    def mean(self, several: Sequence[Host], features: Features) -> Host:
        """A token's probability to be an end is one among the tokens of all windows of its question."""
        bounds = features.offsets[features.bounds]
        names = ("start_logits", "end_logits")
        return {name: means.of_groups(np.stack([outputs[name] for outputs in several]), bounds) for name in names}

    def decide(self, thresholds: Mapping[str, float]) -> QuestionAnswering:
        limit = thresholds.get("no_answer", self.options.null_threshold)
        return dataclasses.replace(self, options=dataclasses.replace(self.options, null_threshold=limit))

    def published(self, model: Model, max_length: int) -> Published:
        return Published("question-answering", USAGE, named(("LABEL_0", "LABEL_1")))


def _shortened(questions: list[str], tokenizer: Any, length: int) -> tuple[list[str], int]:
    """The questions cut at `length` tokens, and how many tokens the longest of them has."""
    encoded = tokenizer(
        questions, add_special_tokens=False, truncation=True, max_length=length, return_offsets_mapping=True
    )
    places = encoded["offset_mapping"]
    cut = [text[: part[-1][1]] if part else text for text, part in zip(questions, places, strict=True)]
    return cut, max(map(len, places))


def visible(text: str, first: int, last: int) -> tuple[int, int]:
    """Returns the ends of a token of a text without the blanks around it, and with the marks upon its last letter.

    Tokens of SentencePiece and of bytes begin with the blank before a word; BERT drops accents that are characters of
    their own. Of a token that is all blanks, the beginning is what follows it, and the end what comes before.
    """
    part = text[first:last]
    begin, end = last - len(part.lstrip()), first + len(part.rstrip())
    while end < len(text) and unicodedata.combining(text[end]):
        end += 1
    return begin, end


def _positions(first: list[int], last: list[int], texts: list[str], starts: list[int]) -> tuple[int, int]:
    """The first and the last token of the first answer; of [CLS] where the window does not hold it."""
    if not texts:
        return 0, 0
    start, end = starts[0], starts[0] + len(texts[0])
    inside = [at for at, place in enumerate(first) if place >= 0]
    held = [at for at in inside if last[at] > start and first[at] < end]
    if not held or first[inside[0]] > start or last[inside[-1]] < end:
        return 0, 0
    return held[0], held[-1]
