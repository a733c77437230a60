"""What all tests share: JAX on the CPU, quick compiles, jaxft's signatures checked at run time, torch where it is."""

import math
import os
import subprocess
import time
from pathlib import Path

from xla_flags import quick_compiles

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Hundreds of small models are compiled and run a few steps: without LLVM's optimizations, with XLA's older emitters and
# in one part each that takes a third of the time. The runs that tests start inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("XLA_FLAGS", quick_compiles())
# Two workers share two cores: PyTorch's threads would wait for one another longer than small arrays take.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import jaxtyping
import pytest

PACKAGE = Path(__file__).parents[1] / "jaxft"

UNCHECKED = {
    "cli": "parses what users type",
    "config": "holds what users type until config.check has seen it",
    "data.rows": "is given what users have in memory, and says what is wrong with it",
    "job": "a law gives its compiled step arrays of the host, for the transfer guard to refuse",
    "predict.predictor": "is given what users have in memory, and says what is wrong with it",
    "report.progress": "takes a StringIO, which at run time is no typing.TextIO",
    "train.state": "as a pytree it is also built of shapes and of shardings",
}
"""Modules whose values may be of other types than their annotations say, and why."""

checked = {".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in PACKAGE.rglob("*.py")}
checked = {name for name in checked if name not in UNCHECKED and name.partition(".")[0] not in UNCHECKED}
checked = {name for name in checked if not name.endswith("__init__")}
# An int is a float here, as it is to pyright (PEP 484).
checker = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook(sorted(f"jaxft.{name}" for name in checked), checker)

# The same examples in every run: a change is not blamed for what chance finds. To search for new ones:
# pytest --hypothesis-profile=search
common = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("repeat", derandomize=True, database=None, **common)
hypothesis.settings.register_profile("search", print_blob=True, **common)
hypothesis.settings.load_profile("repeat")


BEGUN = time.monotonic()


def pytest_addoption(parser):
    parser.addoption("--minutes", type=float, default=math.inf, help="after which further cells of the matrix are left")


def pytest_collection_modifyitems(config, items):
    """With --minutes the tests begin at another file for each commit: what is left is not always the same."""
    if config.option.minutes < math.inf:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PACKAGE, capture_output=True, text=True).stdout
        files = sorted({str(item.path) for item in items})
        first = files[int(head or "0", 16) % len(files)]
        items.sort(key=lambda item: str(item.path) < first)


def pytest_runtest_setup(item):
    if item.get_closest_marker("matrix") and time.monotonic() - BEGUN > 60 * item.config.option.minutes:
        pytest.skip(f"the {item.config.option.minutes:g} minutes of --minutes are over")


@pytest.fixture(scope="session")
def torch():
    """PyTorch, the reference. Every test that needs it asks for this fixture, and is skipped where it is missing."""
    return pytest.importorskip("torch", reason="the reference, PyTorch, is not installed")


@pytest.fixture(scope="session", autouse=True)
def undrawn():
    """Runs in the process of a test make the figures of their report, but draw none, which takes 1.7 s of each run.

    Gives what draws them.
    """
    from jaxft.report import plots

    draw = plots.save

    def save(figure, path, **how):
        return path.touch() if isinstance(path, Path) else draw(figure, path, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save", save)
        yield draw


@pytest.fixture
def drawn(undrawn, monkeypatch):
    """Figures are drawn."""
    from jaxft.report import plots

    monkeypatch.setattr(plots, "save", undrawn)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The directory of a small random BERT with a real tokenizer."""
    from runs import save_tiny_model

    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """Tokenized data and compiled programs, shared by the runs of one worker."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_model, cache):
    """The workdir of a finished short run: do not change it."""
    from runs import experiment

    from jaxft import modes

    workdir = tmp_path_factory.mktemp("finished") / "run"
    modes.train(experiment(tiny_model, cache), str(workdir))
    return workdir


@pytest.fixture(scope="session")
def google():
    """The URL of an empty bucket in Google Cloud Storage."""
    import stores

    with stores.google() as url:
        yield url


@pytest.fixture(scope="session")
def amazon():
    """The same in S3."""
    import stores

    with stores.amazon() as url:
        yield url
