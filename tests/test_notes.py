"""What a run says of its data at the start: all that was moved, left out, stripped or is odd, of real files."""

import json

import pytest

from jaxft import config
from jaxft.job import prepare


@pytest.fixture
def notes(tmp_path, tiny_model, cache):
    """What is said of a file's rows; the data are read as a run reads them, and nothing is compiled."""

    def said(name: str, content: str, task: config.Task, **data) -> list[str]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        source = config.Data(source=str(tmp_path / name), max_length=8, cache=str(cache), shapes=1, **data)
        train = config.Train(batch_size=4, steps=1)
        e = config.Experiment(model=config.Model(path=str(tiny_model)), task=task, data=source, train=train)
        return prepare(config.check(e)).notes

    return said


def test_texts(notes):
    rows = [(f"word {i}", "pos" if i % 2 else " neg") for i in range(8)] + [("ดีมาก " * 3 + "word " * 9, "odd")]
    content = "text;label\n" + "".join(f"{text};{label}\n" for text, label in rows)
    assert notes("a.csv", content, config.SequenceClassification(), validation_examples=2) == [
        "a.csv: cells are separated by ';', as its first lines tell; else set data.delimiter",
        "a.csv: 4 labels in 'label' have blanks around them, which do not count",
        "carved 2 of 9 training examples off for validation",
        "one training row alone has the labels odd",
        "validation lacks the labels odd",
        "1 of 7 train texts fill config.data.max_length 8; what is longer is cut",
        "warning: 16.7% of the train tokens are unknown to the model's vocabulary; does the tokenizer know their "
        "language and their case?",
    ]


def test_tags(notes):
    content = "".join(f"# id {i}\nAnn{i} U-PER\nwent O\n\n" for i in range(6))
    assert notes("a.conll", content, config.TokenClassification(stride=2), validation_examples=1) == [
        "a.conll: 6 lines that begin with # are comments, and left out",
        "a.conll: tags in 'tags' such as U-PER are read as those of BIOES, S-PER",
        "carved 1 of 6 training examples off for validation",
    ]


def test_spans(notes):
    rows = [{"tokens": f"John {i}", "tags": [[1, 4, "PER"]]} for i in range(6)]
    found = notes("a.jsonl", "\n".join(map(json.dumps, rows)), config.TokenClassification(stride=2))
    assert found[0] == (
        "a.jsonl: 6 of 6 spans in 'tags' begin or end inside a word, and take the whole word: are they counted in "
        "characters?"
    )


def test_answers(notes):
    rows = [
        {"question": "q", "context": f"{i} Rome", "answers": [{"text": "Rome", "answer_start": 2 + i // 5}]}
        for i in range(7)
    ]
    task = config.QuestionAnswering(stride=1, question_length=1, repair="nearest")
    assert notes("a.jsonl", "\n".join(map(json.dumps, rows)), task)[0] == (
        "a.jsonl: 2 answers in 'answers' are not where they say: 2 moved to where they occur nearest, 0 left out, with "
        "0 questions that have no other"
    )


def test_anchors(notes):
    content = "anchor,positive\n" + "".join(f"question {i // 4},answer {i}\n" for i in range(40))
    found = notes("a.csv", content, config.SentenceEmbedding())
    assert found == ["carved 4 of 40 training examples off for validation"]
