"""`import jaxft`: light, with what a notebook needs; rows in memory go the way of files; docs/python.md works."""

import copy
import inspect
import json
import os
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest
from runs import ROOT, experiment, lines, results, weights

import jaxft
from jaxft import config, modes, program
from jaxft.data import rows as memory
from jaxft.data import sources
from jaxft.errors import UserError
from jaxft.job import prepare

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
ROWS = [{"text": f"{word} number {i}", "label": word} for i in range(20) for word in ("bad", "good")]


def python(code: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_light():
    heavy = {"jax", "numpy", "flax", "transformers", "jaxft.modes"}
    assert python(f"import jaxft, sys; print(jaxft.__version__, {heavy} & set(sys.modules))") == "0.1.0 set()\n"
    assert python("import jaxft, sys; jaxft.config.load('quickstart'); print('jax' in sys.modules)") == "False\n"


def test_train_is_a_function_and_a_room_in_any_order():
    code = "import jaxft\n{}\nassert callable(jaxft.train) and fit.__name__ == 'fit'"
    for order in (
        "jaxft.train; from jaxft.train.loop import fit",
        "import jaxft.train.loop; fit = jaxft.train.loop.fit",
    ):
        python(code.format(order))


def test_names():
    assert jaxft.compose is program.compose and jaxft.config is config and jaxft.evaluate is modes.evaluate
    assert inspect.isclass(jaxft.Predictor) and callable(jaxft.train) and callable(jaxft.explain)
    assert all(getattr(jaxft, name) for name in jaxft.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = jaxft.trian  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def own(tiny_model, cache):
    """The experiment of a short run without a source."""
    data = {"source": "", "encoding": "utf-8", "train_examples": 0, "validation_examples": 0, "test_examples": 8}
    small = experiment(tiny_model, cache, data=data | {"shapes": 1}, train={"steps": 4, "eval_every": 2})
    small.task.label = "label"  # pyright: ignore[reportAttributeAccessIssue]
    return small


@pytest.fixture(scope="module")
def trained(own, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("memory") / "run"
    found = jaxft.train(copy.deepcopy(own), workdir, data={"train": ROWS})
    assert found == json.loads((workdir / "results.json").read_text())
    return workdir


def test_rows_in_memory_are_the_run_that_a_file_is(trained, own, tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS))
    own = copy.deepcopy(own)
    own.data.source = str(tmp_path / "rows.csv")
    jaxft.train(own, str(tmp_path / "run"))
    assert results(tmp_path / "run") == results(trained) and lines(tmp_path / "run") == lines(trained)
    assert weights(tmp_path / "run") == weights(trained)


def test_a_run_on_rows_is_measured_on_rows(trained):
    again = jaxft.evaluate(trained, data={"train": ROWS})
    assert {k: v for k, v in results(trained).items() if k.startswith("test/")} == pytest.approx(
        {k: v for k, v in again.items() if k.startswith("test/")}
    )
    export = (trained / "export" / "model.safetensors").read_bytes()
    modes.export(str(trained))  # which takes no rows
    assert (trained / "export" / "model.safetensors").read_bytes() == export
    with pytest.raises(UserError, match=r"trained on rows in memory, .*jaxft\.evaluate\(workdir, data=\.\.\.\)"):
        jaxft.evaluate(trained)
    assert json.loads((trained / "config.json").read_text())["data"]["source"] == sources.IN_MEMORY


def test_a_run_is_not_resumed_on_other_rows(own, trained, tmp_path):
    own = copy.deepcopy(own)
    own.train.save_every = 1
    jaxft.train(copy.deepcopy(own), tmp_path / "run", data={"train": ROWS})
    (tmp_path / "run" / "results.json").unlink()
    changed = [row | {"text": row["text"] + " more"} for row in ROWS]
    with pytest.raises(UserError, match=r"other data \(that of config\.data\.source, or its tokens, have changed\)"):
        jaxft.train(copy.deepcopy(own), tmp_path / "run", data={"train": changed})
    jaxft.train(copy.deepcopy(own), tmp_path / "run", data={"train": ROWS})
    assert weights(tmp_path / "run") == weights(trained)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (ROWS, 'data is a list; give {"train": rows}'),
        ({"validation": ROWS}, 'data has no "train"'),
        ({"train": ROWS, "valid": ROWS}, "data has a split 'valid'; did you mean 'validation'?"),
        ({"train": ROWS, "test": []}, "data['test'] has no rows"),
        ({"train": [{"text": "a"}, {"text": {"a": 1}}]}, "row 2: column 'text' is an object"),
        ({"train": {"text": ["a"]}}, "data['train'] is a dict; it must be a list of rows, each a dict of columns"),
        ({"train": 3}, "data['train'] is a int"),
        ({"train": ["a text"]}, "data['train'], row 1: 'a text' is not a dict of columns and values"),
        ({"train": [*ROWS, {"text": 1}]}, "data['train'], row 41: column 'text' is a number (1), but text in row 1"),
        ({"train": [*ROWS, {1: "a"}]}, "data['train'], row 41: \"{1: 'a'}\" is not a dict of columns"),
        ({"train": [*ROWS, {"text": "x"}]}, "data['train'], row 41: no label in 'label'"),
        ({"train": [*ROWS, {"text": "", "label": "bad"}]}, "data['train'], row 41: column 'text' holds empty text"),
    ],
)
def test_a_mistake_in_rows_is_one_line(own, data, said):
    with pytest.raises(UserError) as raised:
        e, splits = memory.given(copy.deepcopy(own), data)
        prepare(config.check(e), given=splits)
    assert said in str(raised.value)


def test_a_source_and_rows(own):
    named = copy.deepcopy(own)
    named.data.source = "rows.csv"
    with pytest.raises(UserError, match=r"config\.data\.source is 'rows\.csv', and data is given too; leave one"):
        memory.given(named, {"train": ROWS})
    assert memory.given(named, None) == (named, None)


def test_the_page(tmp_path, tiny_model, monkeypatch, capsys):
    """Its code as it stands, with a small model for `bert`; it needs 30 lines from texts to answers."""
    first, *others = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 30 and len(others) == 2
    (tmp_path / "bert").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    for block in (first, *others):
        exec(compile(block, "docs/python.md", "exec"), names)
    plt.close()
    accuracy, *answers, last = capsys.readouterr().out.splitlines()
    assert 0 <= float(accuracy) <= 1 and len(answers) == 2 and "prediction" in last
    assert (tmp_path / "loss.png").stat().st_size > 5000
    for link in re.findall(r"\]\(\.\./(.*?)\)", PAGE):
        assert (ROOT / link).is_file(), link
