"""Text stays text from the file to the task, and a number is made of a cell only where a task asks for one."""

import json

import pyarrow as pa
import pytest

from jaxft import config, tables
from jaxft.data.columns import is_text, numbered, spelled_value, with_numbers, with_text, written
from jaxft.data.sources import Split, read
from jaxft.errors import UserError
from jaxft.tables import labels
from jaxft.tables.choices import CHOICES, RIGHT
from jaxft.tables.questions import STARTS, TEXTS


def source(folder, name: str, content: str, **knobs) -> Split:
    (folder / name).write_text(content, encoding="utf-8")
    return read(config.Data(source=str(folder / name), **knobs))["train"]


def of(values: list, cells: bool = False) -> Split:
    return Split(pa.table({"n": values}), "here", cells=cells)


NUMBERS = {
    "integers": (["-3", "0", " 12 "], [-3, 0, 12], pa.int64()),
    "with a point": (["1", "2.50", "-1e-3", ".5"], [1.0, 2.5, -1e-3, 0.5], pa.float64()),
    "an empty cell": (["1", "", " "], [1, None, None], pa.int64()),
    "a null": (["1", None], [1, None], pa.int64()),
    "leading zeros": (["007", "1"], ["007", "1"], pa.string()),
    "long ids": (["9999999999999999999", "1"], ["9999999999999999999", "1"], pa.string()),
    "a word": (["1", "x"], ["1", "x"], pa.string()),
    "nothing": (["", ""], ["", ""], pa.string()),
    "numbers already": ([1, None], [1, None], pa.int64()),
    "lists": ([["1"]], [["1"]], pa.list_(pa.string())),
}


@pytest.mark.parametrize(("values", "expected", "kind"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_cells(values, expected, kind):
    column = with_numbers(of(values), "n").table["n"]
    assert (column.to_pylist(), column.type) == (expected, kind)


def test_numbers_are_read_as_json_writes_them():
    for value, text in ((2024, "2024"), (7.5, "7.5"), (8.0, "8"), (-0.001, "-0.001"), (1e20, "1e+20"), (True, None)):
        if text is not None:
            assert written(value) == text and json.loads(text) == value
    split = with_text(of([7.5, 8.0, 1e20]), "n")
    assert split.table["n"].to_pylist() == ["7.5", "8", "1e+20"]
    with pytest.raises(UserError, match="here, row 2: column 'n' holds null; 1 of 2 rows"):
        with_text(of([1.0, float("nan")]), "n")
    with pytest.raises(UserError, match="must hold text, but all 1 rows hold bool"):
        with_text(of([True]), "n")


def test_whole_numbers_are_written_without_a_point():
    """As far as each of them is one of its own: to 10 to the 15th."""
    values = {7.0: "7", 7.5: "7.5", 999999999999999.0: "999999999999999", 1e15: "1000000000000000.0", -3: "-3"}
    assert {value: written(value) for value in values} == values
    assert written(10**15) == "1000000000000000" and written(float("nan")) is None


def test_a_list_a_column_is_named():
    with pytest.raises(UserError, match="a file that holds a list a column must hold an object a row instead"):
        with_text(of([["a", "b"]]), "n")


def test_text_is_text_however_arrow_holds_it():
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert is_text(pa.chunked_array([pa.array(["a", None], kind)]))
    for kind in (pa.binary(), pa.int64(), pa.list_(pa.string()), pa.null()):
        assert not is_text(pa.chunked_array([pa.array([None], kind)]))


def test_what_is_the_number_of_a_name():
    assert numbered(["0", "1", "1"], ("neg", "pos"))
    assert not numbered(["0", "2"], ("neg", "pos"))  # one too many
    assert not numbered(["0", "1"], ("1", "0"))  # names that are numbers themselves
    assert not numbered(["0", "1"], ("none", "1")) and not numbered(["0"], ("none", "-1"))  # or one of them
    assert not numbered(["neg"], ("neg", "pos")) and not numbered([], ("neg", "pos"))


def test_a_csv_of_numbers_is_text_and_classes(tmp_path):
    """Names of classes are in the order of the numbers that they are, as they always were."""
    rows = "".join(f"{100 + i},{i % 11}\n" for i in range(22))
    split = source(tmp_path, "numtext.csv", f"text,label\n{rows}")
    options = config.SequenceClassification()
    found = tables.build(options).read(split)
    assert found.table["text"].to_pylist() == [str(100 + i) for i in range(22)]
    resolved = tables.build(options).resolve({"train": found})
    assert resolved.labels == tuple(map(str, range(11)))
    assert labels.ids(resolved, found).tolist() == [i % 11 for i in range(22)]


def test_labels_of_json_that_are_text_are_in_the_order_of_text():
    split = Split(pa.table({"text": ["x"] * 3, "label": ["10", "9", "1"]}), "here")
    options = config.SequenceClassification()
    assert tables.build(options).resolve({"train": labels.read(options, split)}).labels == ("1", "10", "9")


def test_scores_of_a_csv(tmp_path):
    options = config.SequenceClassification(problem="regression")
    split = labels.read(options, source(tmp_path, "a.csv", "text,label\nx,1\ny,2.50\nz,+3\n"))
    assert labels.ids(options, split).tolist() == [1, 2.5, 3]
    for cell in ("good", "", "nan", "1e39"):
        bad = source(tmp_path, "b.csv", f"text,label\nx,1\ny,{cell}\n")
        with pytest.raises(UserError, match=r"b\.csv, row 2: label .* in 'label' is not a finite number"):
            labels.read(options, bad)


def test_rows_come_back_as_they_were(tmp_path):
    split = source(tmp_path, "ids.csv", "id,text\n1.10,a\n1.20,b\n")
    assert split.table.to_pylist() == [{"id": "1.10", "text": "a"}, {"id": "1.20", "text": "b"}]


def test_answers_of_a_csv_are_text(tmp_path):
    rows = "question,context,answers,answer_start\nwhen?,In 1960 it was.,1960,3\nwho?,7,7,0.0\nwhy?,In 1.,,\n"
    found = tables.build(config.QuestionAnswering()).read(source(tmp_path, "a.csv", rows)).table
    assert found[TEXTS].to_pylist() == [["1960"], ["7"], []]
    assert found[STARTS].to_pylist() == [[3], [0], []] and found["context"].to_pylist()[1] == "7"


def test_answers_of_json_that_are_numbers(tmp_path):
    rows = [
        {"question": "when?", "context": "In 1960.", "answers": [{"text": 1960, "answer_start": 3}]},
        {"question": "how?", "context": "By 7.5.", "answers": [{"text": 7.5, "answer_start": 3}]},
    ]
    for content in ("\n".join(map(json.dumps, rows)), json.dumps(rows)):
        with pytest.raises(UserError, match=r"the answer '1960' .* it is at 3"):
            wrong = content.replace('"answer_start": 3', '"answer_start": 4', 1)
            tables.build(config.QuestionAnswering()).read(source(tmp_path, "b.json", wrong))
        found = tables.build(config.QuestionAnswering()).read(source(tmp_path, "a.json", content)).table
        assert found[TEXTS].to_pylist() == [["1960"], ["7.5"]]


def choices(split: Split, choices: tuple[str, ...] = ("a", "b", "c"), label_form: str = "auto") -> list[int]:
    options = config.MultipleChoice(choices=choices, label_form=label_form)
    return tables.build(options).read(split).table[RIGHT].to_pylist()


def test_choices_of_a_csv_stay_as_they_are_written(tmp_path):
    split = source(tmp_path, "a.csv", "context,a,b,c,label\nhow much?,7,7.50,8,1\nand now?,9.5,10,11,1\n")
    found = tables.build(config.MultipleChoice(choices=("a", "b", "c"))).read(split).table
    assert found[CHOICES].to_pylist() == [["7", "7.50", "8"], ["9.5", "10", "11"]]
    assert found[RIGHT].to_pylist() == [1, 1]


def test_a_label_of_two_meanings_is_refused_in_every_format(tmp_path):
    csv = source(tmp_path, "a.csv", "context,a,b,c,label\n1+1?,1,2,3,2\n")
    rows = '{"context": "1+1?", "choices": ["1", "2", "3"], "label": "2"}\n'
    lines = source(tmp_path, "a.jsonl", rows)
    for split, names in ((csv, ("a", "b", "c")), (lines, ("choices",))):
        with pytest.raises(
            UserError, match="label '2' in 'label' may be the text of '2' or the number of '3'; say which"
        ):
            choices(split, choices=names)
        assert choices(split, choices=names, label_form="number") == [2]
        assert choices(split, choices=names, label_form="text") == [1]
    number = source(tmp_path, "b.jsonl", rows.replace('"label": "2"', '"label": 2'))
    assert choices(number, choices=("choices",)) == [2]  # no text: the number of a choice
    letters = source(tmp_path, "c.csv", "context,a,b,c,label\nx,B,A,C,A\n")
    with pytest.raises(UserError, match="may be the text of 'A' or the letter of 'B'"):
        choices(letters)
    assert choices(letters, label_form="letter") == [0]
    agreeing = source(tmp_path, "d.csv", "context,a,b,c,label\nx,A,B,C,B\nx,0,1,2,1\n")
    assert choices(agreeing) == [1, 1]


LISTED = {
    "HellaSwag": ({"choices": ["w", "x", "y"], "label": "2"}, 2),
    "ARC": ({"choices": {"text": ["w", "x", "y"], "label": ["A", "B", "C"]}, "label": "B"}, 1),
    "ARC of numbers": ({"choices": {"text": ["w", "x", "y"], "label": ["1", "2", "3"]}, "label": "2"}, 1),
    "objects": ({"choices": [{"label": "1", "text": "w"}, {"label": "2", "text": "x"}], "label": 2}, 1),
    "numbers": ({"choices": [7, 7.5, 8], "label": "B"}, 1),
}


@pytest.mark.parametrize(("row", "right"), LISTED.values(), ids=LISTED)
def test_choices_as_data_sets_have_them(tmp_path, row, right):
    split = source(tmp_path, "a.jsonl", json.dumps({"context": "q"} | row) + "\n")
    found = tables.build(config.MultipleChoice()).read(split).table
    assert found[RIGHT].to_pylist() == [right]
    assert found[CHOICES].to_pylist()[0][:2] == (["7", "7.5"] if row["choices"] == [7, 7.5, 8] else ["w", "x"])


def test_scores_of_pairs_in_a_csv(tmp_path):
    split = source(tmp_path, "a.csv", "anchor,positive,score\n7,8,0.50\n9,10,1\n")
    found = tables.build(config.SentenceEmbedding(score="score")).read(split).table
    assert found.to_pydict() == {"anchor": ["7", "9"], "positive": ["8", "10"], "score": [0.5, 1.0]}
    bad = source(tmp_path, "b.csv", "anchor,positive,score\n7,8,0.50\n9,10,x\n")
    with pytest.raises(UserError, match=r"b\.csv, row 2: score 'x' in 'score' is not a finite number"):
        tables.build(config.SentenceEmbedding(score="score")).read(bad)


@pytest.mark.parametrize("options", [config.SequenceClassification(label="n"), config.MaskedLM()])
def test_numbers_of_json_are_text(tmp_path, options):
    split = source(tmp_path, "a.jsonl", '{"text": 2024, "n": 1}\n{"text": 7.5, "n": 2}\n')
    assert tables.build(options).read(split).table["text"].to_pylist() == ["2024", "7.5"]


SPELLED = {
    "['a', 'b']": ["a", "b"],
    '["a", null, true]': ["a", None, True],
    "('a',)": ["a"],
    "{'b', 'a'}": ["a", "b"],
    " [] ": [],
    "{'text': ['x'], 'answer_start': [0]}": {"text": ["x"], "answer_start": [0]},
    '["it\'s", "a \\"b\\""]': ["it's", 'a "b"'],
    "['a' 'b']": None,
    "[a, b]": None,
    "(other)": None,
    "a": None,
    "": None,
    "[" * 9_999 + "]" * 9_999: None,
}


@pytest.mark.parametrize(("text", "value"), SPELLED.items(), ids=range(len(SPELLED)))
def test_what_a_cell_spells(text, value):
    assert spelled_value(text) == value


def test_lists_in_the_cells_of_a_csv(tmp_path):
    """As pandas writes a data set of the Hub."""
    words = "tokens,tags\n\"['Ann', 'in']\",\"['B-PER', 'O']\"\n\"['x']\",['O']\n"
    found = tables.build(config.TokenClassification()).read(source(tmp_path, "w.csv", words)).table
    assert found["tokens"].to_pylist() == [["Ann", "in"], ["x"]] and found["tags"].to_pylist() == [
        ["B-PER", "O"],
        ["O"],
    ]
    spans = "tokens,tags\nAnn in Rome,\"[{'start': 0, 'end': 3, 'label': 'PER'}]\"\nx,[]\n"
    found = tables.build(config.TokenClassification()).read(source(tmp_path, "s.csv", spans)).table
    assert found["tags"].to_pylist() == [["B-PER", "O", "O"], ["O"]]
    triples = spans.replace("{'start': 0, 'end': 3, 'label': 'PER'}", "[0, 3, 'PER']")
    again = tables.build(config.TokenClassification()).read(source(tmp_path, "t.csv", triples)).table
    assert again.to_pydict() == found.to_pydict()
    answers = "question,context,answers\nq,In Rome,\"{'text': ['Rome'], 'answer_start': [3]}\"\n"
    found = tables.build(config.QuestionAnswering()).read(source(tmp_path, "a.csv", answers)).table
    assert found[TEXTS].to_pylist() == [["Rome"]]
    listed = "context,choices,label\nq,\"['x', 'y']\",1\n"
    assert choices(source(tmp_path, "c.csv", listed), choices=("choices",)) == [1]
    text = Split(pa.table({"tokens": ["['a']"]}), "here")  # of JSON, which has lists of its own: a text
    assert (
        tables.build(config.TokenClassification()).read(text, labelled=False).table["tokens"].to_pylist()[0][0] == "["
    )
