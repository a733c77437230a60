"""`jaxft`, `python -m jaxft` and `run.py` are one command; an installed package has it, and the configs by name."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from absl import flags
from runs import ROOT, environment

from jaxft import cli, config
from jaxft.cli import arguments
from jaxft.cli.modes import ATTACK, EXPLAIN, GENERATE, LIMITS, MODES, PATE, SETFIT
from jaxft.config.files import find
from jaxft.errors import UserError
from jaxft.modes.exporting import command_line

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which pip has installed the package."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "installed"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("configs", "jaxft"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-c", BUILD, wheels], cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {
            "jaxft",
            wheel.name.rsplit("-", 3)[0] + ".dist-info",
        }
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, wheel], check=True, capture_output=True)
    return target


def run(installed: Path, command: list[str], cwd: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command that finds the installed package before any other, in another folder."""
    paths = os.pathsep.join([str(installed), str(ROOT / "tests" / "without")])
    return subprocess.run(
        command, cwd=cwd, env=environment() | {"PYTHONPATH": paths} | env, capture_output=True, text=True
    )


def commands(installed: Path) -> dict[str, list[str]]:
    """The three ways to start it."""
    return {
        "jaxft": [sys.executable, str(installed / "bin" / "jaxft")],
        "python -m jaxft": [sys.executable, "-m", "jaxft"],
        "run.py": [sys.executable, str(ROOT / "run.py")],
    }


def test_a_wheel_holds_the_package_its_types_and_the_configs(installed):
    assert (installed / "jaxft" / "py.typed").is_file()
    names = sorted(file.name for file in (ROOT / "configs").glob("*.py"))
    assert sorted(file.name for file in (installed / "jaxft" / "configs").iterdir() if file.suffix == ".py") == names
    for name in names:
        file = installed / "jaxft" / "configs" / name
        assert file.read_bytes() == (ROOT / "configs" / name).read_bytes() and not file.is_symlink()


@pytest.mark.parametrize("name", ["jaxft", "python -m jaxft"])
def test_help_in_another_folder(installed, tmp_path, name):
    done = run(installed, [*commands(installed)[name], "--config=glue:stsb", "--help"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "jaxft --config=quickstart" in done.stdout and "which task it is" not in done.stdout
    assert "[google-bert/bert-base-cased]" in done.stdout.replace("'", "") and "['regression']" in done.stdout


@pytest.mark.parametrize("name", ["jaxft", "python -m jaxft", "run.py"])
def test_a_mistake_is_one_line_and_code_2(installed, tmp_path, name):
    done = run(installed, [*commands(installed)[name], "--config=quikstart", "--workdir=x"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --config: there is no file quikstart; did you mean 'quickstart'?\n"


@pytest.mark.parametrize("name", ["jaxft", "python -m jaxft", "run.py"])
def test_it_starts_itself_over_once_with_its_arguments(installed, tmp_path, name):
    """Its config file tells what process it is loaded in."""
    (tmp_path / "mine.py").write_text(
        "import json, os, sys\n\nfrom jaxft import config\n\n\ndef get_config(text):\n"
        "    print(json.dumps([os.getpid(), os.environ.get('GLIBC_TUNABLES'), text]))\n"
        "    return config.Experiment()\n"
    )
    env = {k: v for k, v in environment().items() if k != "GLIBC_TUNABLES"} | {"PYTHONPATH": str(installed)}
    command = [*commands(installed)[name], "--config=mine.py:a b", "--help"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    pid, tunables, text = json.loads(process.communicate()[0].splitlines()[0])
    assert process.returncode == 0 and pid == process.pid
    assert tunables.startswith("glibc.malloc.hugetlb=1") and text == "a b"


def test_help_has_every_key_with_its_meaning():
    """Of the task of the config that is given; without one, of every task under its name."""

    def line(key: str, field: dataclasses.Field, value: object) -> str:
        return rf"^  {re.escape(key)} +{re.escape(field.metadata['doc'])} \[{re.escape(repr(value))}\]$"

    every = arguments.keys(["jaxft"])
    for kind in config.TASKS.values():
        part = every[every.index(f"  task: {kind.__name__}\n") :]
        for key, holder, field in config.walk(kind(), "task."):
            assert re.search(line(key, field, getattr(holder, field.name)), part, re.MULTILINE), key
    for key, holder, field in config.walk(config.Experiment()):
        if not key.startswith("task."):
            assert len(re.findall(line(key, field, getattr(holder, field.name)), every, re.MULTILINE)) == 1, key
    given = arguments.keys(["jaxft", "--config=glue:stsb"])
    assert re.findall("task: .*", given) == ["task: SequenceClassification"]
    assert given.index("  task.problem ") < given.index("  data.source ") and "['regression']" in given


def test_a_file_of_the_same_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("glue:sst2") == f"{ROOT}/jaxft/configs/glue.py:sst2"
    assert config.load("quickstart").name == "tweets-minilm"
    (tmp_path / "quickstart").write_text("notes")
    assert find("quickstart") == "quickstart"
    for other in ("quickstart.py", "./glue", "nothing", "", ":x"):
        assert find(other) == other


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_flags_come_in_any_order(tiny_model, capsys, order):
    parts = [
        ["--config=quickstart"],
        [f"--config.model.path={tiny_model}", "--config.data.max_length=64"],
        ["--mode=inspect", "--noconfig.compute.remat"],
    ]
    assert cli.main(["run.py", *(flag for i in order for flag in parts[i])], None) == 0
    assert "976,464" in capsys.readouterr().out


def test_the_value_may_be_an_argument_of_its_own(tiny_model, capsys):
    keys = [f"--config.model.path={tiny_model}", "--config.data.max_length=64"]
    assert cli.main(["run.py", *keys, "--mode", "inspect", "--config", "quickstart"], None) == 0
    assert "bert" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run.py", "--config=a.py:b c"], "python run.py '--config=a.py:b c'"),
        (["/usr/lib/python3/site-packages/jaxft/__main__.py", "--mode=export"], "python -m jaxft --mode=export"),
        (["/usr/bin/jaxft", "--mode=export"], "jaxft --mode=export"),
        (["train_it.py"], "python train_it.py"),
    ],
)
def test_a_model_card_says_the_command_as_it_was_typed(argv, said):
    assert command_line(argv) == said


WRITE = {f"generate.{name}" for name in GENERATE}
USED = {
    "train": {"config", "workdir", "overwrite", "extend", "profile", "metrics_port", "host"},
    "evaluate": {"workdir", "input", "output", "engine", "runs", "compare", "evaluate.intervals", "evaluate.groups"}
    | (WRITE - {"generate.answers"} | {"generate.reference", "generate.metric"}),
    "predict": {"workdir", "input", "output", "adapter", "engine", "runs", "predict.dropout"} | WRITE,
    "explain": {"workdir", "input", "output", "adapter", *(f"explain.{name}" for name in EXPLAIN)},
    "export": {"workdir", "format", "input", "max_loss"},
    "chat": {"workdir", "adapter", "chat.system"} | (WRITE - {"generate.answers"}),
    "calibrate": {"workdir", "input", "engine", "calibrate.coverage", "calibrate.sets", "calibrate.distance"},
    "attack": {"workdir", "input", "output", *(f"attack.{name}" for name in ATTACK)},
    "audit": {"workdir", "input", "output", "audit.crossfit", "audit.canaries"},
    "serve": {"workdir", "host", "port", "adapters", "engine", "runs", *(f"serve.{name}" for name in LIMITS)},
    "compress": {"workdir", "input", "output", "compress.layers", "compress.inner", "compress.words"},
    "soup": {"workdir", "runs", "output", "input", "soup.how"},
    "crossfit": {"config", "workdir", "crossfit.folds"},
    "pate": {"config", "workdir", "input", *(f"pate.{name}" for name in PATE)},
    "setfit": {"config", "workdir", *(f"setfit.{name}" for name in SETFIT)},
    "inspect": {"config", "workdir", "draw"},
    "plan": {"config", "workdir", "topology", "plan.search", "plan.exact"},
}
"""Mode -> the flags that it uses, beside those of every mode."""
VALUES = {
    "config": "quickstart", "workdir": "w", "input": "a.csv", "output": "a.jsonl", "adapter": "a", "draw": "x",
    "overwrite": "true", "extend": "true", "profile": "5", "metrics_port": "8001", "topology": "gpu",
    "plan.search": "true", "plan.exact": "true", "format": "onnx", "host": "0.0.0.0", "port": "80", "adapters": "a=b",
    "engine": "onnx", "max_loss": "0.5", "runs": "a,b", "soup.how": "uniform", "crossfit.folds": "3",
    "evaluate.intervals": "0.95", "evaluate.groups": "a", "compare": "r", "audit.crossfit": "f", "audit.canaries": "c",
    **{f"pate.{name}": "3" for name in PATE}, **{f"setfit.{name}": "3" for name in SETFIT}, "predict.dropout": "5",
    "calibrate.coverage": "0.9", "calibrate.sets": "adaptive", "calibrate.distance": "true",
    "compress.layers": "2", "compress.inner": "8", "compress.words": "used", "serve.log_texts": "true",
    **{f"explain.{name}": "x" for name in EXPLAIN if name not in ("samples", "seed", "faithfulness", "examples")},
    "attack.methods": "typo", **{f"attack.{name}": "5" for name in ATTACK if name != "methods"},
    **{f"generate.{name}": "5" for name in GENERATE}, "generate.top_p": "0.5", "generate.min_p": "0.5",
    "chat.system": "Be brief.", "generate.reference": "answer", "generate.metric": "a:b",
    "explain.samples": "5", "explain.seed": "5", "explain.faithfulness": "true",
    "explain.examples": "5",
    **{f"serve.{name}": "5" for name in LIMITS if name != "log_texts"},
}  # fmt: skip


def test_every_flag_is_of_some_mode_or_of_all():
    values = flags.FlagValues()
    arguments.define(values, ["run.py"])
    assert set(USED) == set(MODES) and set().union(*USED.values()) == set(VALUES)
    assert {*VALUES, *arguments.PROCESSES, "mode", "debug", "help", "h"} == set(values)


@pytest.mark.parametrize("flag", VALUES)
@pytest.mark.parametrize("mode", USED)
def test_a_flag_that_a_mode_does_not_use_is_refused(capsys, mode, flag):
    users = [other for other, used in USED.items() if flag in used]
    argv = ["run.py", f"--mode={mode}", f"--{flag}={VALUES[flag]}"]
    if mode in users:
        values = flags.FlagValues()
        arguments.define(values, arguments.in_order(argv))
        arguments.check_config(argv)
        values(arguments.in_order(argv))
        try:
            arguments.check_used(values)
        except UserError as error:
            assert str(error).split(";")[0].endswith(" is missing")
        assert mode in re.findall(r"\w+", str(values[flag].help))
        return
    assert cli.main(argv, None) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --{flag} is not used by --mode={mode}; it is for --mode={', '.join(users)}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("mode", ["evaluate", "predict", "export"])
@pytest.mark.parametrize("first", [True, False])
def test_a_key_of_the_experiment_is_refused_where_the_run_has_it(capsys, mode, first):
    argv = ["--config.train.epochs=2", f"--mode={mode}", "--workdir=w"]
    assert cli.main(["run.py", *(argv if first else argv[::-1])], None) == 2
    assert capsys.readouterr().err == (
        f"error: --config.train.epochs is not used by --mode={mode}; it is for --mode=train, crossfit, pate, setfit, "
        "inspect, plan; here the experiment is that of the run in --workdir\n"
    )


def test_a_flag_at_its_default_says_nothing(finished, capsys):
    argv = ["--mode=inspect", f"--workdir={finished}", "--output=", "--nooverwrite", "--profile=0", "--input="]
    assert cli.main(["run.py", *argv], None) == 0
    assert "bert" in capsys.readouterr().out


KEYS = ["--config.data.columns", "a,b", "--noconfig.compute.remat", "--config.optimizer.learning_rate=3e-4"]


@pytest.mark.parametrize("config", [["--config=quickstart"], ["--config", "quickstart"], ["-config=quickstart"]])
def test_keys_before_their_config_are_the_same_as_after_it(config):
    """Their values may be arguments of their own, tuples, or a `no`."""
    for argv in (["run.py", *KEYS, *config, "--workdir=w"], ["run.py", *config, "--workdir=w", *KEYS]):
        values, ordered = flags.FlagValues(), arguments.in_order(argv)
        arguments.define(values, ordered)
        assert values(ordered) == ["run.py"]
        given = values.config
        assert (given.data.columns, given.compute.remat, given.optimizer.learning_rate) == (("a", "b"), False, 3e-4)
        assert values.workdir == "w"


PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "launch").glob("*.md"), ROOT / "run.py"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_pages_use_flags_of_their_mode(page):
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    for command in re.findall(r"^ +(?:python run\.py|jaxft) (--.*)$", text, re.MULTILINE):
        names = re.findall(r"--([a-z][\w.]*)", command)
        mode = re.search(r"--mode=(\w+)", command)
        used = USED[mode[1] if mode else "train"] | {"mode", "debug", "help", *arguments.PROCESSES}
        assert {"config" if name.startswith("config.") else name for name in names} <= used, command
