"""Labels of texts: single and several, weighted, and a whole run on texts, pairs of them, that can have several."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from runs import assert_packed_is_padded, experiment, lines, results
from sklearn.utils.class_weight import compute_class_weight

from jaxft import config, modes, tables
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.job import prepare
from jaxft.storage.workdir import Workdir
from jaxft.tables import labels, weighting

NAMES = (["joy"], [], ["anger", "joy"], ["fear"])


def resolved(table: dict, **options) -> tuple[config.SequenceClassification, Split]:
    raw = Split(pa.table({"text": ["a text"] * len(next(iter(table.values())))} | table), "texts")
    asked = config.SequenceClassification(**options)
    read = tables.build(asked).read(raw)
    return tables.build(asked).resolve({"train": read}), read


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ({"label": pa.array(NAMES, pa.list_(pa.string()))}, {}),
        ({"label": ["joy", "", "joy; anger", "fear"]}, {"problem": "multi_label", "delimiter": ";"}),
        (
            {"anger": [0, 0, 1, 0], "fear": [False, False, False, True], "joy": [1.0, 0.0, 1.0, 0.0]},
            {"label_columns": ("anger", "fear", "joy")},
        ),
    ],
    ids=["lists", "names in a text", "columns"],
)
def test_several_labels_however_they_are_written(table, options):
    found, split = resolved(table, **options)
    assert (found.problem, found.labels) == ("multi_label", ("anger", "fear", "joy"))
    assert labels.ids(found, split).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_balanced_class_weights():
    column = ["b"] * 6 + ["a"] * 2 + ["c"]
    found, _ = resolved({"label": column}, balanced=True)
    expected = compute_class_weight("balanced", classes=np.asarray(["a", "b", "c"]), y=column)
    np.testing.assert_allclose(found.class_weights, expected, rtol=1e-12)
    found, _ = resolved({"label": pa.array(NAMES, pa.list_(pa.string()))}, balanced=True)
    assert found.class_weights == (3, 3, 1)
    found, _ = resolved({"label": column}, class_balance=0.9)
    assert found.class_weights == pytest.approx(weighting.effective(np.asarray([2, 6, 1]), 0.9))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"class_weights": (1.0,)}, "config.task.class_weights has 1 numbers for 2 labels: a, b"),
        ({"thresholds": (0.5, 0.5)}, "config.task.thresholds is set, but the problem is single_label"),
        ({"problem": "multi_label", "label_smoothing": 0.1}, "config.task.label_smoothing is set"),
        (
            {"problem": "multi_label", "generalized": 0.1},
            "config.task.generalized is set",
        ),
        ({"problem": "multi_label", "class_balance": 0.9}, "config.task.class_balance is set"),
        ({"focal": 2.0, "symmetric": 0.1}, "config.task.focal and config.task.symmetric are set, and each is another"),
        (
            {"problem": "multi_label", "sampling": "balanced"},
            "config.task.sampling is set, but the problem is multi_label",
        ),
        (
            {"problem": "multi_label", "contrastive": 0.5},
            "config.task.contrastive is set, but the problem is multi_label",
        ),
        ({"balanced": True, "class_balance": 0.9}, "config.task.balanced and config.task.class_balance are set"),
    ],
)
def test_options_that_do_not_fit(options, said):
    with pytest.raises(UserError, match=said):
        resolved({"label": ["a", "b"]}, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, cache) -> Path:
    """On pairs of texts of which the label tells which words occur in the first, and whether the second is "yes"."""
    folder = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(0)
    words = ["red", "green", "blue"]
    for split, count in (("train", 800), ("dev", 60), ("test", 60)):
        rows = []
        for number in range(count):
            held = [word for word in words if rng.random() < 0.4]
            yes = bool(rng.random() < 0.2)
            first = " ".join(rng.permutation([*held, "box", str(number)]))
            rows.append({"text": first, "second": "yes" if yes else "no", "label": held + ["yes"] * yes})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    e = experiment(
        tiny_model,
        cache,
        data={"source": str(folder), "encoding": "utf-8", "max_length": 16, "shapes": 1},
        train={"epochs": 11, "eval_every": 100},
        optimizer={"learning_rate": 3e-3},
    )
    for key in ("train_examples", "validation_examples", "test_examples"):
        setattr(e.data, key, 0)
    e.task = config.SequenceClassification(text_pair="second")
    modes.train(e, str(folder / "run"))
    return folder / "run"


def test_a_run_with_several_labels(trained):
    found = results(trained)
    assert found["test/f1_macro"] > 0.8 and found["test/average_precision_macro"] > 0.9
    chosen = {key.removeprefix("threshold/"): value for key, value in best(trained).items() if "threshold/" in key}
    assert chosen.keys() == {"blue", "green", "red", "yes"} and len(set(chosen.values()) - {0.5}) > 2
    assert json.loads((trained / "export" / "config.json").read_text())["thresholds"] == chosen
    test = next(line for line in lines(trained) if line["split"] == "test")
    assert {key: value for key, value in test.items() if "threshold/" in key} == {
        f"threshold/{name}": value for name, value in chosen.items()
    }


def test_thresholds_are_not_chosen_on_the_test_split(trained, tmp_path):
    """Without validation they are those that predictions take."""
    for name in ("train", "test"):
        shutil.copy(trained.parent / f"{name}.jsonl", tmp_path)
    e = Workdir(trained).experiment()
    e.data.source, e.data.validation, e.data.validation_fraction = str(tmp_path), "", 0.0
    e.train = config.Train(batch_size=e.train.batch_size, steps=2)
    modes.train(e, str(tmp_path / "run"))
    for found in (results(tmp_path / "run"), modes.evaluate(str(tmp_path / "run"))):
        assert {value for key, value in found.items() if key.startswith("test/threshold/")} == {0.5}
    assert "thresholds" not in json.loads((tmp_path / "run" / "export" / "config.json").read_text())


def test_packed_is_padded(trained, tmp_path):
    assert_packed_is_padded(trained, trained.parent / "test.jsonl", tmp_path)


def best(run: Path) -> dict:
    step = results(run)["best_step"]
    return next(line for line in lines(run) if (line["split"], line["step"]) == ("validation", step))


def test_predictions_use_the_thresholds_and_pytorch_the_same_pairs(torch, trained):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    file = trained.parent / "test.jsonl"
    modes.predict(str(trained), str(file), str(trained.parent / "answers.jsonl"))
    answers = [json.loads(line) for line in (trained.parent / "answers.jsonl").read_text().splitlines()]
    model = AutoModelForSequenceClassification.from_pretrained(trained / "export").eval()
    assert model.config.problem_type == "multi_label_classification"
    tokenizer = AutoTokenizer.from_pretrained(trained / "export")
    texts = [[answer[key] for answer in answers] for key in ("text", "second")]
    with torch.no_grad():
        logits = model(**tokenizer(*texts, return_tensors="pt", padding=True)).logits
    names = [model.config.id2label[i] for i in range(4)]
    ours = [[answer["probabilities"][name] for name in names] for answer in answers]
    np.testing.assert_allclose(ours, torch.sigmoid(logits), atol=1e-4)
    least = best(trained)
    for answer in answers:
        over = [name for name in names if answer["probabilities"][name] >= least[f"threshold/{name}"]]
        assert answer["prediction"] == over
    right = sum(sorted(answer["label"]) == answer["prediction"] for answer in answers)
    assert right / len(answers) == pytest.approx(results(trained)["test/subset_accuracy"])


def test_rows_are_drawn_by_how_rare_their_class_is():
    options, split = resolved({"label": ["b", "a", "b", "b"]}, sampling="balanced")

    def drawn(options: config.Task, columns: dict[str, np.ndarray]) -> list[float] | None:
        found = tables.build(options).sampling(Features(np.arange(len(columns["labels"]) + 1), {}, columns))
        return None if found is None else found.tolist()

    one = {"labels": labels.ids(options, split)}
    assert drawn(options, one) == [1 / 3, 1, 1 / 3, 1 / 3]
    windows = {"labels": np.asarray([0, 0, 1, 1, 1]), "row": np.asarray([0, 0, 1, 2, 2])}
    assert drawn(dataclasses.replace(options, windows="mean"), windows) == [1, 1 / 2, 1 / 2]
    assert drawn(dataclasses.replace(options, sampling=""), one) is None is drawn(config.MultipleChoice(), one)


def test_an_epoch_of_a_run_has_as_much_of_each_class(tiny_model, cache):
    job = prepare(config.check(experiment(tiny_model, cache, task={"sampling": "balanced"})))
    labels = job.features["train"].examples["labels"]
    drawn = np.concatenate([job.order[i] for i in range(job.order.batches_per_epoch)])
    counts = np.bincount(labels[drawn])
    assert len(drawn) == len(labels) and np.abs(counts - len(labels) / 3).max() <= 1 < np.ptp(np.bincount(labels))
