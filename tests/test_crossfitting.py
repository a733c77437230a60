"""--mode=crossfit, but for its runs: which rows are whose, and what is written of what the folds say."""

import dataclasses
import datetime
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import experiment

from jaxft import config, modes
from jaxft.data import rows as in_memory
from jaxft.errors import UserError
from jaxft.metrics import confident
from jaxft.modes import crossfitting
from jaxft.report.tables import number

KINDS = {"good": "fine lovely great", "bad": "awful poor broken", "so": "fair usual plain"}


def rows() -> list[dict[str, Any]]:
    """Texts of few words, of which those with a number of 6 have another's label; two are twins."""
    made = []
    for at in range(30):
        label, words = list(KINDS.items())[at % 3]
        given = label if at % 7 != 6 else "so"
        made.append({"number": at, "text": f"{words} {words.split()[at % 3]} {at // 3}", "sentiment": given})
    return [*made, {"number": 30, "text": made[4]["text"], "sentiment": "bad"}]


def options(model: Path = Path("of no model"), cache: Path | str = "") -> config.Experiment:
    keys = {"steps": 1, "epochs": 0.0, "eval_every": 1}
    data = {"max_length": 16, "shapes": 1, "validation_examples": 4, "train_examples": 0, "source": ""}
    return experiment(model, Path(cache), data=data | {"cache": str(cache)}, train=keys)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def pool(folds: int = 3, data: Any = None, seed: int = 0, **keys: Any) -> crossfitting.Pool:
    """The rows in folds; no model is opened."""
    e = options()
    e.seed = seed
    for name, value in keys.items():
        setattr(e.data, name, value)
    return crossfitting._pool(*in_memory.given(e, {"train": rows()} | (data or {})), folds)


def test_rows_are_those_that_a_run_would_train_on(capsys):
    held = rows()[10:13]
    found = pool(data={"validation": held, "test": rows()[20:21]}, train_examples=20, test_examples=3)
    assert len(found.labels) == 20 and found.validation and found.validation.table.num_rows == 3
    texts = found.split.table.column("text").to_pylist()
    assert not {row["text"] for row in held} & {*texts} and "using 20 of 28 train examples" in capsys.readouterr().err
    assert found.task.labels == ("bad", "good", "so") and found.experiment.task == found.task
    assert [found.task.labels[at] for at in found.labels] == found.split.table.column("sentiment").to_pylist()
    sentiments = found.split.table.column("sentiment").to_pylist()
    for fold in range(3):
        given = crossfitting._data(found, fold)
        others = [at for at in range(20) if found.fold_of[at] != fold]
        assert given["train"] == [{"text": texts[at], "sentiment": sentiments[at]} for at in others]
        assert [row["text"] for row in given["validation"]] == [row["text"] for row in held]
    plain = pool()
    assert plain.validation is None and len(plain.labels) == 31 and set(crossfitting._data(plain, 0)) == {"train"}
    assert plain.fold_of.tolist() == pool().fold_of.tolist() and plain.fold_of[4] == plain.fold_of[30]


def test_a_run_of_a_fold_has_all_that_it_is_given():
    e = crossfitting._of_fold(pool(train_examples=20, test_examples=3).experiment, 1, 3)
    assert (e.data.source, e.data.train_examples, e.data.test_examples, e.data.validation_examples) == ("", 0, 0, 4)
    assert e.name == "tiny, fold 2 of 3" and e.task == pool().task
    nameless = dataclasses.replace(pool().experiment, name="")
    assert crossfitting._of_fold(nameless, 0, 2).name == "crossfit, fold 1 of 2"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, crossfitting.Pool, np.ndarray]:
    """What is written of probabilities that are made up; by them several labels are doubtful."""
    folder, found = tmp_path_factory.mktemp("written"), pool()
    probabilities = 0.7 * np.random.default_rng(0).dirichlet(np.full(3, 0.5), 31) + 0.3 * np.eye(3)[found.labels]
    crossfitting._write(folder, found, probabilities)
    return folder, found, probabilities


def test_arrays_are_what_cleanlab_reads(written):
    folder, found, probabilities = written
    np.testing.assert_array_equal(np.load(folder / "pred_probs.npy"), probabilities)
    labels = np.load(folder / "labels.npy")
    assert labels.dtype == np.int64 and labels.tolist() == found.labels.tolist()


def test_a_line_a_row(written):
    folder, found, probabilities = written
    margins = confident.normalized_margin(found.labels, probabilities)
    sure, names = confident.classes(found.labels, probabilities), found.task.labels
    for at, (line, row) in enumerate(zip(lines(folder, "rows.jsonl"), rows(), strict=True)):
        assert line == row | {
            "where": f"data['train'], row {at + 1}",
            "fold": found.fold_of[at],
            "given": row["sentiment"],
            "confidently": None if sure[at] < 0 else names[sure[at]],
            "self_confidence": pytest.approx(probabilities[at, names.index(row["sentiment"])]),
            "normalized_margin": pytest.approx(margins[at]),
            "probabilities": pytest.approx(dict(zip(names, probabilities[at], strict=True))),
        }
    assert -1 in sure


def test_doubtful_rows_are_those_confidently_of_another_class(written):
    folder, found, probabilities = written
    sure, labels = confident.classes(found.labels, probabilities), found.labels
    off = [at for at in range(31) if sure[at] >= 0 and sure[at] != labels[at]]
    doubtful, results = lines(folder, "doubtful.jsonl"), json.loads((folder / "crossfit.json").read_text())
    assert sorted(row["number"] for row in doubtful) == off and 3 < len(off) == results["doubtful"]
    margins = [row["normalized_margin"] for row in doubtful]
    assert margins == sorted(margins) and all(row["confidently"] != row["given"] for row in doubtful)
    assert results["confident_joint"] == confident.joint(labels, sure, 3).tolist() and results["rows"] == 31
    limits = dict(zip(results["labels"], confident.thresholds(labels, probabilities), strict=True))
    assert results["thresholds"] == pytest.approx(limits)
    assert results["metrics"]["accuracy"] == pytest.approx((probabilities.argmax(-1) == labels).mean())


def test_the_page_has_the_most_doubtful_first(written):
    folder, found, probabilities = written
    page, doubtful = (folder / "index.html").read_text(), lines(folder, "doubtful.jsonl")
    flat = re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", page)
    for row in doubtful:
        said = [row["where"], row["text"], row["given"], row["confidently"]]
        said += [number(row["self_confidence"]), number(row["normalized_margin"])]
        at = flat.index(escape(row["where"]))
        assert flat[at : at + 6] == [escape(one) for one in said]
    places = [flat.index(escape(row["where"])) for row in doubtful]
    assert places == sorted(places) and flat[:4] == ["given \\ confidently", "bad", "good", "so"]
    counts = confident.joint(found.labels, confident.classes(found.labels, probabilities), 3)
    assert flat[4:8] == ["bad", *map(str, counts[0])]
    assert f"{len(doubtful)} of 31 rows" in page and "doubtful labels of data[" in page.lower()
    assert flat[flat.index("accuracy") + 1] == number(float((probabilities.argmax(-1) == found.labels).mean()))
    assert "support/bad" not in page
    assert page.count('<td class="name">') == 3 * len(doubtful), "texts and labels are read from the left"


def test_a_column_that_has_the_name_of_a_part_is_shown_as_well(tmp_path):
    e = options()
    e.task = config.SequenceClassification(label="sentiment", text="given")
    renamed = [{"number": at, "given": row["text"], "sentiment": row["sentiment"]} for at, row in enumerate(rows())]
    found = crossfitting._pool(*in_memory.given(e, {"train": renamed}), 2)
    crossfitting._write(tmp_path, found, np.roll(np.eye(3)[found.labels], 1, axis=0))
    doubtful = lines(tmp_path, "doubtful.jsonl")
    numbers = [row["number"] for row in doubtful]
    assert numbers == sorted(numbers) and len(numbers) > 16, "all are as doubtful"
    assert doubtful[0]["given"] in KINDS and f">{doubtful[0]['input.given']}<" in (tmp_path / "index.html").read_text()


def test_files_are_in_the_letters_of_the_rows(tmp_path):
    """And what JSON has no value for is a text."""
    day, labels = datetime.date(2026, 11, 29), ("böse", "schön")
    made = [{"text": f"grün {at}", "sentiment": labels[at % 2], "day": day} for at in range(6)]
    found = crossfitting._pool(*in_memory.given(options(), {"train": made}), 2)
    results = crossfitting._write(tmp_path, found, np.full((6, 2), 0.5))
    assert (tmp_path / "crossfit.json").read_text() == json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    first = (tmp_path / "rows.jsonl").read_text().splitlines()[0]
    assert '"grün 0"' in first and '"2026-11-29"' in first and results["labels"] == list(labels)


def test_weights_of_classes_are_those_of_each_run():
    e = options()
    e.task = config.SequenceClassification(label="sentiment", balanced=True)
    task = crossfitting._pool(*in_memory.given(e, {"train": rows()}), 2).task
    assert task.balanced and task.class_weights == () and task.labels == ("bad", "good", "so")


def test_a_class_without_rows_has_no_threshold(tmp_path):
    e = options()
    e.task = config.SequenceClassification(label="sentiment", labels=("bad", "good", "so", "never"))
    found = crossfitting._pool(*in_memory.given(e, {"train": rows()}), 2)
    results = crossfitting._write(tmp_path, found, np.full((31, 4), 0.25))
    assert results["thresholds"] == {"bad": 0.25, "good": 0.25, "so": 0.25, "never": None}


def test_what_cannot_be_crossed(tmp_path):
    def refused(
        said: str, workdir: Path | str = tmp_path / "new", folds: int = 2, data: Any = None, **task: Any
    ) -> None:
        e = options()
        given: dict[str, Any] = {"label": "sentiment"} | task
        e.task = config.SequenceClassification(**given)
        with pytest.raises(UserError, match=said):
            modes.crossfit(e, str(workdir), folds, {"train": data or rows()})
        assert not (tmp_path / "new").exists()

    refused(r"--crossfit\.folds is 1; it must be at least 2", folds=1)
    refused(r"--crossfit\.folds is 31, but there are only 30 different rows; give fewer folds", folds=31)
    refused("--workdir gs://bucket/folds: folds are written to a folder of this machine; give one", "gs://bucket/folds")
    several = [{"text": "a", "sentiment": ["x"]}, {"text": "b", "sentiment": ["y"]}]
    refused("this is SequenceClassification multi_label", data=several)
    refused("this is SequenceClassification regression", label="number", problem="regression")
    folder = tmp_path / "some" / "folds"
    for _ in range(2):
        crossfitting._claim(folder, pool(2), 2)
        assert [file.name for file in folder.iterdir()] == ["folds.json"]
    refused(r"folds holds folds of others \(folds: 2 there, 3 here\); choose another --workdir", folder, folds=3)
    refused(r"holds folds of others \(rows: 31 there, 30 here\)", folder, data=rows()[1:])
    changed = [row | {"text": row["text"] + "!"} for row in rows()]
    refused(r"holds folds of others \(data: ", folder, data=changed)
    with pytest.raises(UserError, match=r"\(seed: 0 there, 1 here\)"):
        crossfitting._claim(folder, pool(2, seed=1), 2)
    with pytest.raises(UserError, match=r"\(data: "):
        crossfitting._claim(folder, pool(2, {"validation": [rows()[0] | {"text": "other"}]}), 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    refused("full is not empty and holds no folds; choose another --workdir", tmp_path / "full")
    (tmp_path / "full" / "a").rename(tmp_path / "full" / ".folds.json")  # cut off while it was claimed
    crossfitting._claim(tmp_path / "full", pool(2), 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/in: Not a directory; choose a folder that can be written"):
        crossfitting._claim(tmp_path / "file" / "in", pool(2), 2)
