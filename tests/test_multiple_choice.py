"""Multiple choice: what is read, questions with different numbers of choices, and a whole run."""

import json
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
import support
from runs import MINILM, assert_packed_is_padded, experiment, results

from jaxft import config, hub, models, modes, tables, tasks
from jaxft.config import MultipleChoice
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.models import nn
from jaxft.tables.choices import CHOICES, RIGHT

COLUMNS = ("a", "b", "c")

FORMS = {
    "columns": (COLUMNS, {"a": ["x", "x"], "b": ["y", "y"], "c": ["z", ""]}, [2, 0]),
    "a list": (("choices",), {"choices": [["x", "y", "z"], ["x", "y"]]}, [2, 0]),
    "letters": (("choices",), {"choices": [["x", "y", "z"], ["x", "y"]]}, ["C", "A"]),
    "texts": (("choices",), {"choices": [["x", "y", "z"], ["x", "y"]]}, ["z", "x"]),
}


@pytest.mark.parametrize(("names", "columns", "labels"), FORMS.values(), ids=FORMS)
def test_forms_of_choices(names: tuple[str, ...], columns: dict, labels: list):
    table = pa.table({"context": ["one", "two"], "label": labels} | columns)
    found = tables.build(MultipleChoice(choices=names)).read(Split(table, "here")).table
    assert found[CHOICES].to_pylist() == [["x", "y", "z"], ["x", "y"]] and found[RIGHT].to_pylist() == [2, 0]


def test_a_context_is_cut_to_the_longest_input():
    """Its question and its choice stay, in the segment after it."""
    assert MINILM is not None
    table = tables.build(MultipleChoice(choices=("choices",), question="question"))
    rows = {"context": ["one two " * 20], "question": ["what?"], "choices": [["this", "or that"]], "label": [1]}
    tokenizer = hub.load_tokenizer(MINILM)
    found = table.features(table.read(Split(pa.table(rows), "here")), tokenizer, 16)
    assert [len(ids) for ids in found["input_ids"]] == [16, 16] and found["labels"].tolist() == [0, 1]
    for ids, types, choice in zip(found["input_ids"], found["token_type_ids"], ("this", "or that"), strict=True):
        said = tokenizer.decode([i for i, kind in zip(ids, types, strict=True) if kind])
        assert said == f"what? {choice} [SEP]" and ids[0] == tokenizer.cls_token_id


def test_questions_may_have_different_numbers_of_choices():
    """The loss is the mean over questions of -log softmax over the choices of each, however rows are filled."""
    sizes, right = [3, 2, 4, 2], [0, 1, 3, 1]
    rows = np.repeat(np.arange(4), sizes).astype(np.int32)
    labels = np.concatenate([np.arange(n) == r for n, r in zip(sizes, right, strict=True)]).astype(np.float32)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, len(rows))
    tokens = rng.integers(1, 40, lengths.sum()).astype(np.int32)
    features = Features(
        np.concatenate([[0], np.cumsum(lengths)]),
        {"input_ids": tokens, "token_type_ids": np.zeros_like(tokens)},
        {"labels": labels, "row": rows},
    )
    task, model = tasks.build(MultipleChoice()), models.build(support.SMALL)
    params = support.random_params(task, model, seed=0)
    forward = jax.jit(lambda batch: task.forward(params, model, batch, nn.Run()))
    for slots in (1, 0):
        host = support.lay_out(features, task, 40, slots)
        outputs = forward(support.arrays(host))
        logits = support.by_example(outputs, task, host, features)["logits"]
        parts = np.split(logits, np.cumsum(sizes)[:-1])
        expected = -np.mean([part[r] - np.log(np.exp(part).sum()) for part, r in zip(parts, right, strict=True)])
        total, weight = task.loss(outputs, support.arrays(host))
        assert weight == 4
        np.testing.assert_allclose(total / weight, expected, rtol=1e-5)
    empty = task.loss(outputs, {**support.arrays(host), "weights": jnp.zeros_like(host.arrays["weights"])})
    assert float(empty[0]) == float(empty[1]) == 0


ANIMALS = ["cat", "dog", "fox", "bird", "fish"]


def stories(count: int, seed: int) -> list[dict]:
    """Which animal the text is about, among two to four."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        choices = rng.sample(ANIMALS, 2 + number % 3)
        right = rng.randrange(len(choices))
        rows.append({"article": f"this is a {choices[right]}", "question": "it is a", "options": choices})
        rows[-1]["answer"] = "ABCD"[right]
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, cache) -> Path:
    folder = tmp_path_factory.mktemp("choices")
    for seed, (split, count) in enumerate({"train": 300, "dev": 20, "test": 60}.items()):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stories(count, seed)))
    e = experiment(
        tiny_model,
        cache,
        data={"source": str(folder), "encoding": "utf-8", "max_length": 16, "shapes": 1},
        train={"epochs": 5, "eval_every": 0},
        optimizer={"learning_rate": 1e-2},
    )
    for key in ("train_examples", "validation_examples", "test_examples"):
        setattr(e.data, key, 0)
    e.task = MultipleChoice(context="article", question="question", choices=("options",), label="answer")
    e.model.dropout = 0.0
    modes.train(e, str(folder / "run"))
    return folder / "run"


def test_a_run_learns_to_choose(trained):
    assert results(trained)["test/accuracy"] > 0.8  # by chance 0.36


def test_packed_is_padded(trained, tmp_path):
    assert_packed_is_padded(trained, trained.parent / "test.jsonl", tmp_path)


def test_predictions(trained):
    rows = stories(7, seed=9)
    unlabelled = [{k: v for k, v in row.items() if k != "answer"} for row in rows]
    (trained.parent / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unlabelled))
    modes.predict(str(trained), str(trained.parent / "new.jsonl"), str(trained.parent / "answers.jsonl"))
    found = [json.loads(line) for line in (trained.parent / "answers.jsonl").read_text().splitlines()]
    for row, answer in zip(rows, found, strict=True):
        assert answer["choice"] == row["options"][answer["prediction"]]
        assert len(answer["probabilities"]) == len(row["options"])
        assert sum(answer["probabilities"]) == pytest.approx(1)
        assert answer["probability"] == max(answer["probabilities"])
    right = ["ABCD"[answer["prediction"]] == row["answer"] for row, answer in zip(rows, found, strict=True)]
    assert sum(right) >= 5


def test_a_batch_is_so_many_questions(trained):
    from jaxft.job import prepare
    from jaxft.storage.workdir import Workdir

    job = prepare(config.check(Workdir(str(trained)).experiment()))
    assert job.order.batches_per_epoch == -(-job.splits["train"].table.num_rows // 16)
    for host, batch in job.feed("train").train(job.order, 0, 2):
        assert len({int(r) for r in np.unique(batch["row"])} - {-1}) == 16
        assert float(batch["labels"].sum()) == 16 and len(host.examples) > 32
