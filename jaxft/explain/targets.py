"""What is explained: a number that a model has for a row, or for a word of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxft import config
from jaxft.errors import UserError, nearest
from jaxft.metrics.probabilities import sigmoid
from jaxft.tables.sequence_classification import LIKELY

Options = (
    config.SequenceClassification
    | config.TokenClassification
    | config.QuestionAnswering
    | config.SentenceEmbedding
    | config.CausalLM
    | config.MaskedLM
)
"""Options of the tasks whose answers can be explained."""

SCORE = "score"
"""The one output of a regression."""

SIMILARITY = "similarity"
"""The cosine of the vectors of two texts."""

ALL = "all"

NO_ENTITY = "O"

ENDS = ("start", "end")
"""What an answer to a question has: its first token is one, and its last one the other."""

NO_ANSWER = "no answer"
"""In place of the words of an answer that there is not, whose ends are the first token of all."""


class Aim(NamedTuple):
    """A target: an entry of the logits of a row, of a word's, or of those of both ends of an answer.

    Attributes:
      label: its name, `SCORE`, or one of `ENDS`.
      entry: its number.
      word: whose tag it is, or the answer; None: it is of the row.
      token: which of the row's tokens has the logits of the word or of the end; 0 where there is none.
    """

    label: str
    entry: int
    word: str | None = None
    token: int = 0

    def of(self, logits: np.ndarray) -> np.ndarray:
        """Returns the logits that it is an entry of, `[..., labels]`.

        Args:
          logits: of the row, `[..., labels]`; of its tokens, `[..., tokens, labels]`.
        """
        return logits if self.word is None else logits[..., self.token, :]


def per_token(kinds: Mapping[str, str]) -> bool:
    """Returns whether the logits of a task, whose `Task.outputs` these are, are of each token."""
    return "token" in kinds.values()


def logits_of(outputs: Mapping[str, Any], stack: Any = np.stack) -> Any:
    """Returns the logits among the outputs of a model; of answers to questions those of `ENDS`, `[..., 2]`.

    Of vectors it is the cosine of each of `[2 n, width]`, a text of the first column, with the next, `[n, 1]`.

    Args:
      stack: numpy's, or jax's of outputs that are traced.
    """
    if "embeddings" in outputs:
        vectors = outputs["embeddings"]
        return (vectors[::2] * vectors[1::2]).sum(-1, keepdims=True)
    return outputs["logits"] if "logits" in outputs else stack([outputs[f"{end}_logits"] for end in ENDS], -1)


def picked(logits: np.ndarray, aims: Sequence[Aim]) -> np.ndarray:
    """Returns the targets of ablations of a row, `[ablations, targets]`, in float64.

    Args:
      logits: `[ablations, labels]`, or `[ablations, tokens, labels]`.
    """
    found = [aim.of(logits)[:, aim.entry] for aim in aims]
    return np.stack(found, axis=1).astype(np.float64) if found else np.zeros((len(logits), 0))


def of_row(target: str, options: config.SequenceClassification, logits: np.ndarray) -> list[Aim]:
    """Returns the labels of a row that are asked for; of several predicted labels, all.

    Args:
      target: see `jaxft.explain.options.Options`.
      logits: `[labels]`, of the row.

    Raises:
      UserError: a label that there is not.
    """
    labels = options.labels or (SCORE,)
    if target == ALL and ALL not in labels:
        entries = list(range(len(labels)))
    elif target:
        names = [target] if target in labels else listed(target)
        for name in names:
            if name not in labels:
                raise UserError(f"explain.target {name!r}: the model has no such label; {nearest(name, labels)}")
        entries = [labels.index(name) for name in names]
    else:
        entries = [int(logits.argmax())]
        if options.problem == "multi_label":
            least = np.asarray(options.thresholds or [LIKELY] * len(labels))
            held = np.flatnonzero(sigmoid(logits) >= least)
            entries = [int(one) for one in held] if len(held) else entries
    return [Aim(labels[entry], entry) for entry in entries]


def of_pair(target: str) -> list[Aim]:
    """Returns the similarity of two texts.

    Args:
      target: see `jaxft.explain.options.Options`.

    Raises:
      UserError: another target.
    """
    if target not in ("", ALL, SIMILARITY):
        raise UserError(f"explain.target {target!r}: what two texts have is their {SIMILARITY}; leave it out")
    return [Aim(SIMILARITY, 0)]


def of_words(
    target: str, options: config.TokenClassification, answer: Mapping[str, Any], places: Sequence[int | None]
) -> list[Aim]:
    """Returns the tags of a row's words that are asked for; there may be none.

    Args:
      target: see `jaxft.explain.options.Options`.
      answer: of the row, as its table predicts it: `words` and `prediction`, a tag a word.
      places: of each word the token that has its logits; None: it has none.

    Raises:
      UserError: a tag that there is not.
    """
    words, tags = answer["words"], answer["prediction"]
    word, equals, asked = target.rpartition("=")
    if equals and target not in options.labels:
        _check_tags([asked], options.labels)
        wanted = [(n, asked) for n, one in enumerate(words) if one == word]
    elif target and target != ALL:
        names = [target] if target in options.labels else listed(target)
        _check_tags(names, options.labels)
        wanted = [(n, tag) for n, tag in enumerate(tags) if tag in names]
    else:
        wanted = [(n, tag) for n, tag in enumerate(tags) if target == ALL or tag != NO_ENTITY]
    told = ((n, tag, places[n]) for n, tag in wanted)
    return [Aim(tag, options.labels.index(tag), words[n], at) for n, tag, at in told if at is not None]


def of_answer(
    target: str, answer: Mapping[str, Any], places: tuple[np.ndarray, np.ndarray], logits: np.ndarray
) -> list[Aim]:
    """Returns the ends of the answer to a question that are asked for; of no answer, those of the first token.

    Args:
      target: see `jaxft.explain.options.Options`.
      answer: as its table predicts it: `prediction`, `start` and `end`.
      places: of each token of the context the characters that it begins at and ends before, `[tokens]` each; -1 else.
      logits: of `ENDS`, `[tokens, 2]`.

    Raises:
      UserError: a target that is no end.
    """
    names = ENDS if target in ("", ALL) else listed(target)
    found = []
    for name in names:
        if name not in ENDS:
            raise UserError(f"explain.target {name!r}: an answer has a start and an end; take one of them, or none")
        entry, at = ENDS.index(name), 0
        if answer["start"] is not None:  # of several tokens of one character that of the span, the strongest
            there = np.flatnonzero(places[entry] == answer[name])
            at = int(there[logits[there, entry].argmax()])
        found.append(Aim(name, entry, answer["prediction"] or NO_ANSWER, at))
    return found


def listed(target: str) -> list[str]:
    """Returns the names in a list that is set off by commas."""
    return [name.strip() for name in target.split(",") if name.strip()]


def _check_tags(names: Sequence[str], labels: Sequence[str]) -> None:
    for name in names:
        if name not in labels:
            hint = f"{nearest(name, labels)}; of one word write WORD=TAG"
            raise UserError(f"explain.target {name!r}: the model has no such tag; {hint}")
