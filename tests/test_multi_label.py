"""Labels as people write them: vectors, lists in a CSV, numbers of names, blanks around them, true and false."""

import pyarrow as pa
import pytest

from jaxft import config, tables
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.tables import labels

TWO = ("neg", "pos")
THREE = ("insult", "threat", "toxic")


def found(values: list, cells: bool = False, **options) -> tuple[config.SequenceClassification, Split]:
    asked = config.SequenceClassification(**options)
    raw = Split(pa.table({"text": ["a text"] * len(values), "label": values}), "here", cells=cells)
    read = tables.build(asked).read(raw)
    return tables.build(asked).resolve({"train": read}), read


LISTS = {
    "vectors": ([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], THREE),
    "vectors of integers": ([[0, 1, 1], [1, 0, 0], [0, 0, 0]], THREE),
    "vectors of true and false": ([[False, True, True], [True, False, False], [False, False, False]], THREE),
    "vectors in a CSV": (["[0, 1, 1]", "[1, 0, 0]", "[0, 0, 0]"], THREE),
    "lists in a CSV": (["['threat', 'toxic']", "['insult']", "[]"], ()),
    "lists of JSON in a CSV": (['["toxic", "threat"]', '["insult"]', "[]"], ()),
    "sets in a CSV": (["{'toxic', 'threat'}", "{'insult'}", "[]"], ()),
    "numbers of names": ([[1, 2], [0], []], THREE),
    "numbers of names in a text": (["1,2", "0", ""], THREE),
    "blanks around": ([[" threat", "toxic "], ["insult"], []], ()),
}


@pytest.mark.parametrize(("values", "names"), LISTS.values(), ids=LISTS)
def test_lists_of_labels(values, names):
    options, split = found(values, problem="multi_label", labels=names)
    assert options.labels == THREE
    assert labels.ids(options, split).tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


def test_lists_in_a_csv_are_lists_without_being_asked_for():
    options, _ = found(["['b', 'a']", "[]", "['b']"], cells=True)
    assert (options.problem, options.labels) == ("multi_label", ("a", "b"))
    options, _ = found(["['a']", "b"], cells=True)  # not all of them
    assert options.problem == "single_label"


def test_ids_are_no_vectors():
    """Lists of one length without a value twice may be the numbers of classes."""
    options, split = found([[0], [1], [1]], problem="multi_label")
    assert options.labels == ("0", "1") and split.table["label"].to_pylist() == [["0"], ["1"], ["1"]]
    options, _ = found([[0, 1], [1, 2]], problem="multi_label")
    assert options.labels == ("0", "1", "2")
    options, split = found([[2, 2], [0, 1]], problem="multi_label")
    assert options.labels == ("0", "1", "2") and split.table["label"].to_pylist() == [["2"], ["0", "1"]]


def test_one_label_that_holds_or_not():
    options, _ = found([["a"], [], ["a"]])
    assert (options.problem, options.labels) == ("multi_label", ("a",))
    with pytest.raises(UserError, match=r"all labels in 'label' are 'a'; there must be two or more"):
        found(["a", "a"])


REFUSED = {
    "vectors without names": ([[0, 1, 1]], {}, r"vectors of 0 and 1 of 3 labels .*; name them in order in config.task"),
    "vectors of another length": ([[0, 1, 1]], {"labels": TWO}, r"of 3 labels .*; config.task.labels has 2"),
    "lists without quotes": (["[a, b]"], {}, r"'\[a, b\]', which is no list of labels; write \['a', 'b'\], or names"),
    "lists of numpy": (["['a' 'b']"], {}, r"which is no list of labels"),
    "vectors of numpy": (["[0. 1. 1.]"], {"labels": THREE}, r"which is no list of labels"),
    "half a list": ([["a", None]], {}, "with an empty label in it"),
}


@pytest.mark.parametrize(("values", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_lists_that_are_refused(values, options, said):
    with pytest.raises(UserError, match=rf"here, row 1: 'label' holds .*{said}"):
        found(values, problem="multi_label", **options)


def test_numbers_with_a_point_are_no_labels():
    with pytest.raises(UserError, match=r"here, row 2: label 0\.5 in 'label' is a number with a point, no class"):
        found([[], [0.5]], problem="multi_label")


@pytest.mark.parametrize("values", [[0, 1, 1], ["0", "1", "1"]])
def test_names_by_number(values):
    options, split = found(values, labels=TWO)
    assert split.table["label"].to_pylist() == ["neg", "pos", "pos"]
    assert split.notes == ("here: labels in 'label' are numbers of config.task.labels: 0 is neg, 1 is pos",)
    assert labels.ids(options, split).tolist() == [0, 1, 1]


def test_names_that_are_numbers_are_names():
    options, split = found(["1", "0", "1"], labels=("1", "0"), cells=True)
    assert labels.ids(options, split).tolist() == [0, 1, 0] and split.notes == ()
    with pytest.raises(UserError, match=r"label '0' is not among config\.task\.labels"):
        found(["0", "2"], labels=TWO, cells=True)


def test_blanks_around_labels_do_not_count():
    options, split = found(["pos", " pos", "neg ", "neg"], cells=True)
    assert options.labels == TWO
    assert split.notes == ("here: 2 labels in 'label' have blanks around them, which do not count",)
    numbers, _ = found([" 10", "9", "1"], cells=True)
    assert numbers.labels == ("1", "9", "10")
    kept, _ = found(["pos ", "neg"], labels=("neg", "pos "), cells=True)  # as an earlier run may have named them
    assert kept.labels == ("neg", "pos ")


def test_columns_of_true_and_false():
    table = pa.table({"text": ["x"] * 3, "a": ["True", "0", "1.0"], "b": ["FALSE", "1", "0"]})
    options = config.SequenceClassification(label_columns=("a", "b"))
    assert tables.build(options).read(Split(table, "here")).table["label"].to_pylist() == [["a"], ["b"], ["a"]]
