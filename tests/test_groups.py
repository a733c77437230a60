"""Metrics by group: of the rows of each value of a column, with intervals where they say something."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from jaxft import config, tables
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.report.tables import groups_table
from jaxft.sure import bootstrap, groups
from jaxft.sure.bootstrap import Labelled

NAMES = ("a", "b")
TABLE = tables.build(config.SequenceClassification(problem="single_label", labels=NAMES))
LANGUAGES = ["de"] * 30 + ["en"] * 20 + [None] * 19 + ["fr"] * 3


@pytest.fixture
def labelled(monkeypatch) -> Labelled:
    """Rows in several languages; those in English are all right."""
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=12))
    rng, count = np.random.default_rng(0), len(LANGUAGES)
    labels, logits = rng.integers(0, 2, count).astype(np.int32), rng.normal(size=(count, 2))
    logits[30:50] = (1 + rng.random((20, 1))) * np.eye(2)[labels[30:50]]
    split = Split(pa.table({"language": LANGUAGES, "n": np.arange(count)}), "rows.csv")
    features = Features(np.arange(count + 1), {}, {"labels": labels})
    return Labelled(split, features, {"logits": "example"}, {"logits": logits})


def test_each_value_is_measured_by_itself(labelled):
    found = groups.of_groups(TABLE, labelled, "language", 0.0)
    assert [(name, one["rows"]) for name, one in found.items()] == [("de", 30), ("en", 20), ("null", 19), ("fr", 3)]
    for name, one in found.items():
        rows = np.flatnonzero(np.asarray(LANGUAGES, object) == (None if name == "null" else name))
        right = labelled.outputs["logits"][rows].argmax(1) == labelled.features.examples["labels"][rows]
        assert one["accuracy"] == pytest.approx(right.mean())
        ends = {key for key in one if key.endswith(("_low", "_high"))}
        assert ("accuracy_low" in ends and "accuracy_high" in ends) == (name == "de")
        assert bool(ends) == (name in ("de", "en")), "of fewer rows than 20 there are none"
    assert found["en"]["accuracy"] == 1 and "ece_low" in found["en"], "all right in each draw, as sure as they are"
    whole = bootstrap.of_metrics(TABLE, labelled.take(np.arange(30)), 0.95)
    assert {key: found["de"][key] for key in whole} == whole
    wider = groups.of_groups(TABLE, labelled, "language", 0.5)["de"]
    assert wider["accuracy_low"] > found["de"]["accuracy_low"], "the level is that of the intervals"


def test_columns_that_make_no_groups(labelled):
    for column, said in (
        ("langauge", "--evaluate.groups: rows.csv has no column 'langauge'; did you mean 'language'?"),
        ("n", "--evaluate.groups: 'n' of rows.csv has 72 values, and 50 groups are the most; name a column of fewer"),
    ):
        with pytest.raises(UserError) as raised:
            groups.of_groups(TABLE, labelled, column, 0.0)
        assert str(raised.value) == said
    fifty = Split(pa.table({"n": np.arange(100) % groups.MOST}), "rows.csv")
    assert [len(rows) for rows in groups.rows_of(fifty, "n").values()] == [2] * 50
    with pytest.raises(UserError, match=r"--evaluate.groups: each text is looked for among all of the split"):
        groups.of_groups(tables.build(config.SentenceEmbedding()), labelled, "language", 0.0)


def test_values_in_words():
    assert [groups.said(x) for x in (None, "a", 3, True, ["x", "y"])] == ["null", "a", "3", "True", "x, y"]
    listed = Split(pa.table({"topics": [["x", "y"], ["x"], ["x", "y"]]}), "rows")
    assert {name: rows.tolist() for name, rows in groups.rows_of(listed, "topics").items()} == {
        "x, y": [0, 2],
        "x": [1],
    }


def test_a_table_of_groups():
    found = {"de": {"rows": 1200, "f1": 0.5, "f1_low": 0.25, "f1_high": 0.75}, "fr": {"rows": 3}}
    assert groups_table(found, "language", "f1").splitlines() == [
        "language   rows      F1          interval",
        "de        1,200  0.5000  0.2500 to 0.7500",
        "fr            3     n/a",
    ]
