"""RoBERTa from its own kind of directory: a byte-level tokenizer, 66 rows of positions for 64, one segment type."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from runs import experiment
from support import random_params
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models

from jaxft import config, hub, models, modes, tasks
from jaxft.errors import UserError
from jaxft.hub import export
from jaxft.job import Body

HF = {
    "model_type": "roberta",
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
TEXTS = ["the cat sat on the mat in New York", "a lovely day in the café", "this film 😀 is the worst", "what a joy"]


def save_tokenizer(directory: Path) -> None:
    """A byte-level BPE tokenizer as RoBERTa has, trained on a few texts."""
    from transformers import RobertaTokenizerFast

    trained = Tokenizer(tokenizer_models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    trained.decoder = decoders.ByteLevel()  # pyright: ignore
    special, letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=letters)  # pyright: ignore
    trained.train_from_iterator(TEXTS * 20, trainer)
    trained.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # pyright: ignore
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    named: dict = {f"{name}_token": token for name, token in names.items()}
    RobertaTokenizerFast(tokenizer_object=trained, **named).save_pretrained(directory)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("roberta")
    save_tokenizer(folder / "tokenizer")
    task = tasks.build(config.SequenceClassification(labels=("a", "b")))
    params = {"roberta": random_params(task, models.build(HF), seed=0)["roberta"]}
    export.export(folder / "base", params, HF, "RobertaModel", folder / "tokenizer", "A small random RoBERTa.\n")
    return folder / "base"


def test_an_export_for_words_says_that_each_begins_with_a_blank(roberta, tiny_model, tmp_path):
    """Where its tokenizer would take them for parts of one; another says nothing more."""
    settings = json.loads((roberta / "tokenizer_config.json").read_text())
    assert hub.settings_for_words(roberta) == {"tokenizer_config.json": settings | {"add_prefix_space": True}}
    assert hub.settings_for_words(tiny_model) == hub.settings_for_words(tmp_path) == {}


def train(roberta: Path, cache: Path, folder: Path, task: config.Task, rows: list[dict]) -> Path:
    """A short run on a few rows, without validation."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows * 8))
    own = {"source": str(folder / "rows.jsonl"), "encoding": "utf-8", "max_length": 32}
    own |= {"validation_fraction": 0.0, "validation_examples": 0, "test_examples": 0}
    e = experiment(roberta, cache, data=own, train={"batch_size": 8, "steps": 4, "eval_every": 4})
    e.task = task
    modes.train(e, str(folder / "run"))
    return folder / "run"


def test_ids_are_the_tokenizers_own(roberta):
    own = Tokenizer.from_file(str(roberta / "tokenizer.json"))
    assert hub.load_tokenizer(roberta)(TEXTS)["input_ids"] == [own.encode(text).ids for text in TEXTS]


def test_words_are_taken_as_after_blanks(roberta):
    """As in the middle of a text: BPE tells "York" from " York", and a list of words has lost the blanks."""
    tokens = hub.load_tokenizer(roberta, words=True)(["New", "York"], is_split_into_words=True).tokens()
    assert tokens == ["<s>", *hub.load_tokenizer(roberta)(" New York").tokens()[1:-1], "</s>"]
    assert tokens != hub.load_tokenizer(roberta)(["New", "York"], is_split_into_words=True).tokens()


def test_positions_that_are_there(roberta):
    """66 rows of positions are 64 tokens: the first two are never an example's."""
    assert Body.of(config.Model(path=str(roberta)), 64).model.facts.longest == 64
    with pytest.raises(UserError, match=r"config\.data\.max_length is 65, but .* has only 64 positions"):
        Body.of(config.Model(path=str(roberta)), 65)


def test_padding_must_be_known():
    with pytest.raises(UserError, match="pad_token_id is null; RoBERTa counts positions from it"):
        models.build(HF | {"pad_token_id": None})


@pytest.mark.matrix
def test_pairs_of_texts_train_and_open_in_pytorch(torch, roberta, cache, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pairs = enumerate(itertools.pairwise(TEXTS))
    rows = [{"text": text, "other": other, "label": str(number % 2)} for number, (text, other) in pairs]
    task = config.SequenceClassification(text_pair="other")
    run = train(roberta, cache, tmp_path, task, rows)
    model = AutoModelForSequenceClassification.from_pretrained(run / "export").eval()
    assert type(model).__name__ == "RobertaForSequenceClassification"
    tokenizer = AutoTokenizer.from_pretrained(run / "export")
    with torch.no_grad():
        inputs = tokenizer([r["text"] for r in rows], [r["other"] for r in rows], return_tensors="pt", padding=True)
        expected = torch.softmax(model(**inputs).logits, -1).numpy()
    modes.predict(str(run), str(tmp_path / "rows.jsonl"), str(tmp_path / "answers.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()][: len(rows)]
    found = [[answer["probabilities"][name] for name in model.config.id2label.values()] for answer in answers]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_tagged_words_open_in_pytorch(torch, roberta, cache, tmp_path):
    """The export's tokenizer, as transformers loads it, takes words as training did."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    words = [text.split() for text in TEXTS]
    rows = [{"tokens": part, "tags": ["B-X" if word[0].isupper() else "O" for word in part]} for part in words]
    run = train(roberta, cache, tmp_path, config.TokenClassification(stride=8), rows)
    model = AutoModelForTokenClassification.from_pretrained(run / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "export")
    modes.predict(str(run), str(tmp_path / "rows.jsonl"), str(tmp_path / "answers.jsonl"))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()][: len(rows)]
    for row, answer in zip(rows, answers, strict=True):
        encoded = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            best = model(**encoded).logits[0].argmax(-1).tolist()
        first = [encoded.word_ids().index(word) for word in range(len(row["tokens"]))]
        assert answer["prediction"] == [model.config.id2label[best[at]] for at in first]
