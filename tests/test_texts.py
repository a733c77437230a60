"""Metrics of texts that were written, against what sacrebleu 2.6.0 and rouge-score 0.1.2 say of them, and by hand."""

import pytest

from jaxft.metrics import texts

NAMES = ("rouge1", "rouge2", "rougeL", "bleu", "chrf")

# fmt: off
CASES = [
    (["It costs 1,000.50 dollars - or less!", "Run 10-20 times."],
     ["It costs 1,000.50 dollars, or more?", "Run 10 - 20 times, twice."],
     (88.194444, 85.714286, 88.194444, 46.935734, 70.023196)),
    (["a b c x y z w"], ["a b c d e f g"], (42.857143, 33.333333, 42.857143, 24.446151, 16.031746)),
    (['He said: "no &amp; yes" (twice).'], ['He said "no & yes" twice.'],
     (90.909091, 66.666667, 90.909091, 38.827268, 47.515717)),
    (["the cat sat on a mat"], ["the cat sat on the mat today, and slept"],
     (66.666667, 46.153846, 66.666667, 27.58513, 37.599388)),
    (["", "the cat"], ["a", "the cat sat"], (40.0, 33.333333, 40.0, 0.0, 54.671968)),
    (["abcdef", "ab"], ["a", "abc"], (0.0, 0.0, 0.0, 0.0, 63.657407)),
    (["a x b y"], ["a b z w"], (50.0, 0.0, 50.0, 18.995892, 12.5)),
]
# fmt: on


@pytest.mark.parametrize(("written", "references", "values"), CASES)
def test_as_sacrebleu_and_rouge_score(written: list[str], references: list[str], values: tuple[float, ...]):
    found = texts.measured(written, references)
    assert {name: found[name] for name in NAMES} == pytest.approx(dict(zip(NAMES, values, strict=True)), abs=1e-5)


def test_what_is_the_same():
    found = texts.measured([" one two three four\n", "x"], ["one two three four", "y"])
    assert found["exact_match"] == 0.5 and list(found) == ["exact_match", *NAMES]
    same = texts.measured(["one two three four"] * 2, ["one two three four "] * 2)
    assert same == {"exact_match": 1.0, **dict.fromkeys(NAMES, pytest.approx(100.0))}
    nothing = texts.measured(["", "!"], ["?", ""])
    assert nothing == dict.fromkeys(["exact_match", *NAMES], 0.0)
    with pytest.raises(ValueError, match="zip"):
        texts.measured(["a"], ["a", "b"])


def test_words_by_hand():
    """Small letters and digits of any script; the longest common sequence need not lie side by side."""
    assert texts.words("Das_Übel, 3.5 Ωmega!") == ["das", "übel", "3", "5", "ωmega"]
    assert texts.rouge("a b a", "a a c", 1) == pytest.approx(2 * 2 / 6)
    assert texts.rouge_l("a x b y c", "a b c d") == pytest.approx(2 * 3 / 9)
    assert texts.rouge_l("c b a", "a b c") == pytest.approx(1 / 3)
    assert texts.rouge_l("", "a") == texts.rouge_l("a", "") == texts.rouge("a", "a b", 2) == 0


def test_bleu_by_hand():
    """Of no right word it is 0; of a text without a run of four words too."""
    assert texts.bleu([("a b c d", "e f g h")]) == 0 == texts.bleu([("a b c", "a b c")])
    whole = texts.bleu([("a b c d", "a b c d e f g h")])
    assert whole == pytest.approx(100 * 2.718281828 ** (1 - 8 / 4))
