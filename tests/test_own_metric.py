"""A metric of the user's own: how it is named, what it is given and may return, and all that can go wrong."""

import sys
from typing import Any

import numpy as np
import pytest

from jaxft.errors import UserError
from jaxft.metrics import own

MODULE = """
import helper_of_mine

LIMIT = 3

def _hidden(written, asked):
    return 0.0

def distance(written, asked):
    return sum(one != other for one, other in zip(written, asked)) / helper_of_mine.COUNT

class Both:
    def __call__(self, written, asked):
        from later_of_mine import NAME
        return {NAME: len(written), "asked": len(asked)}

both = Both()

def ends(written, asked):
    raise SystemExit
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of modules, which is the current one."""
    (tmp_path / "metrics_of_mine.py").write_text(MODULE)
    (tmp_path / "helper_of_mine.py").write_text("COUNT = 2")
    (tmp_path / "later_of_mine.py").write_text("NAME = 'written'")
    (tmp_path / "broken_of_mine.py").write_text("x = 1 / 0")
    (tmp_path / "ending_of_mine.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    before = [*sys.path]
    yield tmp_path
    assert sys.path == before
    for name in [name for name in sys.modules if name.endswith("_of_mine")]:
        del sys.modules[name]


def test_a_function_is_found_and_measures(here):
    """By its own name, or by those that it gives; what it imports may stand beside it."""
    metric = own.load("metrics_of_mine:distance")
    assert own.measured(metric, ["a", "b"], ["a", "c"], {"bleu"}) == {"distance": 0.5}
    both = own.load("metrics_of_mine:both")
    assert own.measured(both, ["a"], ["b"], ()) == {"written": 1.0, "asked": 1.0}
    assert own.measured(lambda written, asked: np.float32(0.5), [], [], ()) == {"<lambda>": 0.5}
    assert own.load("statistics:mean")([1, 2]) == 1.5  # pyright: ignore


def test_the_current_folder_goes_first(here):
    """Before others that Python looks in."""
    other = here / "other"
    other.mkdir()
    (other / "metrics_of_mine.py").write_text("")
    sys.path.insert(0, str(other))
    try:
        assert callable(own.load("metrics_of_mine:distance"))
    finally:
        sys.path.remove(str(other))


def test_texts_are_given_as_they_are():
    """And lists of its own, which it may change."""
    written, asked = (" a", "b"), [" c ", ""]

    def spoils(one: list[str], other: list[str]) -> float:
        assert (one, other) == ([" a", "b"], [" c ", ""])
        other.clear()
        return 1

    assert own.measured(spoils, written, asked, ()) == {"spoils": 1.0} and asked == [" c ", ""]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("distance", "generate.metric is 'distance'; it must be MODULE:FUNCTION"),
        (":distance", "it must be MODULE:FUNCTION"),
        ("metrics_of_mine:", "it must be MODULE:FUNCTION"),
        ("nowhere_of_mine:f", "nowhere_of_mine cannot be imported (ModuleNotFoundError: No module named"),
        (".mine:f", ".mine cannot be imported (TypeError: "),
        ("broken_of_mine:f", "broken_of_mine cannot be imported (ZeroDivisionError: division by zero)"),
        ("ending_of_mine:f", "ending_of_mine cannot be imported (SystemExit: 0)"),
        ("metrics_of_mine:distanse", "metrics_of_mine has no 'distanse'; did you mean 'distance'?"),
        ("metrics_of_mine:zzz", "metrics_of_mine has no 'zzz'; there are: Both, both, distance, ends"),
        ("metrics_of_mine:LIMIT", "metrics_of_mine:LIMIT is of type int; it must be a function"),
    ],
)
def test_what_is_no_metric(here, named: str, message: str):
    with pytest.raises(UserError) as error:
        own.load(named)
    assert message in str(error.value) and "\n" not in str(error.value)


def fails(written: list[str], asked: list[str]) -> float:
    raise ValueError("two\nlines")


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (fails, "fails failed on 1 texts (ValueError: two)"),
        (lambda written: 1, "<lambda> failed on 1 texts (TypeError: "),
        (lambda *_: None, "<lambda> returned '<lambda>': None; it must be a finite number, or such by name"),
        (lambda *_: "good", "returned '<lambda>': 'good'; it must be a finite number"),
        (lambda *_: float("nan"), "returned '<lambda>': nan; it must be a finite number"),
        (lambda *_: {"a": 1, "b": [2]}, "returned 'b': [2]; it must be a finite number"),
        (lambda *_: {3: 1.0}, "returned 3: 1.0; it must be a finite number"),
        (lambda *_: {"fine": 1, "bleu": 2}, "returned 'bleu', which is the name of another metric"),
    ],
)
def test_what_a_metric_cannot_do(metric: Any, message: str):
    with pytest.raises(UserError) as error:
        own.measured(metric, ["a"], ["b"], {"bleu"})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_metric_that_ends_the_program(here):
    with pytest.raises(UserError, match=r"ends failed on 1 texts \(SystemExit\)"):
        own.measured(own.load("metrics_of_mine:ends"), ["a"], ["b"], ())
