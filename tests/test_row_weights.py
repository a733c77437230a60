"""Rows that count for more or less in the loss: from a column to the gradient."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
import support
from runs import experiment, results

from jaxft import config, models, modes, tables
from jaxft.data.batches import assemble
from jaxft.data.features import Features, tokenize
from jaxft.data.packing import Rows
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.hub import load_tokenizer
from jaxft.tables import weighting

SMALL = support.SMALL | {"num_hidden_layers": 1}
NAMES = ("single_label", "regression", "multi_label", "documents")


def test_weights_are_where_their_examples_lie():
    """An empty slot has none, and without a column each example has 1."""
    tokens = {"input_ids": np.arange(1, 5, dtype=np.int32)}
    weighted = Features(np.asarray([0, 2, 3, 4]), tokens, {"weights": np.asarray([0.5, 0, 3], np.float32)})
    places = Rows(np.asarray([0, 1, 0]), np.asarray([0, 0, 1]), np.asarray([0, 0, 2]))
    shape = support.BatchShape(2, 3, 2)
    found = assemble(weighted, np.asarray([2, 1, 0]), places, shape, {}).arrays["weights"]
    assert found.tolist() == [[3, 0.5], [0, 0]] and found.dtype == np.float32
    plain = dataclasses.replace(weighted, examples={})
    assert assemble(plain, np.asarray([2, 1, 0]), places, shape, {}).arrays["weights"].tolist() == [[1, 1], [1, 0]]


def features(case: support.Case, weights: np.ndarray | None, repeats: np.ndarray) -> Features:
    """Random examples, each so often; those of a row together."""
    lengths = [6, 9, 4, 12, 7, 3]
    made = support.random_features(np.random.default_rng(2), case, lengths, SMALL)
    if weights is not None:
        made = dataclasses.replace(made, examples={**made.examples, "weights": weights.astype(np.float32)})
    size = case.size
    rows = np.repeat(np.arange(len(made) // size), repeats[::size])
    taken = made.take((size * rows[:, None] + np.arange(size)).reshape(-1))
    if "row" in taken.examples:
        taken = dataclasses.replace(taken, examples={**taken.examples, "row": np.arange(len(taken)) // size})
    return taken


@pytest.mark.parametrize("name", support.once(NAMES, "single_label"))
def test_a_weight_counts_as_so_many_rows(name: str):
    """Loss and gradients, packed and padded: of weights 2, 1 and 0 those of rows that are there so often."""
    case, model = support.TASKS[name], models.build(SMALL, dropout=0.0)
    case = dataclasses.replace(case, size=2)  # so that rows of documents have their windows, and others are alike
    counts = np.repeat(np.asarray([2, 0, 1]), 2)
    params = support.random_params(case.task, model, seed=0)
    composed = support.compose(case.task, model, keep_gradients=True)
    weighted, repeated = features(case, counts, np.ones(6, int)), features(case, None, counts)
    expected = support.gradients(composed, params, support.lay_out(repeated, case.task, 48, slots=0))
    for slots in (0, 1):
        found = support.gradients(composed, params, support.lay_out(weighted, case.task, 48, slots))
        support.assert_close(found[0], expected[0], 1e-5, floor=1e-3)
        support.assert_close({"": found[1]["loss"]}, {"": expected[1]["loss"]}, 1e-5)


def test_weights_of_one_change_no_bit():
    """Law 8: the batch is the same, and so is the program, which does not know of them."""
    case = support.TASKS["single_label"]
    plain, ones = features(case, None, np.ones(6, int)), features(case, np.ones(6), np.ones(6, int))
    for slots in (0, 1):
        arrays = [support.lay_out(one, case.task, 24, slots).arrays for one in (plain, ones)]
        assert arrays[0].keys() == arrays[1].keys()
        assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


def read(options: config.SequenceClassification, **columns: list) -> Split:
    made = {"text": ["a text"] * 3, "label": ["a", "b", "a"], **columns}
    return tables.build(options).read(Split(pa.table(made), "a.csv", cells=True))


@pytest.mark.parametrize("windows", ["", "max"])
def test_a_column_says_it(tiny_model, windows: str):
    """Numbers, or texts of them; of a long text's windows each has its row's."""
    options = config.SequenceClassification(
        weight="w", windows=windows, stride=2, labels=("a", "b"), problem="single_label"
    )
    split = read(options, w=["0.5", "2", "0"], text=["word " * 9, "a", "b"])
    table, tokenizer = tables.build(options), load_tokenizer(tiny_model)
    found = tokenize(3, lambda a, b: table.features(split.slice(a, b), tokenizer, 8), None)
    rows = found.examples["row"] if windows else np.arange(3)
    assert len(found) > 3 or not windows
    assert found.examples["weights"].tolist() == np.asarray([0.5, 2, 0])[rows].tolist()
    assert "weights" not in table.features(split, tokenizer, 8, labelled=False)
    plain = tables.build(dataclasses.replace(options, weight=""))
    assert "weights" not in plain.features(split, tokenizer, 8)


def test_weights_that_are_none():
    options = config.SequenceClassification(weight="w")
    for values, error in (
        ([1.0, -0.5, 1], r"a\.csv, row 2: weight -0\.5 in 'w'; it must be 0 or more"),
        ([1.0, None, 1], r"a\.csv, row 2: weight None in 'w' is not a finite number"),
        (["1", "2", "x"], r"a\.csv, row 3: weight 'x' in 'w' is not a finite number"),
        ([0, 0, 0], r"a\.csv: all weights in 'w' are 0, so that no row counts"),
    ):
        with pytest.raises(UserError, match=error):
            read(options, w=values)
    with pytest.raises(UserError, match=r"no column 'w'.*set config\.task\.weight"):
        read(options)
    split = Split(pa.table({"text": ["a"]}), "a.csv")
    assert weighting.read(config.SequenceClassification(), split) is split
    assert tables.build(options).read(split, labelled=False).table["text"].to_pylist() == ["a"]


@pytest.mark.matrix
def test_a_run_learns_from_what_counts(tiny_model, cache, tmp_path):
    """Of two labels for each text the one that counts, whose column validation has too."""
    rows = [
        {"text": f"{word} {i}", "label": label, "w": float(word == label)}
        for i in range(60)
        for word in ("good", "bad")
        for label in ("good", "bad")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": str(tmp_path / "rows.jsonl"), "encoding": "utf-8", "train_examples": 0, "shapes": 1}
    e = experiment(
        tiny_model, cache, data=data, train={"epochs": 8, "eval_every": 0}, optimizer={"learning_rate": 1e-2}
    )
    e.task, e.model.dropout = config.SequenceClassification(weight="w"), 0.0
    e.data.validation_fraction, e.data.validation_examples, e.data.test_examples = 0.0, 0, 0
    modes.train(e, str(tmp_path / "run"))
    assert results(tmp_path / "run")["train/steps"] > 0
    (tmp_path / "new.txt").write_text("good 99\nbad 98\n")
    modes.predict(str(tmp_path / "run"), str(tmp_path / "new.txt"), str(tmp_path / "answers.jsonl"))
    said = [json.loads(line)["prediction"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert said == ["good", "bad"]
