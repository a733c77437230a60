"""docs/tasks.md: its table knows every task, its commands are right, and the task that it links to works."""

import json
import re
import shlex
from typing import Any

import numpy as np
import pytest
from absl import flags
from runs import ROOT, experiment, results

from jaxft import config, modes, tables, tasks
from jaxft.cli import arguments
from jaxft.errors import UserError

PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")


@pytest.fixture
def registries():
    """Those of the package, which forget what a test adds."""
    registries: list[dict[Any, Any]] = [config.TASKS, tasks.TASKS, tables.TABLES]
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def test_every_task_is_in_the_table():
    rows = re.findall(r"^\| `(\w+)` \|.*\| `\.\.\.(\w*)`.*\| (.*) \|$", PAGE, re.MULTILINE)
    assert [name for name, *_ in rows] == [kind.__name__ for kind in config.TASKS.values()]
    for (_, head, files), kind in zip(rows, config.TASKS.values(), strict=True):
        assert head == tasks.build(kind()).hf_class
        assert all((ROOT / "configs" / name).is_file() for name in re.findall(r"`([\w.]+)`", files))


def test_commands(monkeypatch, registries):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"^    python (run\.py --config=.*)$", PAGE, re.MULTILINE)
    assert len(commands) >= len(config.TASKS)
    for argv in map(shlex.split, commands):
        values = flags.FlagValues()
        arguments.define(values, argv)
        arguments.check_config(argv)
        assert values(argv)[1:] == [] and config.check(values.config).name


def test_a_task_of_ones_own(tmp_path, tiny_model, cache, registries):
    """Its loss falls below that of the best constant rate, and its export is a Hugging Face model."""
    file = ROOT / "examples" / "task.py"
    assert sum(map(bool, file.read_text().split("\n"))) <= 70
    counts = {"good": 1, "fine": 2, "bad": 6}
    rows = [f"{i} {word} {word},{count}" for i in range(60) for word, count in counts.items()]
    (tmp_path / "messages.csv").write_text("\n".join(["text,count", *rows]) + "\n")
    made = config.load(f"{file}:{tmp_path}/messages.csv")
    data = {"source": made.data.source, "encoding": "utf-8", "shapes": 1}
    train, optimizer = {"epochs": 5, "eval_every": 0}, {"learning_rate": 1e-2}
    e = experiment(tiny_model, cache, data=data, train=train, optimizer=optimizer)
    e.task, e.model.dropout = made.task, 0.0
    modes.train(e, str(tmp_path / "run"))
    rates = np.asarray(list(counts.values()))
    constant = np.mean(rates * np.log(rates.mean()) - rates.mean())
    assert (
        constant + 0.2 < results(tmp_path / "run")["test/log_likelihood"] <= np.mean(rates * np.log(rates) - rates) + 1
    )
    (tmp_path / "new.txt").write_text("7 good good\n8 bad bad\n")
    modes.predict(str(tmp_path / "run"), str(tmp_path / "new.txt"), str(tmp_path / "answers.jsonl"))
    few, many = (json.loads(line)["prediction"] for line in (tmp_path / "answers.jsonl").read_text().splitlines())
    assert few < 3 < many
    assert json.loads((tmp_path / "run" / "export" / "config.json").read_text())["architectures"] == [
        "BertForSequenceClassification"
    ]


def test_a_name_of_the_package_is_not_taken_over(registries):
    class Mine(config.Task):
        pass

    def never(*args: Any) -> Any:
        raise AssertionError

    with pytest.raises(
        UserError, match=r"tables\.register: jaxft has a task 'masked_lm' of its own; choose another name"
    ):
        tables.register("masked_lm", Mine, task=never, table=never)
    assert config.TASKS["masked_lm"] is config.MaskedLM and Mine not in tasks.TASKS and Mine not in tables.TABLES
    for _ in range(2):  # a config file may be loaded twice
        tables.register("mine", Mine, task=never, table=never)
    assert config.TASKS["mine"] is Mine
    assert tasks.TASKS[Mine] is never is tables.TABLES[Mine]
