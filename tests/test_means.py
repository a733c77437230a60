"""The mean of several models' answers, of every task: of probabilities, scores and vectors."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from support import TASKS, random_features

from jaxft import config, tables
from jaxft.data.features import Features
from jaxft.tables import means
from jaxft.tables.base import Table

RNG = np.random.default_rng(0)
SIZE = 9


def features(row: list[int] | None = None) -> Features:
    """Nine tokens of four examples, of the rows that are given."""
    examples = {"row": np.asarray(row)} if row else {}
    return Features(np.asarray([0, 2, 5, 6, SIZE]), {"input_ids": np.zeros(SIZE, np.int32)}, examples)


def logits(*shape: int) -> np.ndarray:
    return RNG.normal(0, 4, (3, *shape)).astype(np.float32)


def mean(options: config.Task, features: Features, **outputs: np.ndarray) -> dict[str, np.ndarray]:
    """Of three models, whose outputs are `[3, ...]`."""
    several = [{name: array[at] for name, array in outputs.items()} for at in range(3)]
    found = tables.build(options).mean(several, features)
    assert found.keys() == outputs.keys() and all(array.dtype == np.float32 for array in found.values())
    return dict(found)


def test_of_classes_and_tags_it_is_that_of_probabilities():
    of = logits(4, 3)
    found = mean(config.SequenceClassification(labels=tuple("abc"), problem="single_label"), features(), logits=of)
    np.testing.assert_allclose(softmax(found["logits"], -1), softmax(of, -1).mean(0), atol=1e-6)
    of = logits(SIZE, 3)
    found = mean(config.TokenClassification(labels=tuple("abc"), problem="words"), features([0, 0, 1, 2]), logits=of)
    np.testing.assert_allclose(softmax(found["logits"], -1), softmax(of, -1).mean(0), atol=1e-6)


def test_of_labels_it_is_that_of_each_by_itself():
    of = logits(4, 3)
    found = mean(config.SequenceClassification(labels=tuple("abc"), problem="multi_label"), features(), logits=of)
    np.testing.assert_allclose(expit(found["logits"]), expit(of).mean(0), atol=1e-6)


def test_of_scores_it_is_the_mean():
    of = logits(4, 1)
    found = mean(config.SequenceClassification(problem="regression"), features(), logits=of)
    np.testing.assert_allclose(found["logits"], of.mean(0), atol=1e-6)


def test_of_choices_it_is_that_of_probabilities_among_a_questions():
    of = logits(4)
    found = mean(config.MultipleChoice(), features([0, 0, 0, 1]), logits=of)["logits"]
    np.testing.assert_allclose(softmax(found[:3]), softmax(of[:, :3], -1).mean(0), atol=1e-6)
    np.testing.assert_allclose(found[3], 0, atol=1e-6)


def test_of_spans_it_is_that_of_both_ends_among_all_windows_of_a_question():
    """The first question has two windows, of five tokens together."""
    of = {name: logits(SIZE) for name in ("start_logits", "end_logits")}
    found = mean(config.QuestionAnswering(), features([0, 0, 1, 2]), **of)
    for name, one in of.items():
        for low, high in ((0, 5), (5, 6), (6, 9)):
            wanted = softmax(one[:, low:high], -1).mean(0)
            np.testing.assert_allclose(np.exp(found[name][low:high]), wanted, atol=1e-6)


def test_of_vectors_it_is_one_of_length_1():
    of = logits(4, 6)
    of /= np.linalg.norm(of, axis=-1, keepdims=True)
    of[:, 3] = [[1, 0, 0, 0, 0, 0], [-1, 0, 0, 0, 0, 0], [0] * 6]
    found = mean(config.SentenceEmbedding(), features(), embeddings=of)["embeddings"]
    wanted = of.mean(0)
    np.testing.assert_allclose(found[:3], wanted[:3] / np.linalg.norm(wanted[:3], axis=-1)[:, None], atol=1e-6)
    np.testing.assert_array_equal(found[3], np.zeros(6))


@pytest.mark.parametrize("of", [means.of_classes, means.of_labels])
def test_what_is_nearly_sure_stays_apart(of):
    """Probabilities that float32, and their sum even float64, would round to 0 and 1."""
    sure = np.asarray([[[0.0, 800.0]], [[0.0, 700.0]]], np.float32)
    found = of(sure)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, 1] - found[0, 0], 700 + np.log(2), rtol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_a_model_by_itself_answers_as_ever(name):
    """Twice the same model is that model: up to what no answer depends on, a constant of each softmax."""
    case = TASKS[name]
    if type(case.table).mean is Table.mean:
        with pytest.raises(NotImplementedError, match="there is no mean"):
            case.table.mean([], features())
        return
    made = random_features(np.random.default_rng(0), case, [3, 4, 2, 5], {"vocab_size": 40})
    sizes = {"example": len(made), "token": int(made.offsets[-1])}
    width = {"logits": () if name == "choices" else (len(getattr(case.options, "labels", ())) or 1,)}
    one = {n: RNG.normal(size=(sizes[per], *width.get(n, ()))) for n, per in case.task.outputs.items()}
    if name == "embeddings":
        one = {n: np.eye(len(made)) for n in one}
    found = case.table.mean([one, one], made)
    for n, array in one.items():
        apart = found[n] - array
        if array.ndim == 1:
            bounds = made.bounds if name == "choices" else made.offsets[made.bounds]
            apart = apart - np.repeat(apart[bounds[:-1]], np.diff(bounds))
        elif name not in ("regression", "multi_label", "embeddings"):
            apart = apart - apart[:, :1]
        np.testing.assert_allclose(apart, 0, atol=1e-5)


def test_thresholds_are_those_that_answers_are_made_with():
    many = config.SequenceClassification(labels=("a", "b"), problem="multi_label")
    assert tables.build(many).thresholds() == {"a": 0.5, "b": 0.5}
    assert tables.build(many).decide({"a": 0.2, "b": 0.7}).thresholds() == {"a": 0.2, "b": 0.7}
    one = config.SequenceClassification(labels=("a", "b"), problem="single_label")
    assert tables.build(one).thresholds() == {} == tables.build(config.MultipleChoice()).thresholds()
    open_ = tables.build(config.QuestionAnswering(unanswerable="yes"))
    assert open_.thresholds() == {"no_answer": 0.0}
    assert open_.decide({"no_answer": -1.5}).thresholds() == {"no_answer": -1.5}
    assert tables.build(config.QuestionAnswering(unanswerable="no")).thresholds() == {}
