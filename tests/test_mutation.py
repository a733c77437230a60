"""The faults that `make mutants` puts in: which places are changed or left alone, and which of them are tried."""

import os
import time

import forks
import mutants
import mutation
import pytest

SOURCE = '''
def outer(rows, file):
    """One or 2."""

    def inner(row):
        return row < 1

    say("3 rows", 3)
    for a, b in zip(rows, rows, strict=True):
        yield inner(a)
    return csv.reader(file, strict=True)
'''


def test_places_that_are_changed_and_places_that_are_not():
    """What is said and the `strict` of zip are left alone, that of a reader of files is not."""
    found = {one.what: one for one in mutation.mutants(SOURCE)}
    assert list(found) == [
        "`row < 1` -> `row <= 1`",
        "`1` -> `2`",
        "`csv.reader(file, strict=True)` without `strict`",
        "`True` -> `False`",
    ]
    inside = found["`1` -> `2`"]
    assert inside.function == "outer.inner" and inside.span == (2, 11), "who calls the outer one is asked"
    assert "row < 2" in mutation.mutated(SOURCE, inside.number)
    assert "reader(file)" in mutation.mutated(SOURCE, found["`csv.reader(file, strict=True)` without `strict`"].number)


def test_a_smaller_sample_is_part_of_a_larger_one():
    few, many, other = (
        {case.key for case in mutants.sampled(count, seed, "data/")} for count, seed in ((9, 0), (40, 0), (40, 1))
    )
    assert len(few) == 9 and len(many) == 40 and few < many != other


def test_tests_of_a_change_are_the_quickest_that_call_its_function(monkeypatch):
    """What a file's tests share is paid once, and `BUDGET` holds of all of them."""
    case = mutants.Case("a.py", mutation.Mutant("f", 3, "x", 0, (2, 5)), ())
    calling, not_calling = frozenset({("a.py", 2)}), frozenset({("a.py", 6), ("b.py", 2)})
    tests = [
        mutants.Test("t.py::slow", 9.0, 0.0, calling),
        mutants.Test("t.py::first", 1.0, 4.0, calling),
        mutants.Test("t.py::second", 2.0, 4.0, calling),
        mutants.Test("u.py::quick", 0.1, 0.0, calling),
        mutants.Test("u.py::other", 0.0, 0.0, not_calling),
    ]
    monkeypatch.setattr(mutants, "BUDGET", 8)
    assert mutants.covered(case, tests).tests == ("u.py::quick", "t.py::first", "t.py::second")
    assert mutants.covered(case, tests[4:]).tests == ()


def test_the_next_process_starts_as_any_ends(tmp_path):
    """The first one waits for the third, of two at a time; what they give comes in their order."""
    there = tmp_path / "third"

    def first() -> str:
        while not there.exists():
            time.sleep(0.01)
        return "first"

    works = [first, lambda: "second", lambda: there.touch() or "third"]
    starts = [lambda i=i, work=work: forks.Process(work, tmp_path / f"{i}.json", 20) for i, work in enumerate(works)]
    assert [process.answer() for process in forks.in_turns(2, starts)] == ["first", "second", "third"]


def test_a_process_that_ends_while_it_is_asked_is_not_the_last():
    """Of one at a time: it runs when those that run are counted, and has ended a moment later."""

    class Ending:
        def __init__(self):
            self.asked = 0

        def ended(self) -> bool:
            self.asked += 1
            return self.asked > 1

    assert len(list(forks.in_turns(1, [Ending] * 4))) == 4  # pyright: ignore[reportArgumentType]


def test_a_process_without_an_answer(tmp_path):
    hung = forks.Process(lambda: time.sleep(60), tmp_path / "hung", 0.1)
    died = forks.Process(lambda: os.kill(os.getpid(), 9), tmp_path / "died", 20)
    failed = forks.Process(lambda: 1 / 0, tmp_path / "failed", 20)
    for process, error, said in (
        (hung, forks.Ended, forks.HUNG),
        (died, forks.Ended, forks.DIED),
        (failed, RuntimeError, "ZeroDivisionError"),
    ):
        with pytest.raises(error, match=said):
            process.answer()


@pytest.mark.matrix
def test_what_fails_beside_others_alone_is_sound(tmp_path, monkeypatch, capfd):
    """A mutant's tests run without those of other mutants."""
    (tmp_path / "t.py").write_text(
        "seen = []\ndef test_a():\n    seen.append(1)\n"
        "def test_b():\n    assert not seen\ndef test_c():\n    assert False\n"
    )
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    names = {f"t.py::test_{letter}" for letter in "abc"}
    assert mutants.failing(names, 1, tmp_path) == ["t.py::test_c"]
    said = capfd.readouterr().err.splitlines()
    assert said == [
        f"without any change, {kind}: t.py::test_{letter} fails"
        for kind, letter in (("together", "b"), ("together", "c"), ("alone", "c"))
    ]
