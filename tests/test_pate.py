"""--mode=pate: who sees which row, how votes are counted, what it promises, and what is written for the student."""

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from runs import MINILM, TINY, write_config
from support import random_params
from test_crossfitting import lines, options, rows

from jaxft import Predictor, cli, config, models, modes, tasks
from jaxft.data import rows as in_memory
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.modes import voting
from jaxft.modes.shared import claim
from jaxft.sure import private

TEACHERS = voting.Options(teachers=3, sigma=1.5, delta=1e-3)


@pytest.fixture(scope="module")
def public(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("public") / "public.txt"
    file.write_text("fine and lovely\nawful\n\nplain and usual\ngreat\n")
    return file


def pool(public: Path, given: Any = None, **keys: Any) -> voting.Pool:
    e = options()
    for name, value in keys.items():
        setattr(e.data, name, value)
    return voting._pool(*in_memory.given(e, given or {"train": rows()}), str(public), TEACHERS)


def test_epsilon_is_the_least_that_any_order_gives():
    """Papernot et al. 2018, proposition 8, over a fine grid of orders."""
    for queries, sigma, delta in ((1, 1.0, 1e-5), (100, 20.0, 1e-5), (1000, 40.0, 1e-6), (5, 0.3, 0.1)):
        orders = 1 + np.exp(np.linspace(-12, 12, 200_001))
        found = orders * queries / sigma**2 + math.log(1 / delta) / (orders - 1)
        assert private.epsilon(queries, sigma, delta) == pytest.approx(found.min(), rel=1e-6)
    assert private.epsilon(100, 20.0, 1e-5) == pytest.approx(3.6, abs=0.05), "as docs/private.md says"
    assert private.epsilon(0, 1.0, 1e-5) == 0


def test_noise_is_normal_and_on_every_count():
    """Of two classes the first is said as often as a normal number of deviation sigma sqrt(2) stays below 4."""
    votes = np.tile([7.0, 3.0], (40_000, 1))
    found = private.noisy_votes(votes, 3.0, np.random.default_rng(0))
    wanted = 0.5 * (1 + math.erf(4 / (3 * math.sqrt(2)) / math.sqrt(2)))
    assert (found == 0).mean() == pytest.approx(wanted, abs=0.01)
    plain = np.random.default_rng(1).integers(0, 5, (50, 4)) + 0.1 * np.arange(4)
    assert (private.noisy_votes(plain, 1e-9, np.random.default_rng(0)) == plain.argmax(-1)).all()


def test_a_row_more_or_less_changes_the_part_of_one_teacher():
    texts = [f"text {at}" for at in range(60)] + ["text 3"]
    split = Split(pa.table({"text": texts}), "a.csv")
    whole = voting.parts(split, ("text",), 4, 0)
    assert whole[3] == whole[60] and {*whole} == {0, 1, 2, 3} and min(Counter(whole.tolist()).values()) > 5
    fewer = voting.parts(split.take(np.arange(1, 61)), ("text",), 4, 0)
    assert fewer.tolist() == whole[1:].tolist()
    assert voting.parts(split, ("text",), 4, 1).tolist() != whole.tolist()
    pairs = Split(pa.table({"text": ["a"] * 40, "other": [str(at) for at in range(40)]}), "a.csv")
    assert len({*voting.parts(pairs, ("text", "other"), 4, 0).tolist()}) == 4


def test_teachers_see_training_rows_alone_each_its_own(public, capsys):
    found = pool(public, {"train": rows(), "validation": rows()[:5], "test": rows()[5:9]})
    assert found.split.table.num_rows == len(found.part_of) == 31 and voting._names(found) == ["bad", "good", "so"]
    assert found.public.table.column("text").to_pylist() == ["fine and lovely", "awful", "plain and usual", "great"]
    assert "1 of 5 rows are blank; they are left out" in capsys.readouterr().err
    own = found.split.take(np.flatnonzero(found.part_of == 1))
    assert voting._read(found, own) == [
        {"text": row["text"], "sentiment": row["sentiment"]}
        for row, part in zip(rows(), found.part_of, strict=True)
        if part == 1
    ]
    e = voting._of_teacher(found.experiment, 1, TEACHERS)
    assert (e.name, e.data.source, e.data.test_examples) == ("tiny, teacher 2 of 3", "", 0)
    weighted = dataclasses.replace(found.experiment.task, weight="number")
    heavy = found._replace(experiment=dataclasses.replace(found.experiment, task=weighted))
    assert voting._read(heavy, own)[0].keys() == {"text", "sentiment", "number"}


def test_what_is_for_the_student(public, tmp_path, capsys):
    """The labelled rows and what they tell, in one folder; and whoever asks again is told the same."""
    found, folder = pool(public), tmp_path / "pate"
    claim(folder, voting.CLAIM, voting._of(found, TEACHERS), "teachers")
    results = voting._write(folder, found, TEACHERS, np.asarray([1, 0, 2, 1]))
    assert results == {
        "epsilon": private.epsilon(4, 1.5, 1e-3),
        "teachers": 3,
        "sigma": 1.5,
        "delta": 1e-3,
        "queries": 4,
        "labels": ["bad", "good", "so"],
        "public": "public.txt",
    }
    assert {*(path.name for path in (folder / "student").iterdir())} == {"labelled.jsonl", "pate.json"}
    assert lines(folder / "student", "labelled.jsonl") == [
        {"text": "fine and lovely", "sentiment": "good"},
        {"text": "awful", "sentiment": "bad"},
        {"text": "plain and usual", "sentiment": "so"},
        {"text": "great", "sentiment": "good"},
    ]
    assert f"({results['epsilon']:.3g}, 0.001)-differentially private" in capsys.readouterr().err
    assert modes.pate(options(), str(folder), str(public), TEACHERS, {"train": rows()}) == results
    assert {path.name for path in folder.iterdir()} == {"teachers.json", "student"}, "nobody was trained"
    written = (folder / "student" / "pate.json").read_text()
    assert written == json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("other words\n")
    with pytest.raises(UserError, match=r"holds teachers of others \(public: "):
        modes.pate(options(), str(folder), str(elsewhere), TEACHERS, {"train": rows()})
    for other, said in (
        ((TEACHERS, {"train": rows()[1:]}), "holds teachers of others (data: "),
        (
            (dataclasses.replace(TEACHERS, sigma=2.0), {"train": rows()}),
            "holds teachers of others (sigma: 1.5 there, ",
        ),
    ):
        with pytest.raises(UserError) as caught:
            modes.pate(options(), str(folder), str(public), *other)
        assert said in str(caught.value)


def test_what_was_cut_off_is_written_anew(public, tmp_path):
    found = pool(public)
    (tmp_path / ".student").mkdir()
    (tmp_path / ".student" / "left").write_text("half")
    voting._write(tmp_path, found, TEACHERS, np.zeros(4, int))
    assert {path.name for path in tmp_path.iterdir()} == {"student"} and not (tmp_path / "student" / "left").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teachers": 1}, "--pate.teachers is 1; it must be at least 2"),
        ({"sigma": 0.0}, "--pate.sigma is 0.0; without noise nothing is private"),
        ({"sigma": math.nan}, "--pate.sigma is nan"),
        ({"delta": 0.0}, "--pate.delta is 0.0; it must be between 0 and 1"),
        ({"delta": 1.0}, "--pate.delta is 1.0; it must be between 0 and 1"),
    ],
)
def test_votes_that_would_not_be_private(public, tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        modes.pate(options(), str(tmp_path), str(public), dataclasses.replace(TEACHERS, **change), {"train": rows()})


def test_rows_that_cannot_be_voted_on(public, tmp_path):
    with pytest.raises(UserError, match="train_examples chooses rows by how many others there are"):
        pool(public, train_examples=20)
    with pytest.raises(UserError, match=r"--pate\.teachers is 3, but teacher . has no rows; give fewer"):
        pool(public, {"train": [{"text": text, "sentiment": text} for text in "ab"]})
    e = options()
    e.task = config.SequenceClassification(label="number", problem="regression")
    with pytest.raises(UserError, match=r"is for SequenceClassification with a class .* this is .* regression"):
        voting._pool(*in_memory.given(e, {"train": rows()}), str(public), TEACHERS)
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(UserError, match="is empty"):
        pool(tmp_path / "blank.txt")
    (tmp_path / "other.csv").write_text("words\nfine\n")
    with pytest.raises(UserError, match=r"other\.csv has no column 'text', which the teachers read"):
        pool(tmp_path / "other.csv")
    with pytest.raises(UserError, match="s3://b/f: teachers are written to a folder of this machine"):
        modes.pate(options(), "s3://b/f", str(public), TEACHERS, {"train": rows()})


@pytest.mark.matrix
def test_public_rows_have_the_label_that_most_teachers_give(cache, public, tmp_path):
    """From the command line, with next to no noise; the student's file trains a run."""
    hf, task = TINY | {"num_hidden_layers": 1}, tasks.build(config.SequenceClassification(labels=("a", "b")))
    params = random_params(task, models.build(hf), seed=0)
    assert MINILM
    export.export(tmp_path / "model", {"bert": params["bert"]}, hf, "BertModel", MINILM, "A.")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    e = options(tmp_path / "model", cache)
    e.data.source, e.data.encoding, e.data.validation_examples = str(tmp_path / "rows.jsonl"), "utf-8", 1
    file, folder = write_config(tmp_path / "pate.py", e), tmp_path / "pate"
    argv = ["--mode=pate", f"--config={file}", f"--workdir={folder}", f"--input={public}", "--pate.teachers=3"]
    assert cli.main(["run.py", *argv, "--pate.sigma=1e-9"], None) == 0
    texts = [row["text"] for row in lines(folder / "student", "labelled.jsonl")]
    votes = [Counter() for _ in texts]
    for teacher in range(3):
        held = json.loads((folder / f"teacher-{teacher}" / "config.json").read_text())
        assert held["name"] == f"tiny, teacher {teacher + 1} of 3" and held["task"]["labels"] == ["bad", "good", "so"]
        for count, answer in zip(votes, Predictor.open(folder / f"teacher-{teacher}")(texts), strict=True):
            count[answer["prediction"]] += 1
    for row, count in zip(lines(folder / "student", "labelled.jsonl"), votes, strict=True):
        assert count[row["sentiment"]] == max(count.values())
    assert json.loads((folder / "student" / "pate.json").read_text())["queries"] == 4
