"""EDA: what its operations do, that copies are of training rows alone, and that nothing else decides about them."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from runs import experiment

from jaxft import config
from jaxft.config import Data
from jaxft.data import augment
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.job import prepare

SYNONYMS = {"good": ["fine", "great"], "film": ["movie"]}
WORDS = ["a", "Good", "film", "with", "a", "very", "bad", "and", "long", "ending"]


def split(*texts: str, first: int = 0) -> Split:
    rows = np.arange(first, first + len(texts))
    table = pa.table({"text": list(texts), "label": [text.split()[0] for text in texts]})
    return Split(table, "a.csv", rows if first else None)


def texts(of: Split) -> list[str]:
    return of.table.column("text").to_pylist()


def draws(operation: augment.Operation, share: float, count: int = 200) -> list[list[str]]:
    return [operation(WORDS, share, SYNONYMS, np.random.default_rng(at)) for at in range(count)]


def test_synonyms_stand_in_for_words():
    """So many as the share says, one at least, and no more than have any; every synonym is taken at times."""
    for share, changes in ((0.0, 1), (0.2, 2), (1.0, 2)):
        for words in draws(augment.replaced, share):
            off = {at for at, (old, new) in enumerate(zip(WORDS, words, strict=True)) if old != new}
            assert len(off) == changes and off <= {1, 2}
            assert all(words[at] in SYNONYMS[WORDS[at].lower()] for at in off)
    assert {words[1] for words in draws(augment.replaced, 0.1)} == {"Good", "fine", "great"}


def test_synonyms_are_put_in_anywhere():
    places = set()
    for words in draws(augment.inserted, 0.2):
        new = Counter(words) - Counter(WORDS)
        assert len(words) == len(WORDS) + 2 and new.total() == 2 and set(new) <= {"fine", "great", "movie"}
        assert [word for word in words if word not in new] == WORDS
        places |= {at for at, word in enumerate(words) if word in new}
    assert places == set(range(len(WORDS) + 2))


def test_words_change_places():
    for words in draws(augment.swapped, 0.1):
        assert Counter(words) == Counter(WORDS)
        assert sum(old != new for old, new in zip(WORDS, words, strict=True)) in (0, 2)  # there are two "a"
    assert any(sum(a != b for a, b in zip(WORDS, words, strict=True)) > 2 for words in draws(augment.swapped, 0.3))
    assert augment.swapped(["one"], 1.0, {}, np.random.default_rng(0)) == ["one"]


def test_words_are_left_out():
    found = draws(augment.left_out, 0.3, 2000)
    assert np.mean([len(words) for words in found]) == pytest.approx(0.7 * len(WORDS), abs=0.15)
    left = iter(found[0])
    assert all(word in iter(WORDS) for word in left)
    alone = draws(augment.left_out, 1.0)
    assert all(len(words) == 1 for words in alone) and len({words[0] for words in alone}) > 5
    assert draws(augment.left_out, 0.0)[0] == WORDS


def test_every_operation_is_drawn_and_those_with_synonyms_where_there_are_some(monkeypatch):
    text = " ".join(WORDS)
    made = [augment.changed(text, copy, 0.1, SYNONYMS, 0).split() for copy in range(60)]
    kinds = {(len(words) > len(WORDS), len(words) < len(WORDS), set(words) <= set(WORDS)) for words in made}
    assert {(True, False, False), (False, True, True), (False, False, False), (False, False, True)} <= kinds
    plain = [augment.changed(text, copy, 0.1, {"other": ["word"]}, 0).split() for copy in range(60)]
    assert all(set(words) <= set(WORDS) for words in plain)
    assert augment.changed(text, 1, 0.1, SYNONYMS, 0) == augment.changed(text, 1, 0.1, SYNONYMS, 0)
    assert augment.changed(text, 1, 0.5, SYNONYMS, 0) != augment.changed(text, 2, 0.5, SYNONYMS, 0)
    assert augment.changed(text, 1, 0.5, SYNONYMS, 0) != augment.changed(text, 1, 0.5, SYNONYMS, 1)
    assert augment.changed("", 0, 0.1, {}, 0) == ""


def test_copies_are_of_training_rows_alone():
    """Behind them, each with its row's label and place; none says what a row of a split does, or another copy."""
    train = split("one two three four", "five six seven eight", "nine", first=4)
    prepared = {"train": train, "validation": split("two one three four"), "test": split("ten eleven")}
    found, (note,) = augment.augmented(prepared, ("text",), Data(augment=200, augment_share=0.1), 0)
    assert found.table.slice(0, 3) == train.table and found.rows is not None
    made = texts(found)[3:]
    assert len(made) == len({*made}) > 12 and not {*made} & {*texts(train), "two one three four"}
    assert note == f"{len(made)} training texts made of 3 (EDA)"
    labels = found.table.column("label").to_pylist()
    for text, label, row in zip(made, labels[3:], found.rows[3:].tolist(), strict=True):
        assert {*text.split()} <= {*texts(train)[row - 4].split()} and label == texts(train)[row - 4].split()[0]
    assert "two one three four" in texts(augment.augmented({"train": train}, ("text",), Data(augment=200), 0)[0])


def test_other_rows_do_not_matter_and_none_is_none():
    texts_of = lambda *rows: texts(augment.augmented({"train": split(*rows)}, ("text",), Data(augment=2), 0)[0])  # noqa: E731
    one, both = texts_of("a b c d e f"), texts_of("g h i j k l", "a b c d e f")
    assert {*one} <= {*both}
    train = split("a b")
    assert augment.augmented({"train": train}, ("text",), Data(), 0) == (train, []) and texts(train) == ["a b"]


def test_every_text_of_a_pair_is_changed():
    table = pa.table({"text": ["a b c d"], "other": ["e f g h"], "kept": ["i j"]})
    found, _ = augment.augmented({"train": Split(table, "a.csv")}, ("text", "other"), Data(augment=30), 0)
    rows = found.table.to_pylist()[1:]
    assert any(row["text"] != "a b c d" and row["other"] != "e f g h" for row in rows)
    assert {row["kept"] for row in rows} == {"i j"}


def test_synonyms_are_read(tmp_path):
    file = tmp_path / "words.tsv"
    file.write_text("Good\tfine\tgreat\nfilm\tmovie\ngood\twell made\n")
    assert augment.read_synonyms(str(file)) == {"good": ["fine", "great", "well made"], "film": ["movie"]}
    for written, said in (
        ("good\n", "line 1: 'good' is not a word, a tab and its synonyms"),
        ("a\tb\n\tfine\n", "line 2: "),
        ("a\tb\t\n", "line 1: "),
        ("", "is empty; unset it, or give synonyms"),
    ):
        file.write_text(written)
        with pytest.raises(UserError, match=said):
            augment.read_synonyms(str(file))
    with pytest.raises(UserError, match=r"config\.data\.synonyms /nowhere: it cannot be read"):
        augment.read_synonyms("/nowhere")


def test_a_run_has_them(tiny_model, cache):
    plain, more = (prepare(config.check(experiment(tiny_model, cache, data={"augment": copies}))) for copies in (0, 2))
    count = plain.splits["train"].table.num_rows
    assert count < more.splits["train"].table.num_rows <= 3 * count
    assert len(more.features["train"]) == more.splits["train"].table.num_rows
    assert any(line.endswith(f"training texts made of {count} (EDA)") for line in more.notes)
    assert plain.splits["validation"].table == more.splits["validation"].table
    with pytest.raises(UserError, match=r"config\.data\.augment changes the words of texts.* this is MaskedLM"):
        e = experiment(tiny_model, cache, data={"augment": 1})
        e.task = config.MaskedLM(text="text")
        prepare(config.check(e))
