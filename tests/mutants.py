"""Are small faults noticed? Changes the host's code in one place at a time and runs the quick tests of that place.

    python tests/mutants.py --count=300 --seed=0 --out=tests/mutants.json

`tests/mutation.py` says what is changed. First the quick tests run once, to see which functions each of them calls
and how long it takes. Then each mutant is tried in a process of its own, forked from this one, which has imported the
large libraries; nothing is written into the tree. It ends with exit code 1 if fewer than 90 % are noticed, or if one
that nothing notices is not explained in tests/survivors.md.
"""

import argparse
import builtins
import collections
import importlib.machinery
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mutation
import pytest

ROOT = Path(__file__).parents[1]
SURVIVORS = ROOT / "tests" / "survivors.md"

PLACES = (
    *("data/*.py", "tables/*.py", "metrics/*.py", "storage/*.py", "hub/*.py", "adapt/*.py", "tasks/*.py"),
    *("train/loop.py", "train/checkpoint.py", "train/evaluate.py", "sharding.py", "batch.py"),
)
"""What is changed, within jaxft/: what runs on the host, and what is pure of it."""

SLOW = (
    "test_plan",
    "test_bucket",
    "test_launch",
    "test_kernel",
    "test_configs",
    "test_python_versions",
    "test_examples",
)
"""Files of tests that ask of other places, or take long."""

LAWS = ("test_adaptations", "test_export")
"""Of the laws, those that are quick enough."""

LONGEST = 20
"""Seconds of a test that is still run, its fixtures included."""

BUDGET = 30
"""Seconds of tests for one mutant: the quickest of those that call its function, until they take so long."""

EACH = {"request", "tmp_path", "monkeypatch", "capsys", "torch", "peft"}
"""Fixtures that every test has for itself, or that take no time."""

NOTICED, MISSED, HUNG, DIED = "noticed", "missed", "hung", "died"
"""What becomes of a mutant: a test fails, none does, they do not end, or the process is ended by a signal."""


class Ended(RuntimeError):
    """A process that left no answer: it took too long (`HUNG`), or a signal ended it (`DIED`)."""


class Test(NamedTuple):
    """What a test takes, in seconds with its fixtures, and the functions that it calls: (file, line)."""

    name: str
    seconds: float
    calls: frozenset[tuple[str, int]]


class Case(NamedTuple):
    """A change of a file, and the tests that should notice it."""

    file: str
    mutant: mutation.Mutant
    tests: tuple[str, ...]

    @property
    def key(self) -> str:
        """By which tests/survivors.md knows it, wherever its line has moved to."""
        return f"{self.file} {self.mutant.function}: {self.mutant.what}"


def forked(work: Callable[[], Any], out: Path, limit: float) -> Callable[[], Any]:
    """Starts a process that does the work and leaves what it gives as JSON; returns what waits for that.

    It waits for `limit` seconds, then ends the process. What it returns raises `Ended` where there is no answer, and
    RuntimeError with its traceback where the work raised.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        try:
            answer = {"found": work()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        out.write_text(json.dumps(answer))
        os._exit(0)
    begun = time.monotonic()

    def wait() -> Any:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() - begun > limit:
                os.killpg(child, 9)
                os.waitpid(child, 0)
                raise Ended(HUNG)
            time.sleep(0.02)
        if not out.exists():
            raise Ended(DIED)
        answer = json.loads(out.read_text())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["found"]

    return wait


def in_turns(count: int, starts: Iterable[Callable[[], Callable[[], Any]]]) -> Iterator[Any]:
    """Yields what each process gives, in order, so many at a time."""
    waiting: collections.deque[Callable[[], Any]] = collections.deque()
    for start in starts:
        waiting.append(start())
        if len(waiting) == count:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def import_libraries() -> None:
    """Imports what every test needs, so that a forked process has it; JAX starts no backend yet."""
    from xla_flags import quick_compiles

    os.environ.update(JAX_PLATFORMS="cpu", JAX_DISABLE_MOST_OPTIMIZATIONS="1", XLA_FLAGS=quick_compiles())
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    import datasets  # noqa: F401
    import flax.struct  # noqa: F401
    import hypothesis  # noqa: F401
    import jaxtyping  # noqa: F401
    import optax  # noqa: F401
    import orbax.checkpoint  # noqa: F401
    import scipy.stats  # noqa: F401
    import seqeval.metrics  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401


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
            found |= {"calls": sorted(seen), "fixtures": sorted({*item.fixturenames} - EACH)}

    def tests(self) -> list[tuple[str, float, list[tuple[str, int]]]]:
        """The tests that pass: name, seconds, calls."""
        if not self.seen:
            return []
        first = max(self.seen.values(), key=lambda one: one["setup"])
        found = []
        for name, one in self.seen.items():
            shares = bool({*one["fixtures"]} & {*first["fixtures"]})
            seconds = one["call"] + (first["setup"] if shares else one["setup"])
            calls = {*map(tuple, one["calls"])} | ({*map(tuple, first["calls"])} if shares else set())
            if one["passed"] and seconds <= LONGEST:
                found.append((name, round(seconds, 2), sorted(calls)))
        return found


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


def quick_tests(jobs: int, folder: Path) -> list[Test]:
    """Returns the quick tests and what each of them calls, after a run of all of them.

    Raises:
      Ended: those of a file did not end, as on a machine that does other things: what it covers would count as missed.
    """
    files = [file for file in sorted((ROOT / "tests").glob("test_*.py")) if file.stem not in SLOW]
    files += [ROOT / "tests" / "laws" / f"{name}.py" for name in LAWS]
    starts = [
        lambda file=file: forked(lambda: watched(str(file.relative_to(ROOT))), folder / f"{file.stem}.watch", 400)
        for file in files
    ]
    found = []
    for file, tests in zip(files, in_turns(jobs, starts), strict=True):
        found += [Test(name, seconds, frozenset(map(tuple, calls))) for name, seconds, calls in tests]
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
    failed: list[str] = []

    class Failures:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                failed.append(report.nodeid)

        pytest_collectreport = pytest_runtest_logreport

    source = (ROOT / case.file).read_text(encoding="utf-8")
    put_in_place({case.file: mutation.mutated(source, case.mutant.number)})
    code = run_tests(case.tests, "-x", "--timeout=60", plugin=Failures())
    if code == 0 or not failed:
        return [MISSED, f"pytest ends with {code}" if code else ""]
    return [NOTICED, failed[0]]


def outcome_of(wait: Callable[[], Any]) -> Callable[[], Any]:
    """Returns what waits for the outcome of a mutant, be it that its process left no answer."""

    def wait_for_any() -> Any:
        try:
            return wait()
        except Ended as ended:
            return [str(ended), ""]

    return wait_for_any


def sampled(count: int, seed: int, only: str, tests: list[Test]) -> list[Case]:
    """Returns so many changes of all, by the seed, each with the tests that call the function it is in."""
    every = [
        (file, mutant)
        for place in PLACES
        for path in sorted((ROOT / "jaxft").glob(place))
        if only in (file := str(path.relative_to(ROOT)))
        for mutant in mutation.mutants(path.read_text(encoding="utf-8"))
    ]
    chosen = random.Random(seed).sample(every, min(count, len(every)))
    return [Case(file, mutant, _covering(file, mutant, tests)) for file, mutant in sorted(chosen)]


def _covering(file: str, mutant: mutation.Mutant, tests: list[Test]) -> tuple[str, ...]:
    """The quickest tests that call the function that a change is in, as many as `BUDGET` allows."""
    first, last = mutant.span
    calling = [test for test in tests if any(f == file and first <= line <= last for f, line in test.calls)]
    names, seconds = [], 0.0
    for test in sorted(calling, key=lambda test: test.seconds):
        seconds += test.seconds
        if seconds > BUDGET and names:
            break
        names.append(test.name)
    return tuple(names)


def explained() -> set[str]:
    """The keys of the mutants that tests/survivors.md explains: each heads a section."""
    if not SURVIVORS.exists():
        return set()
    lines = SURVIVORS.read_text(encoding="utf-8").splitlines()
    return {line.removeprefix("## ") for line in lines if line.startswith("## ")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--only", default="", help="change files alone whose path holds this")
    parser.add_argument("--out", default="", help="write a JSON report here")
    options = parser.parse_args()
    begun = time.monotonic()
    import_libraries()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tests = quick_tests(options.jobs, folder)
        watching = time.monotonic() - begun
        cases = sampled(options.count, options.seed, options.only, tests)
        starts = [
            lambda case=case, i=i: outcome_of(forked(lambda: tried(case), folder / str(i), 150))
            for i, case in enumerate(cases)
        ]
        found = []
        for case, result in zip(cases, in_turns(options.jobs, starts), strict=True):
            outcome, by = result
            if not case.tests:
                outcome, by = MISSED, "no quick test calls it"
            found.append({"key": case.key, "line": case.mutant.line, "outcome": outcome, "by": by})
            if outcome == MISSED:
                print(f"{outcome}: {case.key} ({case.file}:{case.mutant.line}) {by}", file=sys.stderr, flush=True)
        killers = sorted({one["by"] for one in found if "::" in one["by"]})
        passing = outcome_of(forked(lambda: run_tests(killers, "--timeout=60"), folder / "sound", 900))
        sound = passing() == 0
    return report(found, options, {"watching": watching, "all": time.monotonic() - begun}, sound)


def report(found: list[dict[str, Any]], options: Any, seconds: Mapping[str, float], sound: bool) -> int:
    """Prints and writes what was found; returns the exit code."""
    known = explained()
    noticed = sum(one["outcome"] != MISSED for one in found)
    open_ones = [one for one in found if one["outcome"] == MISSED and one["key"] not in known]
    share = noticed / max(len(found), 1)
    summary = {
        "mutants": len(found),
        "noticed": noticed,
        "explained": len(found) - noticed - len(open_ones),
        "share": round(share, 3),
        "seed": options.seed,
        "seconds": {name: round(value) for name, value in seconds.items()},
        "tests_pass_without": sound,
    }
    print(json.dumps(summary, indent=2))
    if options.out:
        Path(options.out).write_text(json.dumps(summary | {"found": found}, indent=1) + "\n", encoding="utf-8")
    if not sound:
        print("the tests that noticed fail without any change too, or hang: nothing is known", file=sys.stderr)
    if open_ones:
        print(f"{len(open_ones)} are neither noticed nor explained in tests/survivors.md", file=sys.stderr)
    return 0 if sound and share >= 0.9 and not open_ones else 1


if __name__ == "__main__":
    sys.exit(main())
