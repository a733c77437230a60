"""Tokenized examples: several a row, in chunks, and as they come back from the cache."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jaxft import config, tables
from jaxft.data import features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.job import Body


def make(start: int, stop: int) -> dict[str, Any]:
    """Row r becomes r % 3 + 1 examples of one token, the row's number."""
    rows = [row for row in range(stop - start) for _ in range((row + start) % 3 + 1)]
    tokens = [[start + row] for row in rows]
    return {"input_ids": tokens, "tags": tokens, "row": np.asarray(rows), "label": np.asarray(rows) + start}


@pytest.mark.parametrize("kept", [False, True])
def test_several_examples_a_row(tmp_path, monkeypatch, kept: bool):
    monkeypatch.setattr(features, "CHUNK", 4)
    path = tmp_path / "features.arrow" if kept else None
    found = features.tokenize(10, make, path)
    if path:
        assert path.exists()
        found = features.tokenize(10, lambda start, stop: {}, path)
    sizes = [row % 3 + 1 for row in range(10)]
    assert found.examples["row"].tolist() == np.repeat(np.arange(10), sizes).tolist()
    assert found.examples["label"].tolist() == found.tokens["tags"].tolist() == found.examples["row"].tolist()
    assert found.bounds.tolist() == [0, *np.cumsum(sizes).tolist()]


def test_an_example_a_row():
    found = features.tokenize(3, lambda start, stop: {"input_ids": [[1]] * (stop - start)}, None)
    assert found.bounds.tolist() == [0, 1, 2, 3]


def test_items_are_examples_or_rows():
    """Of three rows of one, two and three examples of one token each."""
    found = features.tokenize(3, make, None)
    apart, together = found.items(False), found.items(True)
    assert (apart.bounds.tolist(), apart.lengths.tolist(), apart.most) == ([*range(7)], [1] * 6, 1)
    assert (together.bounds.tolist(), together.lengths.tolist(), together.most) == ([0, 1, 3, 6], [1, 2, 3], 3)


def test_columns_that_disagree_about_an_example_are_refused():
    ragged = {"input_ids": [[1, 2], [3, 4, 5]], "labels": [[0, 0], [0, 0]]}
    with pytest.raises(UserError, match="example 1 has 3 tokens in 'input_ids', but 2 in 'labels'"):
        features.tokenize(2, lambda start, stop: ragged, None)


def test_the_cache_knows_features_by_all_that_they_are_made_of(tmp_path, tiny_model):
    """Of the same table: cut elsewhere, with other labels, without labels; and then from the cache again."""
    split = Split(pa.table({"text": ["one two three four five"], "label": ["b"]}), "here")
    body = Body.of(config.Model(path=str(tiny_model)), 8)

    def made(length: int = 8, labels: tuple[str, ...] = ("a", "b"), labelled: bool = True) -> features.Features:
        table = tables.build(config.SequenceClassification(labels=labels, problem="single_label"))
        data = config.Data(max_length=length, cache=str(tmp_path / "cache"))
        return body.features(split, table, data, labelled)

    for _ in range(2):
        assert [len(made(length).tokens["input_ids"]) for length in (8, 5, 6)] == [7, 5, 6]
        assert [made(labels=labels).examples["labels"].tolist() for labels in (("a", "b"), ("b", "a"))] == [[1], [0]]
        assert "labels" not in made(labelled=False).examples
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 5
