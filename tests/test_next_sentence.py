"""Next-sentence prediction: what becomes a pair, and a run that learns which segments are of one document."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from runs import MINILM, assert_packed_is_padded, experiment, results

from jaxft import config, hub, modes, tables
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.tables import sentences

DOCUMENTS = [
    " ".join(f"Text {number} says {line} things{' and more' * (line % 3)}." for line in range(count))
    for number, count in enumerate([2, 3, 9, 30, 1, 5] * 20)
]


@pytest.fixture(scope="module")
def tokenizer():
    assert MINILM is not None
    return hub.load_tokenizer(MINILM)


def test_pairs_are_of_one_document_or_of_two(tokenizer):
    pairs = sentences.pair(tokenizer, DOCUMENTS, 48)
    for (ids, words), types, label in pairs:
        ends = np.flatnonzero(ids == tokenizer.sep_token_id)
        assert ids[0] == tokenizer.cls_token_id and len(ends) == 2 and ends[1] == len(ids) - 1 < 48
        assert (types == np.repeat([0, 1], [ends[0] + 1, len(ids) - 1 - ends[0]])).all()
        assert (words[[0, *ends]] == -1).all() and (np.diff(words[words >= 0]) >= 0).all()
        assert words[ends[0] + 1] > words[ends[0] - 1]
        parts = [tokenizer.decode(part) for part in (ids[1 : ends[0]], ids[ends[0] + 1 : -1])]
        first, second = (np.asarray(re.findall(r"text (\d+) says (\d+)", part), int) for part in parts)
        assert len(set(first[:, 0])) == len(set(second[:, 0])) == 1
        assert (np.diff(first[:, 1]) == 1).all() and (np.diff(second[:, 1]) == 1).all()
        follows = second[0].tolist() == [first[-1, 0], first[-1, 1] + 1]
        assert follows if label == sentences.NEXT else first[0, 0] != second[0, 0]
    labels = np.asarray([pair.label for pair in pairs])
    assert len(pairs) > 150 and abs(labels.mean() - 0.5) < 0.1
    again = sentences.pair(tokenizer, DOCUMENTS, 48)
    assert all((a.piece.ids == b.piece.ids).all() for a, b in zip(pairs, again, strict=True))


def test_labels_are_those_of_transformers(tokenizer):
    """`BertForPreTraining`: 0 says that the second text continues the first, 1 that it is a random one."""
    texts = ["cats eat. cats see. cats run. cats sit.", "dogs eat. dogs see. dogs run. dogs sit."] * 8
    table = tables.build(config.NextSentence(text="text"))
    columns = table.features(Split(pa.table({"text": texts}), "here"), tokenizer, 24)
    found = [
        set(re.findall("cats|dogs", tokenizer.decode(pair.piece.ids))) for pair in sentences.pair(tokenizer, texts, 24)
    ]
    labels = columns["next_sentence_label"].tolist()
    assert len(labels) == len(found) and {0, 1} == {*labels}
    assert all(label == 1 for label, animals in zip(labels, found, strict=True) if len(animals) == 2)
    follows = [label for label, animals in zip(labels, found, strict=True) if len(animals) == 1]
    assert follows.count(0) > 2 * follows.count(1)


def test_sentences_of_any_length(tokenizer):
    """Longer than half an example; without a full stop; of nothing that the tokenizer keeps."""
    texts = ["word " * 100 + "end. Short one!\nAnother line\n\u200b. ", "他来了。她走了！", "Nothing else"]
    pairs = sentences.pair(tokenizer, texts * 9, 24)
    assert max(len(pair.piece.ids) for pair in pairs) <= 24
    assert {pair.label for pair in pairs} == {sentences.NEXT, sentences.RANDOM}
    assert sentences.pair(tokenizer, texts[:1], 24) == [] == sentences.pair(tokenizer, ["One.", "Two."], 24)


def test_rows_that_are_no_documents(tokenizer):
    table = tables.build(config.NextSentence())
    split = Split(pa.table({"text": ["One line", "another"]}), "notes.txt")
    with pytest.raises(UserError, match=r"notes.txt: .*'text' .*config.data.documents=true"):
        table.features(split, tokenizer, 24)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, cache):
    """On documents that have one subject each, in a file of lines and blank lines."""
    folder, rng = tmp_path_factory.mktemp("documents"), np.random.default_rng(0)
    for split, count in (("train", 300), ("dev", 60)):
        subjects = rng.choice(["cats", "dogs", "birds", "fish"], count)
        lines = [
            "\n".join(f"{what} {rng.choice(['eat', 'chase', 'see'])} {what} ." for _ in range(4)) for what in subjects
        ]
        (folder / f"{split}.txt").write_text("\n\n".join(lines) + "\n")
    e = experiment(
        tiny_model,
        cache,
        data={"source": str(folder), "encoding": "utf-8", "max_length": 32, "shapes": 1, "documents": True},
        train={"epochs": 12, "eval_every": 120},
        optimizer={"learning_rate": 5e-3},
    )
    for key in ("train_examples", "validation_examples", "test_examples"):
        setattr(e.data, key, 0)
    e.task = config.NextSentence()
    modes.train(e, str(folder / "run"))
    return folder / "run"


@pytest.mark.matrix
def test_a_run_learns_what_follows(torch, trained, tmp_path):
    found = results(trained)
    # By chance 0.5; and a quarter of the random ones have the same subject.
    assert found["validation/next_accuracy"] > 0.7 and found["validation/perplexity"] < 20
    from transformers import AutoModelForPreTraining, AutoTokenizer

    path = trained / "export"
    model, tokenizer = AutoModelForPreTraining.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    pairs = tokenizer(["cats eat cats .\ncats see cats ."] * 2, ["cats chase cats .", "fish see fish ."])
    with torch.no_grad():
        logits = model(**pairs.convert_to_tensors("pt")).seq_relationship_logits
    assert logits.argmax(-1).tolist() == [sentences.NEXT, sentences.RANDOM]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS[:4]))
    assert_packed_is_padded(trained, tmp_path / "texts.jsonl", tmp_path)


@pytest.mark.parametrize(("pairs", "options"), [(True, config.NextSentence), (False, config.MaskedLM)])
def test_runs_of_0_1_0_are_read(pairs, options):
    """It was a knob of masked language modelling then."""
    new = config.to_dict(config.Experiment(task=config.MaskedLM(mask_fraction=0.3)))
    new["task"] |= {"kind": "masked_lm", "next_sentence": pairs}
    assert config.from_dict(new).task == options(mask_fraction=0.3)
