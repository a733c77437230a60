"""What is said of the data at the start, on tables where each count is not zero."""

import numpy as np
import pyarrow as pa
import pytest

from jaxft import config
from jaxft.data import features
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.tables.census import of_classes, of_tokens, unknown_share


def split(labels: list) -> Split:
    return Split(pa.table({"label": labels}), "here")


def test_classes_of_one_row_and_those_that_a_split_lacks():
    options = config.SequenceClassification(labels=("a", "b", "c", "d"), problem="single_label")
    held = {"train": split(["a"] * 9 + ["b"]), "validation": split(["a", "c"]), "test": split(["a", "b", "c", "d"])}
    assert of_classes(options, held) == [
        "one training row alone has the labels b",
        "training lacks the labels c, d",
        "validation lacks the labels b, d",
    ]
    assert of_classes(options, {"train": split(["a", "b", "c", "d"] * 2)}) == []


def test_numbers_of_classes():
    options = config.SequenceClassification(labels=("0", "1"), problem="single_label")
    assert of_classes(options, {"train": split([0, 0, 1])}) == ["one training row alone has the labels 1"]


def test_several_labels_and_tags():
    options = config.SequenceClassification(labels=("a", "b"), problem="multi_label")
    assert of_classes(options, {"train": split([["a"], ["a", "b"]]), "test": split([[], ["b"]])}) == [
        "one training row alone has the labels b",
        "test lacks the labels a",
    ]
    tags = lambda *rows: Split(pa.table({"tags": list(rows)}), "here")  # noqa: E731
    tagged = config.TokenClassification(labels=("O", "B-LOC", "I-LOC", "B-PER", "I-PER"), problem="entities")
    held = {"train": tags(["O", "B-LOC"], ["B-PER", "O"], ["B-PER", "I-PER"]), "validation": tags(["O", "I-LOC"])}
    assert of_classes(tagged, held) == [
        "one training row alone has the types of entities LOC",
        "validation lacks the types of entities PER",
    ]
    words = config.TokenClassification(labels=("DT", "NN"), problem="words")
    assert of_classes(words, {"train": tags(["DT", "NN"], ["NN"])}) == ["one training row alone has the tags DT"]


def test_a_label_for_nearly_every_row():
    options = config.SequenceClassification(labels=tuple(map(str, range(12))), problem="single_label")
    held = {"train": split([str(i % 12) for i in range(20)])}
    assert of_classes(options, held) == [
        "warning: 12 labels in 'label' for 20 training rows; is it a column of classes? for scores set "
        "config.task.problem=regression"
    ]


@pytest.mark.parametrize("options", [config.SequenceClassification(problem="regression"), config.MaskedLM()])
def test_tasks_without_classes(options):
    assert of_classes(options, {"train": split(["a"])}) == []


def of_lengths(*lengths: int, unknown: float = 0.0) -> Features:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Features(offsets, {"input_ids": np.zeros(offsets[-1], np.int32)}, {}, {"unknown": unknown})


def test_texts_that_are_cut_and_unknown_tokens():
    held = {"train": of_lengths(3, 8, 8, unknown=0.4321), "validation": of_lengths(7, unknown=0.01)}
    cut = "2 of 3 train {} fill config.data.max_length 8; what is longer is cut"
    said = [
        "warning: 43.2% of the train tokens are unknown to the model's vocabulary; does the tokenizer know their "
        "language and their case?",
        "1.0% of the validation tokens are unknown to the model's vocabulary",
    ]
    assert of_tokens(config.SequenceClassification(), held, 8) == [cut.format("texts"), *said]
    assert of_tokens(config.MultipleChoice(), held, 8) == [cut.format("choices"), *said]
    assert of_tokens(config.TokenClassification(), held, 8) == said  # its texts have windows
    assert of_tokens(config.SequenceClassification(), {"train": of_lengths(3, 7, unknown=0.0001)}, 8) == []
    few, many = (of_tokens(config.MaskedLM(), {"train": of_lengths(3, unknown=one)}, 8) for one in (0.0005, 0.05))
    assert few == ["0.1% of the train tokens are unknown to the model's vocabulary"]
    assert many[0].startswith("warning: 5.0% of the train tokens are unknown")


def test_the_share_of_unknown_tokens():
    ids = np.asarray([101, 100, 7, 100, 8, 102, 0, 0])
    assert unknown_share(ids, 100, [100, 101, 102, 0]) == 0.5
    assert unknown_share(ids, None, [101]) == 0 and unknown_share(ids[:1], 100, [101]) == 0


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_found_out_is_kept_with_the_features(tmp_path, kept):
    path = tmp_path / "features.arrow" if kept else None
    make = lambda start, stop: {"input_ids": [[1, 2]] * (stop - start)}  # noqa: E731
    about = lambda made: {"unknown": float(made.tokens["input_ids"].sum())}  # noqa: E731
    assert features.tokenize(3, make, path, about).about == {"unknown": 9.0}
    if path:
        assert features.tokenize(3, make, path).about == {"unknown": 9.0}


def test_an_experiment_says_it(tmp_path, tiny_model, cache):
    """Thai, which MiniLM's vocabulary lacks, labels with blanks, a class of one row: as a run's notes say it."""
    from jaxft.job import Body
    from jaxft.tables import build

    rows = {"text": ["ดีมาก"] * 3 + ["good"], "label": ["a", " a", "a", "b"]}
    options = config.SequenceClassification()
    raw = build(options).read(Split(pa.table(rows), "here"))
    options = build(options).resolve({"train": raw})
    data = config.Data(cache=str(cache), max_length=8)
    made = Body.of(config.Model(path=str(tiny_model)), 8).features(raw, build(options), data)
    assert made.about["unknown"] == pytest.approx(3 / 4)
    assert of_classes(options, {"train": raw}) == ["one training row alone has the labels b"]
