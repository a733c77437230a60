"""Any file and any table ends in examples of the task, or in one line that says what is wrong with it.

A few tables a task; `JAXFT_FUZZ=2000 pytest tests/test_fuzz_tables.py --hypothesis-profile=search` tries so many, new
ones in each run.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzed import KINDS, files, tables_of
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from runs import MINILM
from support import NO_SHRINKING

from jaxft import config, hub, tables
from jaxft.data import rows, sources, splits
from jaxft.data.features import tokenize
from jaxft.errors import UserError
from jaxft.tables import census

COUNT = int(os.environ.get("JAXFT_FUZZ", "12"))
LENGTH = 12
pytestmark = [pytest.mark.timeout(300 + COUNT)] if "JAXFT_FUZZ" in os.environ else []


@pytest.fixture(scope="module")
def tokenizers():
    assert MINILM is not None
    return {words: hub.load_tokenizer(MINILM, words) for words in (False, True)}


def prepared(options: config.Task, read: dict[str, sources.Split], tokenizers: dict[bool, Any]) -> int:
    """As a run prepares its data; returns the number of training examples."""
    table = tables.build(options)
    raw = {name: table.read(split) for name, split in read.items()}
    resolved = table.resolve(raw)
    table = tables.build(resolved)
    data = config.Data(validation_fraction=0.3)
    parts, _ = splits.prepare(raw, data, 0, table.inputs, splits.carving(resolved))
    made = {name: features(table, split, tokenizers, True) for name, split in parts.items()}
    census.of_classes(resolved, parts)
    census.of_tokens(resolved, made, LENGTH)
    return len(made["train"])


def features(table: tables.Table, split: sources.Split, tokenizers: dict[bool, Any], labelled: bool) -> Any:
    made = tokenize(
        split.table.num_rows,
        lambda start, stop: table.features(split.slice(start, stop), tokenizers[table.words], LENGTH, labelled),
        None,
    )
    assert made.lengths.min(initial=1) >= 0 and made.lengths.max(initial=0) <= LENGTH
    for name, column in made.examples.items():
        assert column.dtype.kind != "f" or np.isfinite(column).all(), name
    return made


def outcome(work: Any) -> Any:
    """What was made, or the line that says what is wrong; any other exception is a fault."""
    try:
        return work()
    except UserError as error:
        assert str(error) and "\n" not in str(error), repr(str(error))
        return str(error)


def judge(task: str, case: tuple[int, tuple[str, bytes]], tokenizers: dict[bool, Any]) -> None:
    """Trains on a file's rows and predicts from them, up to where the model would begin."""
    number, (name, content) = case
    options = KINDS[task][number][0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        found = outcome(lambda: sources.read(config.Data(source=str(path))))
    if isinstance(found, str):
        event("not read")
        return
    event("refused" if isinstance(outcome(lambda: prepared(options, found, tokenizers)), str) else "learned from")
    table = tables.build(options)
    for split in found.values():
        assert len(sources.blank(split, table.inputs)) == split.table.num_rows
        outcome(lambda split=split: features(table, table.read(split, labelled=False), tokenizers, False))


FUZZ = settings(
    max_examples=COUNT,
    phases=NO_SHRINKING,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    deadline=None,
)


@st.composite
def cases(draw: st.DrawFn, task: str) -> tuple[int, tuple[str, bytes]]:
    """Which kind of table of the task, and the file."""
    number = draw(st.integers(0, len(KINDS[task]) - 1))
    return number, draw(files(KINDS[task][number][1]))


def fuzz(task: str) -> Any:
    return given(case=cases(task))


@FUZZ
@fuzz("sequence_classification")
def test_sequence_classification(tokenizers, case):
    judge("sequence_classification", case, tokenizers)


@FUZZ
@fuzz("token_classification")
def test_token_classification(tokenizers, case):
    judge("token_classification", case, tokenizers)


@FUZZ
@fuzz("question_answering")
def test_question_answering(tokenizers, case):
    judge("question_answering", case, tokenizers)


@FUZZ
@fuzz("multiple_choice")
def test_multiple_choice(tokenizers, case):
    judge("multiple_choice", case, tokenizers)


@FUZZ
@fuzz("sentence_embedding")
def test_sentence_embedding(tokenizers, case):
    judge("sentence_embedding", case, tokenizers)


@FUZZ
@fuzz("chat")
def test_chat(tokenizers, case):
    judge("chat", case, tokenizers)


@FUZZ
@fuzz("preference")
def test_preference(tokenizers, case):
    judge("preference", case, tokenizers)


@FUZZ
@fuzz("masked_lm")
def test_masked_lm(tokenizers, case):
    judge("masked_lm", case, tokenizers)


@FUZZ
@fuzz("next_sentence")
def test_next_sentence(tokenizers, case):
    judge("next_sentence", case, tokenizers)


@FUZZ
@given(task=st.sampled_from(sorted(KINDS)), drawn=st.data())
def test_rows_in_memory(tokenizers, task, drawn):
    options, good = KINDS[task][drawn.draw(st.integers(0, len(KINDS[task]) - 1))]
    split = outcome(lambda: rows.splits_of({"train": drawn.draw(tables_of(good))}))
    if not isinstance(split, str):
        outcome(lambda: prepared(options, split, tokenizers))


def test_good_tables_are_learned_from(tokenizers):
    """What is fuzzed is not refused for what was meant to be right."""
    good = {
        "sequence_classification": [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(9)],
        "token_classification": [{"tokens": ["x", str(i)], "tags": ["B-X", "O"]} for i in range(9)],
        "question_answering": [
            {"question": "q", "context": f"{i} x", "answers": [{"text": "x", "answer_start": 2}]} for i in range(9)
        ],
        "multiple_choice": [{"context": f"{i}", "choices": ["a", "b"], "label": i % 2} for i in range(9)],
        "sentence_embedding": [{"anchor": f"{i}", "positive": "x"} for i in range(9)],
        "masked_lm": [{"text": f"t {i}"} for i in range(9)],
        "next_sentence": [{"text": f"One {i}. Two. Three."} for i in range(9)],
    }
    for task, found in good.items():
        assert prepared(KINDS[task][0][0], rows.splits_of({"train": found}), tokenizers) >= 1
