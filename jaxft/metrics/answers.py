"""Answers to questions: the best spans of a text, and how well they agree with the true ones.

The measures are those of SQuAD's evaluate-v2.0.py (Rajpurkar et al. 2018), from which those of evaluate-v1.1.py differ
only for true answers of articles and punctuation alone; and of CMRC's cmrc2018_evaluate.py (Cui et al. 2019).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")

CHINESE_PUNCTUATION = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
SEGMENT = re.compile(r"[\u4e00-\u9fa5]|(?:(?![\u4e00-\u9fa5])\w)+|[^\w\s]")


class Window(NamedTuple):
    """What a model says of the tokens of one window of a text, and where they lie in it; arrays `[tokens]`.

    `null` is the score of the answer that there is none.
    """

    starts: np.ndarray
    ends: np.ndarray
    first: np.ndarray
    last: np.ndarray
    null: float


class Span(NamedTuple):
    """A part of a text: its first character, its last plus one, and its score, the sum of two logits."""

    start: int
    end: int
    score: float


def best_spans(windows: Sequence[Window], count: int, longest: int) -> list[Span]:
    """The spans of at most `longest` tokens that score best, at most `count`, the best first.

    A span that several windows hold counts with its best score.
    """
    best: dict[tuple[int, int], float] = {}
    for window in windows:
        size = len(window.starts)
        ends = np.arange(size)[:, None] + np.arange(min(longest, size))  # of each start, the ends that are near enough
        inside = ends < size
        ends = np.minimum(ends, size - 1)
        scores = np.where(inside, window.starts[:, None] + window.ends[ends], -np.inf).ravel()
        kept = min(count, int(inside.sum()))
        for at in np.argpartition(-scores, kept - 1)[:kept] if kept else ():
            start, end = int(at) // ends.shape[1], int(ends.flat[at])
            place = int(window.first[start]), int(window.last[end])
            best[place] = max(float(scores[at]), best.get(place, -np.inf))
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    return [Span(*place, score) for place, score in ranked[:count]]


def normalized(answer: str) -> str:
    """In lower case, without ASCII punctuation and English articles, single blanks between the words."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def squad(true: str, predicted: str) -> tuple[float, float]:
    """Whether two answers are the same once normalized; and F1 of the words that they share, with repetition.

    Where one of them has no words F1 is 1 if the other has none either.
    """
    there, here = normalized(true).split(), normalized(predicted).split()
    shared = sum((Counter(there) & Counter(here)).values())
    if not there or not here:
        return float(there == here), float(there == here)
    return float(there == here), 2 * shared / (len(there) + len(here))


def cmrc(true: str, predicted: str) -> tuple[float, float]:
    """The same for Chinese: F1 of the longest run of segments that two answers share.

    A Chinese character is a segment, and so is any other word; Chinese punctuation does not count. (The script takes
    NLTK for the words between Chinese characters; here they are runs of letters and digits.)
    """
    there, here = (text.lower().strip().translate(CHINESE_PUNCTUATION) for text in (true, predicted))
    a, b = SEGMENT.findall(there), SEGMENT.findall(here)
    longest, before = 0, [0] * (len(b) + 1)
    for segment in a:
        row = [0]
        for at, other in enumerate(b):
            row.append(before[at] + 1 if segment == other else 0)
        longest, before = max(longest, *row), row
    return float(there == here), 2 * longest / (len(a) + len(b)) if longest else float(there == here)


MEASURES = {"words": squad, "characters": cmrc}


def scores(
    true: Sequence[Sequence[str]], predicted: Sequence[str], doubts: Sequence[float], threshold: float | None, unit: str
) -> dict[str, float]:
    """How well answers agree with the true ones, of which the best counts.

    Args:
      true: the answers to each question; none: it has no answer, and the right prediction is an empty one.
      predicted: the best answer that is not empty.
      doubts: by how much the empty answer scores above it.
      threshold: a larger doubt makes the prediction empty; None: that of the highest F1.
      unit: what F1 counts, one of `MEASURES`.

    Returns:
      `exact` and `f1`, means over all questions. Where some have no answer also `{exact,f1}_answerable`,
      `{exact,f1}_unanswerable`, and what the best threshold would reach: `{exact,f1}_best` and
      `{exact,f1}_best_threshold`. And `threshold/no_answer`, where it was to be chosen.
    """
    measure = MEASURES[unit]

    def one(answers: Sequence[str], prediction: str) -> tuple[float, float]:
        found = [measure(answer, prediction) for answer in answers]
        return max(exact for exact, _ in found), max(f1 for _, f1 in found)

    golds = _counted(true, unit)
    full = np.asarray([one(*pair) for pair in zip(golds, predicted, strict=True)])
    empty = np.asarray([one(answers, "") for answers in golds])
    order, results = np.argsort(doubts, kind="stable"), {}
    tuned = [best_threshold(np.asarray(doubts)[order], (full - empty)[order, at]) for at in range(2)]
    if threshold is None:
        threshold = results["threshold/no_answer"] = tuned[1][1]
    values = np.where((np.asarray(doubts) <= threshold)[:, None], full, empty)
    names, means = ("exact", "f1"), values.mean(0)
    results |= dict(zip(names, map(float, means), strict=True))
    has = np.asarray([bool(part) for part in true])
    if has.all():
        return results
    for group, chosen in (("answerable", has), ("unanswerable", ~has)):
        if chosen.any():
            results |= {f"{n}_{group}": float(v) for n, v in zip(names, values[chosen].mean(0), strict=True)}
    for name, least, (gain, where) in zip(names, empty.mean(0), tuned, strict=True):
        results |= {f"{name}_best": float(least + gain / len(has)), f"{name}_best_threshold": where}
    return results


def exact(true: Sequence[Sequence[str]], predicted: Sequence[str], unit: str) -> np.ndarray:
    """Returns whether each prediction is one of the true answers, `[n]`; an empty one where there are none.

    Arguments as of `scores`, but that a prediction may be empty.
    """
    pairs = zip(_counted(true, unit), predicted, strict=True)
    return np.asarray([any(MEASURES[unit](answer, one)[0] for answer in golds) for golds, one in pairs], bool)


def _counted(true: Sequence[Sequence[str]], unit: str) -> list[list[str]]:
    """As the script does: true answers of which nothing is left count as none."""
    return [[a for a in part if unit != "words" or normalized(a)] or [""] for part in true]


def best_threshold(doubts: np.ndarray, gains: np.ndarray) -> tuple[float, float]:
    """The most that answering the questions whose doubt is at or below some threshold can gain; and that threshold.

    It lies midway between two doubts, so that rounding does not matter.

    Args:
      doubts: `[n]`, ascending.
      gains: `[n]`, by answering each.
    """
    total = np.cumsum(gains)
    whole = np.append(np.diff(doubts) > 0, True)  # questions of one doubt are answered together
    at = int(np.where(whole, total, -np.inf).argmax())
    if total[at] <= 0:
        return 0.0, float(doubts[0]) - 1
    return float(total[at]), float(np.mean(doubts[at : at + 2])) if at + 1 < len(doubts) else float(doubts[at]) + 1
