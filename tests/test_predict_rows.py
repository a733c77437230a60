"""--mode=predict: a row in, a row out, as it was; a blank one has an empty answer."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jaxft import modes
from jaxft.data.sources import Split, blank
from jaxft.modes.predicting import beside, with_empty


def test_what_is_blank():
    table = pa.table({"a": ["x", "", None, " \u3000"], "b": ["", " ", None, "y"], "n": [1, None, None, None]})
    split = Split(table, "here")
    assert blank(split, ("a",)).tolist() == [False, True, True, True]
    assert blank(split, ("a", "b")).tolist() == [False, True, True, False]
    assert blank(split, ("a", "b", "n")).tolist() == [False, True, True, False]
    assert not blank(split, ("a", "missing")).any()


def test_empty_answers_are_put_among_the_others():
    answers = [{"prediction": i, "probability": i / 2} for i in range(2)]
    nothing = {"prediction": None, "probability": None}
    for mask in ([True, False, True, False], [False, False], [False, True, True, False], [True, True, False, False]):
        found = list(with_empty(iter(answers), np.asarray(mask)))
        assert [one == nothing for one in found] == mask
        assert [one for one in found if one != nothing] == answers


def test_a_column_that_is_called_as_an_answer_is_kept():
    row, answer = {"text": "x", "prediction": "HUMAN", "id": "1"}, {"prediction": "pos", "probability": 0.9}
    assert beside(row, answer) == {
        "text": "x", "input.prediction": "HUMAN", "id": "1", "prediction": "pos", "probability": 0.9
    }  # fmt: skip


FILES = {
    "a line in, a line out": ("a.txt", "good\n\nbad\n", ["text"], [["good"], [""], ["bad"]]),
    "another case, another line end": ("A.TXT", "good\r\n\r\nbad\r\n\r\n", ["text"], [["good"], [""], ["bad"], [""]]),
    "numbers": (
        "n.csv",
        "id,text\n1.10,2024\n1.20,7.50\n007,\n",
        ["id", "text"],
        [["1.10", "2024"], ["1.20", "7.50"], ["007", ""]],
    ),
    "semicolons": ("s.csv", "id;text\n1;a, b\n2;c\n", ["id", "text"], [["1", "a, b"], ["2", "c"]]),
}


@pytest.mark.parametrize(("name", "content", "columns", "rows"), FILES.values(), ids=FILES)
def test_rows_come_back_as_they_were(finished: Path, tmp_path: Path, name: str, content: str, columns, rows):
    (tmp_path / name).write_bytes(content.encode())
    modes.predict(str(finished), str(tmp_path / name), str(tmp_path / "answers.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [[answer[column] for column in columns] for answer in answers] == rows
    for answer in answers:
        assert (answer["prediction"] is None) == (answer["text"] == "")
