"""Tags as people have them: BILOU and BMES, numbers, tags that are nearly those of entities, spans inside words."""

import pyarrow as pa
import pytest

from jaxft import tables
from jaxft.config import TokenClassification
from jaxft.data import tags as schemes
from jaxft.data.sources import Split
from jaxft.errors import UserError


def found(tags: list, **options) -> tuple[TokenClassification, Split]:
    table = pa.table({"tokens": [[f"w{i}" for i in range(len(part))] for part in tags], "tags": tags})
    asked = TokenClassification(**options)
    read = tables.build(asked).read(Split(table, "here", key="train"))
    return tables.build(asked).resolve({"train": read}), read


IOB2 = ["B-LOC", "I-LOC", "I-LOC", "O", "B-PER"]
OTHER = {
    "BILOU": ["B-LOC", "I-LOC", "L-LOC", "O", "U-PER"],
    "BMESO": ["B-LOC", "M-LOC", "E-LOC", "O", "S-PER"],
    "BIOES": ["B-LOC", "I-LOC", "E-LOC", "O", "S-PER"],
}


@pytest.mark.parametrize("tags", OTHER.values(), ids=OTHER)
def test_other_schemes_are_read(tags):
    options, split = found([tags])
    assert split.table["tags"].to_pylist() == [OTHER["BIOES"]] and options.problem == "entities"
    assert schemes.read(tags) == schemes.read(IOB2) == [("LOC", 0, 3), ("PER", 4, 5)]
    assert any("read as those of BIOES" in note for note in split.notes) == (tags != OTHER["BIOES"])
    assert found([tags], scheme="IOB2")[1].table["tags"].to_pylist() == [IOB2]


def test_a_tag_of_another_scheme_as_bioes_writes_it():
    same = ("O", "B-X", "I-X", "E-X", "S-X", "U", "U-", "UX-", "u-X", "X-U", "")
    assert [schemes.bioes(tag) for tag in same] == [*same]
    others = ("U-X", "L-PER", "M-a b", "U--")
    assert [schemes.bioes(tag) for tag in others] == ["S-X", "E-PER", "I-a b", "S--"]


def test_tags_of_words_stay_as_they_are():
    pos = ["M-X", "NN", "U-Y"]
    options, split = found([pos])
    assert options.problem == "words" and split.table["tags"].to_pylist() == [pos] and split.notes == ()
    bilou = OTHER["BILOU"]
    options, split = found([bilou], problem="words")
    assert split.table["tags"].to_pylist() == [bilou] and split.notes == ()


NEAR = {
    "lower case": (["b-per", "i-per", "o"], "b-per", "B-PER"),
    "underlines": (["B_PER", "O", "I_PER"], "B_PER", "B-PER"),
    "the other way round": (["PER-B", "O", "PER-I"], "PER-B", "B-PER"),
    "no type": (["B", "I", "O"], "B", "B-X"),
}


@pytest.mark.parametrize(("tags", "one", "meant"), NEAR.values(), ids=NEAR)
def test_tags_that_are_nearly_of_entities_are_said(tags, one, meant):
    options, split = found([tags])
    assert options.problem == "words"
    assert split.notes == (
        f"here: tags in 'tags' such as {one} are nearly, but not quite, those of entities; to have them measured as "
        f"entities write {meant} and O, else set config.task.problem=words",
    )
    assert found([tags], problem="words")[1].notes == ()


@pytest.mark.parametrize(
    "tags", [["NN", "DT"], ["O", "O"], ["B-PER", "O"], ["A", "B"], ["b-per", "NN"], ["B-PER", "b-loc"]]
)
def test_tags_of_which_nothing_is_said(tags):
    assert schemes.nearly(tags) is None


def test_numbers_of_tags():
    names = ("O", "B-PER", "I-PER")
    for tags in ([[1, 2, 0]], [["1", "2", "0"]]):
        options, split = found(tags, labels=names)
        assert split.table["tags"].to_pylist() == [["B-PER", "I-PER", "O"]] and options.labels == names
    with pytest.raises(
        UserError, match=r"here, row 1: 'tags' holds \[3, 0\]; it must be .* numbers in config.task.labels"
    ):
        found([[3, 0]], labels=names)


def test_spans_inside_of_words_are_counted():
    text = "John Smith lives in Paris"
    spans = [
        [{"start": 0, "end": 10, "label": "PER"}, {"start": 20, "end": 25, "label": "LOC"}],
        [{"start": 1, "end": 11, "label": "PER"}, {"start": 20, "end": 24, "label": "LOC"}],  # 11: the blank behind it
        [{"start": 5, "end": 9, "label": "PER"}],
    ]
    table = pa.table({"tokens": [text] * 3, "tags": spans})
    split = tables.build(TokenClassification()).read(Split(table, "here"))
    whole = ["B-PER", "I-PER", "O", "O", "B-LOC"]
    assert split.table["tags"].to_pylist() == [whole, whole, ["O", "B-PER", "O", "O", "O"]]
    assert split.notes == (
        "here: 3 of 5 spans in 'tags' begin or end inside a word, and take the whole word: "
        "are they counted in characters?",
    )
    exact = tables.build(TokenClassification()).read(Split(table.slice(0, 1), "here"))
    assert exact.notes == ()


def test_words_that_are_numbers():
    for words, expected in (([[1960, 2024]], [["1960", "2024"]]), ([2024, 7], [["2024"], ["7"]])):
        split = Split(pa.table({"tokens": words}), "here")
        found = tables.build(TokenClassification()).read(split, labelled=False)
        assert found.table["tokens"].to_pylist() == expected
