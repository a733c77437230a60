"""How near texts that were written are to those that were asked for: exact match, ROUGE, BLEU and chrF."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

ORDERS = 4
"""Runs of words that BLEU counts: of one to so many."""

LETTERS = 6
"""Runs of letters that chrF counts: of one to so many."""

RECALL = 2.0
"""How much more chrF counts recall than precision: beta."""

Grams = Callable[[str], Iterable[Counter]]
"""`text -> its runs of each length, the shortest first`."""


def measured(written: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Returns `exact_match` from 0 to 1, and `rouge1`, `rouge2`, `rougeL`, `bleu` and `chrf` from 0 to 100.

    Args:
      written, references: as many each, one or more; blanks around a text do not count.
    """
    pairs = [(one.strip(), other.strip()) for one, other in zip(written, references, strict=True)]
    return {
        "exact_match": float(np.mean([one == other for one, other in pairs])),
        **{f"rouge{size}": 100 * float(np.mean([rouge(*pair, size) for pair in pairs])) for size in (1, 2)},
        "rougeL": 100 * float(np.mean([rouge_l(*pair) for pair in pairs])),
        "bleu": bleu(pairs),
        "chrf": chrf(pairs),
    }


def words(text: str) -> list[str]:
    """Returns the words that ROUGE compares: letters and digits, small."""
    return re.findall(r"[^\W_]+", text.lower())


def rouge(written: str, reference: str, size: int) -> float:
    """Returns ROUGE-N (Lin 2004, section 2): F1 of the runs of `size` words, 0 to 1."""
    one, other = (_runs(words(text), size) for text in (written, reference))
    return _f1((one & other).total(), one.total(), other.total())


def rouge_l(written: str, reference: str) -> float:
    """Returns ROUGE-L (Lin 2004, section 3.1): F1 of the longest sequence of words that both texts have in order."""
    one, other = words(written), words(reference)
    longest = np.zeros(len(other) + 1, int)  # of what has been seen of the first text, and each beginning of the second
    for word in one:
        found = np.concatenate([[0], np.where(np.asarray(other, object) == word, longest[:-1] + 1, longest[1:])])
        longest = np.maximum.accumulate(found)
    return _f1(int(longest[-1]), len(one), len(other))


def bleu(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns BLEU of all pairs together (Papineni et al. 2002), 0 to 100, as sacrebleu has it by default (Post 2018).

    Words are those of mteval-v13a; where no run of a length is right, the first such counts as half a run, and each
    further one as half of that before it.
    """
    right, written, _ = _counts(pairs, lambda text: [_runs(_parted(text), size) for size in range(1, ORDERS + 1)])
    lengths = [sum(len(_parted(pair[at])) for pair in pairs) for at in (0, 1)]
    if not right[0] or not all(written):
        return 0.0
    total, half = 0.0, 1.0
    for hit, count in zip(right, written, strict=True):
        half *= 1 if hit else 2
        total += np.log(hit / count if hit else 1 / (half * count))
    short = min(0.0, 1 - lengths[1] / lengths[0])
    return 100 * float(np.exp(total / ORDERS + short))


def chrf(pairs: Sequence[tuple[str, str]]) -> float:
    """Returns chrF2 of all pairs together (Popovic 2015), 0 to 100: F of runs of letters, blanks left out.

    Precision and recall are the means over the lengths of runs that both sides have; what is written behind a reference
    shorter than a run does not count. So sacrebleu takes them.
    """

    def letters(text: str) -> list[Counter]:
        bare = "".join(text.split())
        return [_runs(bare, size) for size in range(1, LETTERS + 1)]

    right, written, asked = (np.asarray(counts, float) for counts in _counts(pairs, letters, both=True))
    there = written > 0
    if not there.any():
        return 0.0
    precision, recall = (right[there] / written[there]).mean(), (right[there] / asked[there]).mean()
    below = RECALL**2 * precision + recall
    return 100 * float((1 + RECALL**2) * precision * recall / below) if below else 0.0


def _counts(
    pairs: Sequence[tuple[str, str]], grams: Grams, both: bool = False
) -> tuple[list[int], list[int], list[int]]:
    """Of each length the runs that both texts of a pair have, those that are written, and those asked for.

    Args:
      both: whether those that are written count where some are asked for alone.
    """

    def count(a: Counter, b: Counter) -> tuple[int, int, int]:
        return (a & b).total(), 0 if both and not b else a.total(), b.total()

    counts = [[count(*of) for of in zip(grams(one), grams(other), strict=True)] for one, other in pairs]
    sums = np.asarray(counts).sum(0).T.tolist()
    return sums[0], sums[1], sums[2]


def _runs(parts: Sequence[str], size: int) -> Counter:
    return Counter(tuple(parts[at : at + size]) for at in range(len(parts) - size + 1))


def _parted(text: str) -> list[str]:
    """The words of mteval-v13a: marks are words of their own, but for points and commas within numbers."""
    for code, letter in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(code, letter)
    text = re.sub(r"([!-&(-+:-@/\[-`{-~])", r" \1 ", f" {text} ")
    text = re.sub(r"([^0-9])([.,])", r"\1 \2 ", text)
    text = re.sub(r"([.,])([^0-9])", r" \1 \2", text)
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text).split()


def _f1(right: int, written: int, asked: int) -> float:
    return 2 * right / (written + asked) if right else 0.0
