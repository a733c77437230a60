"""Slices against the law of their number, and near duplicates against all pairs."""

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from jaxft.audit import duplicates, slices
from jaxft.data.sources import Split


def test_a_slice_is_tested_by_the_law_of_its_number():
    """Of 60 rows 12 are wrong, 7 of them among 20: all ways to deal out 12, and those with 7 or more there."""
    wrong = np.zeros(60, bool)
    wrong[:7], wrong[50:55] = True, True
    kinds = {"it": np.arange(20), "others": np.arange(20, 60), "few": np.arange(19), "most": np.arange(41)}
    (one, other) = slices.tested(kinds, wrong)
    ways = sum(math.comb(20, k) * math.comb(40, 12 - k) for k in range(7, 13))
    assert one == ("it", 20, 7, pytest.approx(ways / math.comb(60, 12)), pytest.approx(2 * ways / math.comb(60, 12)))
    ways = sum(math.comb(40, k) * math.comb(20, 12 - k) for k in range(5, 13))
    assert other[:4] == ("others", 40, 5, pytest.approx(ways / math.comb(60, 12))) and other.corrected == other.p
    assert slices.tested({}, wrong) == []


def test_holm_by_hand():
    assert slices.holm([0.01, 0.02, 0.022, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert slices.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9]) and slices.holm([0.7, 0.8]) == [1.0, 1.0]


def test_by_chance_slices_stand_out_as_seldom_as_is_said():
    """Of 300 models that are wrong at random, one slice of 24 that overlap stands out in 5% or fewer."""
    rng = np.random.default_rng(0)
    kinds = {str(n): np.flatnonzero(rng.random(160) < 0.4) for n in range(24)}
    found = [slices.tested(kinds, rng.random(160) < 0.3) for _ in range(300)]
    assert sum(one[0].corrected < 0.05 for one in found) <= stats.binom(300, 0.05).ppf(0.999)
    assert sum(one[0].p < 0.05 for one in found) > 60, "uncorrected it is many more"


def test_kinds_of_rows():
    texts = [f"{'Good' if n % 2 else 'bad'} day, {'x' * (n // 10)}" for n in range(60)]
    columns = {"text": texts, "label": ["a", "b"] * 30, "n": list(range(60)), "_own": [1] * 60}
    found = slices.kinds(Split(pa.table(columns), "rows"), ["text", "pair"], ["a"] * 50 + ["b"] * 10)
    lengths = [len(text) for text in texts]
    parts = {name: rows for name, rows in found.items() if name.startswith("length: ")}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(60)) and 3 <= len(parts) <= slices.PARTS
    for name, rows in parts.items():
        own = [lengths[row] for row in rows]
        assert name == f"length: {min(own)} to {max(own)} characters"
    assert len({name for row, name in enumerate(lengths)}) > len(parts)
    rest = {name: rows.tolist() for name, rows in found.items() if name not in parts}
    odd = list(range(1, 60, 2))
    assert rest == {
        "label: a": list(range(0, 60, 2)), "label: b": odd, "answer: a": list(range(50)),
        "answer: b": list(range(50, 60)), "word: bad": list(range(0, 60, 2)), "word: good": odd,
    }  # fmt: skip
    assert not any(name.startswith("answer") for name in slices.kinds(Split(pa.table(columns), "rows"), ["text"], []))


def test_words_of_most_rows_are_tested(monkeypatch):
    texts = [" ".join(f"w{k}" for k in range(30) if n % (k + 2) == 0) for n in range(400)]
    monkeypatch.setattr(slices, "WORDS", 3)
    assert list(slices._of_words(texts)) == ["word: w0", "word: w1", "word: w2"]


def test_near_duplicates_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    words = np.asarray([f"{a}{b}" for a in ("mor", "tas", "li", "gen") for b in ("na", "ti", "ke", "roum")])
    others = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(60)]
    asked = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(20)]
    for text in others[:30]:
        place = int(rng.integers(len(text)))
        asked.append(text[:place] + "".join(rng.choice(list("xyz"), rng.integers(0, 3))) + text[place + 1 :])
    asked += [others[7].upper().replace(" ", "  \n"), "a", ""]
    for limit in (0.8, 0.5, 1.0):
        expected = {}
        for row, text in enumerate(asked):
            likeness = [
                len(duplicates.grams(text) & one) / len(duplicates.grams(text) | one)
                for one in map(duplicates.grams, others)
            ]
            if max(likeness) >= limit:
                expected[row] = (int(np.argmax(likeness)), max(likeness))
        found = duplicates.near(asked, iter(others), limit)
        assert {one.row: (one.other, one.similarity) for one in found} == expected and len(expected) >= 1
        assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)
    assert duplicates.near(asked, others)[0] == (next(iter(sorted(expected))), *expected[min(expected)])
    assert duplicates.grams("Ab  c") == {"ab c"} and duplicates.grams("abcdef") == {"abcde", "bcdef"}
