"""Answers that are not where they say: moved or left out, and counted."""

import pyarrow as pa

from jaxft import config, tables
from jaxft.data.sources import Split


def answers(repair: str, *rows: tuple[str, list[tuple[str, int]]]) -> Split:
    table = pa.table({
        "question": ["q"] * len(rows),
        "context": [context for context, _ in rows],
        "answers": [[{"text": text, "answer_start": start} for text, start in part] for _, part in rows],
    })  # fmt: skip
    return tables.build(config.QuestionAnswering(repair=repair)).read(Split(table, "here"))


QUESTIONS = (
    ("ab x ab y ab", [("ab", 0)]),  # right
    ("ab x ab y ab", [("ab", 6)]),  # nearest at 5
    ("ab x ab y ab", [("ab", 99)]),  # nearest at 10
    ("ab x ab y ab", [("ab", -7)]),  # nearest at 0
    ("ab x ab y ab", [("zz", 0)]),  # nowhere
    ("ab x ab y ab", [("x", 4), ("y", 8)]),  # the first at 3, the second right
    ("nothing", []),  # without an answer
)


def test_answers_are_moved_to_where_they_occur_nearest():
    split = answers("nearest", *QUESTIONS)
    assert split.table["_starts"].to_pylist() == [[0], [5], [10], [0], [3, 8], []]
    assert [split.where(row) for row in (3, 4)] == ["here, row 4", "here, row 6"]
    assert split.notes == (
        "here: 5 answers in 'answers' are not where they say: 4 moved to where they occur nearest, 1 left out, with 1 "
        "questions that have no other",
    )


def test_answers_are_left_out():
    """A question of which no answer is left goes with them: it is not one without an answer."""
    split = answers("drop", *QUESTIONS)
    assert split.table["_answers"].to_pylist() == [["ab"], ["y"], []]
    assert split.notes == (
        "here: 5 answers in 'answers' are not where they say: 0 moved to where they occur nearest, 5 left out, with 4 "
        "questions that have no other",
    )
    assert answers("drop", QUESTIONS[0]).notes == ()
