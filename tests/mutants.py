"""Are small faults noticed? Changes the host's code in one place at a time and runs the quick tests of that place.

    python tests/mutants.py --count=300 --seed=0 --out=tests/mutants.json
    python tests/mutants.py --count=60 --known=tests/mutants.json

`tests/mutation.py` says what is changed. Which changes are tried, a hash of each decides: a smaller sample of a seed is
part of a larger one, and it stays the same but for code that is new. First the quick tests run once, to see which
functions each of them calls and how long it takes, unless a report that is known tells a test that notices each change.
Then each mutant is tried in a process of its own, forked from this one, which has imported the large libraries; nothing
is written into the tree. It ends with exit code 1 if fewer than 90 % are noticed, or if one that nothing notices is not
explained in tests/survivors.md.
"""

import argparse
import builtins
import gc
import hashlib
import importlib.machinery
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import forks
import mutation
import pytest

ROOT = Path(__file__).parents[1]
SURVIVORS = ROOT / "tests" / "survivors.md"

PLACES = (
    *("data/*.py", "tables/*.py", "metrics/*.py", "storage/*.py", "hub/*.py", "adapt/*.py", "tasks/*.py", "sure/*.py"),
    *("audit/*.py", "cli/*.py", "modes/*.py", "predict/*.py"),
    *(f"explain/{name}.py" for name in ("ablation", "agreement", "counterfactual", "explainer", "faithfulness")),
    *(f"explain/{name}.py" for name in ("inputs", "lime", "methods", "occlusion", "options", "page", "pairs")),
    *(f"explain/{name}.py" for name in ("shapley", "targets", "units")),
    *(f"generate/{name}.py" for name in ("answers", "conversing", "options", "resuming", "rows")),
    *(f"generate/{name}.py" for name in ("settings", "writing")),
    *("train/loop.py", "train/checkpoint.py", "train/evaluate.py", "sharding.py", "batch.py", "trained.py"),
    "objectives/layers.py",
)
"""What is changed, within jaxft/: what runs on the host, and what is pure of it."""

SLOW = (
    "test_plan",
    "test_launch",
    "test_kernel",
    "test_configs",
    "test_python_versions",
    "test_examples",
)
"""Files of tests that ask of other places, or take long."""

LAWS = ("test_adaptations", "test_export", "test_peft_terms")
"""Of the laws, those that are quick enough."""

LONGEST = 20
"""Seconds of a test that is still run, its fixtures included."""

BUDGET = 30
"""Seconds of tests for one mutant: the quickest of those that call its function, until they take so long."""

EACH = {"request", "tmp_path", "tmp_path_factory", "monkeypatch", "capsys", "torch", "peft"}
"""Fixtures that every test has for itself, or that take no time. So are its own parameters."""

NOTICED, MISSED = "noticed", "missed"
"""What becomes of a mutant: a test fails, or none does; or the process ends as `forks` says, which is noticed too."""

Outcome = tuple[str, str]
"""What becomes of it, and by which test."""


class Test(NamedTuple):
    """What a test takes, in seconds, and the functions that it calls, each (file, line).

    Attributes:
      setup: seconds of its fixtures, which the tests of a file that need them pay once.
    """

    name: str
    seconds: float
    setup: float
    calls: frozenset[tuple[str, int]]

    @property
    def file(self) -> str:
        return self.name.partition("::")[0]


class Case(NamedTuple):
    """A change of a file, and the tests that should notice it."""

    file: str
    mutant: mutation.Mutant
    tests: tuple[str, ...]

    @property
    def key(self) -> str:
        """By which tests/survivors.md knows it, wherever its line has moved to."""
        return f"{self.file} {self.mutant.function}: {self.mutant.what}"


def import_libraries() -> None:
    """Imports what every test needs, so that a forked process has it; JAX starts no backend yet."""
    from xla_flags import quick_compiles

    os.environ.update(JAX_PLATFORMS="cpu", JAX_DISABLE_MOST_OPTIMIZATIONS="1", XLA_FLAGS=quick_compiles())
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    import beartype  # noqa: F401
    import datasets  # noqa: F401
    import flax.struct  # noqa: F401
    import grain  # noqa: F401
    import hypothesis  # noqa: F401
    import jaxtyping  # noqa: F401
    import optax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import scipy.stats  # noqa: F401
    import seqeval.metrics  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    gc.freeze()  # a collection in a forked process, of which imports make many, would go through all of them again


class Watch:
    """A plugin of pytest: what each test that passes takes, and which functions of jaxft it calls.

    What several tests need is made by the first of them; so each test that has a fixture in common with the one whose
    fixtures took longest is taken to need as long, and to call the same.
    """

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        one = self.seen.setdefault(report.nodeid, {"passed": True, "setup": 0.0, "call": 0.0})
        one["passed"] &= report.passed
        if report.when in one:
            one[report.when] = report.duration

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        seen: set[tuple[str, int]] = getattr(builtins, mutation.SEEN)
        seen.clear()
        try:
            return (yield)
        finally:
            found = self.seen.setdefault(item.nodeid, {"passed": False, "setup": 0.0, "call": 0.0})
            own = EACH | (item.callspec.params.keys() if hasattr(item, "callspec") else set())
            found |= {"calls": sorted(seen), "fixtures": sorted({*item.fixturenames} - own)}

    def tests(self) -> list[tuple[str, float, float, list[tuple[str, int]]]]:
        """The tests that pass: name, seconds, those of its fixtures, calls."""
        if not self.seen:
            return []
        first = max(self.seen.values(), key=lambda one: one["setup"])
        found = []
        for name, one in self.seen.items():
            shares = bool({*one["fixtures"]} & {*first["fixtures"]})
            setup = first["setup"] if shares else one["setup"]
            calls = {*map(tuple, one["calls"])} | ({*map(tuple, first["calls"])} if shares else set())
            if one["passed"] and one["call"] + setup <= LONGEST:
                found.append((name, round(one["call"], 2), round(setup, 2), sorted(calls)))
        return found


class Failures:
    """A plugin of pytest: the tests that fail, and the files that cannot be read."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and report.nodeid not in self.names:
            self.names.append(report.nodeid)

    pytest_collectreport = pytest_runtest_logreport


def run_tests(names: Iterable[str], *options: str, plugin: Any = None) -> int:
    """Runs tests in this process; returns pytest's exit code."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    os.chdir(ROOT)
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not matrix", *options)
    return int(pytest.main([*quiet, *names], plugins=[plugin] if plugin else None))


def watched(file: str) -> list[Any]:
    """What `Watch.tests` tells of a file of tests."""
    files = {str(path.relative_to(ROOT)): path for place in PLACES for path in (ROOT / "jaxft").glob(place)}
    sources = {file: mutation.watched(path.read_text(encoding="utf-8"), file) for file, path in files.items()}
    setattr(builtins, mutation.SEEN, set())
    put_in_place(sources)
    watch = Watch()
    run_tests([file], f"--timeout={LONGEST}", plugin=watch)
    return watch.tests()


def quick_tests(jobs: int, folder: Path, only: str) -> list[Test]:
    """Returns the quick tests and what each of them calls, after a run of all of them.

    Args:
      only: parts of the names of the files that are run, separated by commas.

    Raises:
      Ended: those of a file did not end, as on a machine that does other things: what it covers would count as missed.
    """
    files = [file for file in sorted((ROOT / "tests").glob("test_*.py")) if file.stem not in SLOW]
    files += [ROOT / "tests" / "laws" / f"{name}.py" for name in LAWS]
    files = [file for file in files if any(part in file.stem for part in only.split(","))]
    starts = [
        lambda file=file: forks.Process(
            lambda: watched(str(file.relative_to(ROOT))), folder / f"{file.stem}.watch", 400
        )
        for file in files
    ]
    found = []
    for file, process in zip(files, forks.in_turns(jobs, starts), strict=True):
        tests = process.answer()
        found += [Test(name, seconds, setup, frozenset(map(tuple, calls))) for name, seconds, setup, calls in tests]
        print(f"{file.stem}: {len(tests)} tests", file=sys.stderr, flush=True)
    return found


def put_in_place(sources: Mapping[str, str]) -> None:
    """Makes Python read other sources for files of the package, not imported yet, and no bytecode of them."""
    given = {str(ROOT / file): source.encode() for file, source in sources.items()}
    loader: Any = importlib.machinery.SourceFileLoader
    get_data, path_stats = loader.get_data, loader.path_stats

    def data(self: Any, asked: str) -> bytes:
        return given[asked] if asked in given else get_data(self, asked)

    def stats(self: Any, asked: str) -> Mapping[str, Any]:
        if asked in given:
            raise OSError("what bytecode there is, is of the file as it stands")
        return path_stats(self, asked)

    loader.get_data, loader.path_stats = data, stats


def tried(case: Case) -> list[Any]:
    """Whether a mutant is noticed, and by which test; in a process of its own."""
    source = (ROOT / case.file).read_text(encoding="utf-8")
    put_in_place({case.file: mutation.mutated(source, case.mutant.number)})
    failures = Failures()
    code = run_tests(case.tests, "-x", "--timeout=60", plugin=failures)
    if code == 0 or not failures.names:
        return [MISSED, f"pytest ends with {code}" if code else ""]
    return [NOTICED, failures.names[0]]


def changes(only: str) -> list[Case]:
    """Returns every change of files whose path holds `only`, without tests."""
    return [
        Case(file, mutant, ())
        for place in PLACES
        for path in sorted((ROOT / "jaxft").glob(place))
        if only in (file := str(path.relative_to(ROOT)))
        for mutant in mutation.mutants(path.read_text(encoding="utf-8"))
    ]


def sampled(count: int, seed: int, only: str) -> list[Case]:
    """Returns so many changes of all, by the seed, without tests."""
    ranked = sorted(changes(only), key=lambda case: hashlib.sha256(f"{seed} {case.key}".encode()).digest())
    return sorted(ranked[:count])


def covered(case: Case, tests: list[Test]) -> Case:
    """The change with the quickest tests that call the function that it is in, as many as `BUDGET` allows.

    What the tests of a file share, they pay once.
    """
    first, last = case.mutant.span
    calling = [test for test in tests if any(f == case.file and first <= line <= last for f, line in test.calls)]
    names, seconds, ready = [], 0.0, set()
    for test in sorted(calling, key=lambda test: (test.seconds + test.setup, test.name)):
        seconds += test.seconds + (0 if test.file in ready else test.setup)
        if seconds > BUDGET and names:
            break
        names.append(test.name)
        ready.add(test.file)
    return case._replace(tests=tuple(names))


def explained() -> set[str]:
    """The keys of the mutants that tests/survivors.md explains: each heads a section."""
    if not SURVIVORS.exists():
        return set()
    lines = SURVIVORS.read_text(encoding="utf-8").splitlines()
    return {line.removeprefix("## ") for line in lines if line.startswith("## ")}


def try_all(cases: list[Case], jobs: int, folder: Path) -> dict[str, Outcome]:
    """Returns what becomes of each change, by its key."""

    def start(case: Case) -> forks.Process:
        return forks.Process(lambda: tried(case), folder / hashlib.sha256(case.key.encode()).hexdigest(), 150)

    found = {case.key: (MISSED, "no quick test calls it") for case in cases if not case.tests}
    called = [case for case in cases if case.tests]
    for case, process in zip(called, forks.in_turns(jobs, (partial(start, case) for case in called)), strict=True):
        try:
            found[case.key] = process.answer()
        except forks.Ended as ended:
            found[case.key] = str(ended), ""
    for case in cases:
        if found[case.key][0] == MISSED:
            print(f"{MISSED}: {case.key} ({case.file}:{case.mutant.line})", file=sys.stderr, flush=True)
    return found


def noticed_by(report: str) -> dict[str, str]:
    """The test that noticed each change of a report, by its key."""
    found = json.loads(Path(report).read_text(encoding="utf-8"))["found"] if report else []
    return {one["key"]: one["by"] for one in found if one["outcome"] == NOTICED}


def failed(names: list[str]) -> list[str]:
    """Runs tests where nothing is changed; returns those that fail: all of them where pytest does not say which."""
    failures = Failures()
    code = run_tests(names, "--timeout=60", plugin=failures)
    return failures.names or (names if code else [])


def failing(tests: set[str], jobs: int, folder: Path) -> list[str]:
    """Returns the tests that fail where nothing is changed: together, and then alone too, as a mutant's tests run."""

    def run(parts: list[list[str]], kind: str, limit: float) -> list[str]:
        def start(i: int, part: list[str]) -> forks.Process:
            return forks.Process(lambda: failed(part), folder / f"{kind}{i}", limit)

        found = []
        starts = [partial(start, i, part) for i, part in enumerate(parts)]
        for part, process in zip(parts, forks.in_turns(jobs, starts), strict=True):
            try:
                fail, how = process.answer(), "fails"
            except forks.Ended as ended:
                fail, how = part, str(ended)
            for test in fail:
                print(f"without any change, {kind}: {test} {how}", file=sys.stderr, flush=True)
            found += fail
        return sorted(found)

    files = sorted({test.partition("::")[0] for test in tests})
    parts = [sorted(test for test in tests if test.partition("::")[0] in files[i::jobs]) for i in range(jobs)]
    together = run([part for part in parts if part], "together", 900)
    return run([[test] for test in together], "alone", 150)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--only", default="", help="change files alone whose path holds this")
    parser.add_argument("--known", default="", help="a report: what noticed a change is tried first")
    parser.add_argument("--tests", default="", help="run these files of tests alone: parts of their names, with commas")
    parser.add_argument("--out", default="", help="write a JSON report here")
    options = parser.parse_args()
    begun = time.monotonic()
    import_libraries()
    cases, known = sampled(options.count, options.seed, options.only), noticed_by(options.known)
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # What one forked process compiles of package and tests, the next reads; of a changed file there is no bytecode.
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder / "bytecode")
        if known:
            first = [case._replace(tests=(known[case.key],)) for case in cases if case.key in known]
            again = try_all(first, options.jobs, folder)
            found |= {key: outcome for key, outcome in again.items() if outcome[0] != MISSED}
            found |= {case.key: (MISSED, "explained") for case in cases if case.key in explained()}
        if left := [case for case in cases if case.key not in found]:
            tests = quick_tests(options.jobs, folder, options.tests)
            found |= try_all([covered(case, tests) for case in left], options.jobs, folder)
        unsound = failing({by for outcome, by in found.values() if outcome == NOTICED}, options.jobs, folder)
    return report(cases, found, options, round(time.monotonic() - begun), unsound)


def report(cases: list[Case], found: Mapping[str, Outcome], options: Any, seconds: int, unsound: list[str]) -> int:
    """Prints and writes what was found; returns the exit code."""
    known, every = explained(), {case.key for case in changes("")}
    missed = [key for key, (outcome, _) in found.items() if outcome == MISSED]
    open_ones = [key for key in missed if key not in known]
    share = 1 - len(missed) / max(len(found), 1)
    summary = {
        "mutants": len(found),
        "noticed": len(found) - len(missed),
        "explained": len(missed) - len(open_ones),
        "share": round(share, 3),
        "seed": options.seed,
        "seconds": seconds,
        "tests_pass_without": not unsound,
    }
    print(json.dumps(summary, indent=2))
    if options.out:
        told = [{"key": case.key, "line": case.mutant.line} for case in cases]
        each = [one | dict(zip(("outcome", "by"), found[one["key"]], strict=True)) for one in told]
        Path(options.out).write_text(json.dumps(summary | {"found": each}, indent=1) + "\n", encoding="utf-8")
    for test in unsound:
        print(f"{test} noticed a change, and fails without any too, or hangs: nothing is known by it", file=sys.stderr)
    if open_ones:
        print(f"{len(open_ones)} are neither noticed nor explained in tests/survivors.md", file=sys.stderr)
    if gone := sorted(known - every):
        print(f"tests/survivors.md explains what is no change any more: {gone[0]}", file=sys.stderr)
    return 0 if not unsound and share >= 0.9 and not open_ones and not gone else 1


if __name__ == "__main__":
    sys.exit(main())
