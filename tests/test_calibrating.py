"""--mode=calibrate: what it leaves beside a model, and what predict, evaluate, explain and the service make of it."""

import contextlib
import io
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft import Predictor, cli, modes
from jaxft.hub import CALIBRATION
from jaxft.modes import calibrating
from jaxft.report.tables import number
from jaxft.serve.models import Served
from jaxft.storage.workdir import Workdir
from jaxft.sure import bootstrap, temperature
from jaxft.tables.sequence_classification import SequenceClassification

TEXTS = ["what an unbelievably good day", "no", "never again"]


@pytest.fixture(scope="module")
def calibrated(finished, tmp_path_factory) -> tuple[Path, str, list[str]]:
    """A copy of the finished run, calibrated on its 40 rows of validation; what was said, and put into a bucket."""
    copy, published = shutil.copytree(finished, tmp_path_factory.mktemp("calibrated") / "run"), []
    argv = ["--mode=calibrate", f"--workdir={copy}", "--calibrate.coverage=0.8", "--calibrate.sets=adaptive"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr(Workdir, "publish", lambda self, *names: published.extend(names))
        assert cli.main(["run.py", *argv], None) == 0
    return copy, said.getvalue(), published


@pytest.fixture(scope="module")
def run(calibrated) -> Path:
    return calibrated[0]


@pytest.fixture(scope="module")
def values(run) -> dict:
    return json.loads((run / "export" / CALIBRATION).read_text())["float32"]


def test_it_is_fitted_on_validation_and_measured_on_test(run, values, finished):
    assert values["fitted_on"].endswith("(40 rows)") and {*values["measured"]} == {"validation", "test"}
    fitted, tested = values["measured"]["validation"], values["measured"]["test"]
    assert fitted["log_loss"] <= fitted["log_loss_before"] + 1e-12
    assert fitted["covered"] >= 0.8
    own = json.loads((finished / "results.json").read_text())
    for name, measured in values["measured"].items():
        assert measured["log_loss_before"] == pytest.approx(own[f"{name}/loss"], rel=1e-4)
        assert measured["ece_before"] == pytest.approx(own[f"{name}/ece"], abs=1e-5)
        assert measured["error_of_surest/1"] == pytest.approx(1 - own[f"{name}/accuracy"])
    assert 1 / temperature.MOST < values["applied"]["temperature"] < temperature.MOST
    assert tested["size"] >= 1


def test_it_says_what_it_measured(calibrated, values):
    run, said, published = calibrated
    assert published == ["export"] and f"calibration: {run}/export/{CALIBRATION}" in said
    assert f"fitted on {values['fitted_on']}: temperature " in said
    cells = (re.split("  +", line.strip()) for line in said.splitlines())
    table = {name: row for name, *row in cells}
    measured = values["measured"]
    assert table["validation"] == ["test"], "the head of the table"
    for name, value in measured["validation"].items():
        title, _, share = name.removesuffix("_before").partition("/")
        title = f"errors of the surest {float(share):.0%}" if share else calibrating.COLUMNS[title]
        title += " before" * name.endswith("_before")
        assert table[title] == [number(value), number(measured["test"][name])]


def test_answers_have_it_wherever_the_model_is_opened(run, values, finished, capsys):
    plain, degrees = Predictor.open(finished)(TEXTS), values["applied"]["temperature"]
    capsys.readouterr()
    calibrated = [Predictor.open(path)(TEXTS) for path in (run, run / "export")]
    lines = [line for line in capsys.readouterr().err.splitlines() if "calibrated" in line]
    said = f"temperature {degrees:.4g}, adaptive sets hold the truth of 80% of the rows"
    assert lines == [f"answers are calibrated on {values['fitted_on']}: {said}"] * 2
    for answers in calibrated:
        for before, after in zip(plain, answers, strict=True):
            assert {*after} - {*before} == {"set", "unusual"}
            assert before["prediction"] == after["prediction"] == after["set"][0]
            powers = np.asarray([*before["probabilities"].values()]) ** (1 / degrees)
            assert [*after["probabilities"].values()] == pytest.approx(list(powers / powers.sum()), abs=1e-6)


def test_evaluate_measures_what_answers_have(run, values, monkeypatch):
    """And of the test split, when asked to, with confidence intervals."""
    monkeypatch.setattr(bootstrap, "intervals", partial(bootstrap.intervals, resamples=10))
    found = modes.evaluate(run, intervals=0.9, groups="sentiment")
    counts = [value for name, value in found.items() if re.fullmatch(r"test\[sentiment=\w+\]/rows", name)]
    assert len(counts) == 3 and sum(counts) == 40
    assert found["test/ece_low"] <= found["test/ece_high"] and "validation/ece_low" not in found
    for split in ("validation", "test"):
        assert found[f"{split}/ece"] == pytest.approx(values["measured"][split]["ece"], abs=1e-5)
        assert found[f"{split}/loss"] == pytest.approx(values["measured"][split]["log_loss_before"], rel=1e-4)


def test_explanations_and_the_service_have_the_same_probabilities(run, values):
    predictor = Predictor.open(run)
    for answer, one in zip(predictor(TEXTS), jaxft.explain(predictor, TEXTS, "occlusion", "all"), strict=True):
        assert {each.target: each.probability for each in one.explanations} == pytest.approx(answer["probabilities"])
    said = Served("run", predictor).says()
    assert said["calibration"] == {name: values["applied"][name] for name in ("temperature", "coverage", "sets")}
    assert isinstance(predictor.table, SequenceClassification)
    predictor.table = predictor.table.calibrated(None)
    assert "calibration" not in Served("run", predictor).says()


def test_other_weights_are_not_calibrated_by_it(run, tmp_path, capsys):
    directory = shutil.copytree(run / "export", tmp_path / "export")
    tensors = load_file(directory / "model.safetensors")
    save_file({name: x * np.float32(1.01) for name, x in tensors.items()}, directory / "model.safetensors")
    assert "unusual" not in Predictor.open(directory)(TEXTS)[0]
    assert f"{directory / CALIBRATION} is of other weights than are there now" in capsys.readouterr().err
    again = modes.calibrate(str(directory), inputs=str(labelled(tmp_path)))
    assert {*again} == {"input"} and "covered" not in again["input"]
    assert "unusual" in Predictor.open(directory)(TEXTS)[0] and "set" not in Predictor.open(directory)(TEXTS)[0]


def labelled(folder: Path) -> Path:
    file = folder / "mine.csv"
    file.write_text("text,label\ngood,positive\nbad,negative\nfine,neutral\n")
    return file
