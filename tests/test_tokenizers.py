"""Words, spans and answers land on the same characters whatever the tokenizer: WordPiece, BPE of bytes, Unigram.

The tokenizers are of the kinds that the architectures have, trained on a few texts. The model is taken to be right: its
outputs are the labels, so that what predictions say of characters is what the rows say.
"""

import itertools
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models

from jaxft import config, hub, tables
from jaxft.batch import IGNORED
from jaxft.data.features import Features, tokenize
from jaxft.data.sources import Split
from jaxft.explain import units
from jaxft.hub.tokenizer import cuts_first
from jaxft.tables.question_answering import visible

TEXTS = (
    "Anna Müller flog am Montag nach New York, zu IBM.",
    "Le café de Zoë\u0308 à Orléans 😀👍🏽 ferme à 18h30; e\u0301té comme hiver.",
    "王小明 住在北京市，在清华大学，读书。他喜欢吃苹果。",
    "Im  Café\tbei José\u0301s\u200dBar: naïve, co-operate & don't!",
)
ANSWERS = (
    ("Anna Müller", "New York", "IBM", "Montag"),
    ("Zoë\u0308", "Orléans", "😀👍🏽", "18h30", "e\u0301té"),
    ("王小明", "北京市", "清华大学", "苹果"),
    ("Café", "naïve", "co-operate", "don't"),
)
"""Parts of each text: the entities, and the answers to questions about it."""

SPECIAL = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
NAMED = {f"{name}_token": token for name, token in SPECIAL.items()}
ALL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wordpiece() -> Any:
    """Of BERT, DistilBERT, ELECTRA: lower case, without accents, Chinese by character."""
    made = Tokenizer(tokenizer_models.WordPiece(unk_token="<unk>"))  # pyright: ignore[reportCallIssue]
    made.normalizer = normalizers.BertNormalizer()  # pyright: ignore[reportAttributeAccessIssue]
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=ALL))  # pyright: ignore
    return made


def byte_level(blank: bool) -> Callable[[], Any]:
    """Of RoBERTa and ModernBERT, without a blank before the first word, or with one."""

    def make() -> Any:
        made = Tokenizer(tokenizer_models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=blank)  # pyright: ignore
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=ALL, initial_alphabet=alphabet)  # pyright: ignore
        made.train_from_iterator(TEXTS * 3, trainer)
        made.decoder = decoders.ByteLevel()  # pyright: ignore
        return made

    return make


def cut_first() -> Any:
    """Of Llama 3 and Qwen: cut by an expression of their own, and then to bytes."""
    made, end = byte_level(False)(), r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    cut = pre_tokenizers.Split(Regex(end), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])  # pyright: ignore
    return made


def unigram() -> Any:
    """Of DeBERTa, XLM-RoBERTa, ALBERT: words begin with the blank before them, which is a part of them by offsets."""
    made = Tokenizer(tokenizer_models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFKC()])  # pyright: ignore
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # pyright: ignore
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=ALL, unk_token="<unk>")  # pyright: ignore
    made.train_from_iterator(TEXTS * 3, trainer)
    return made


KINDS = {
    "wordpiece": wordpiece,
    "bytes": byte_level(False),
    "bytes after a blank": byte_level(True),
    "bytes of parts": cut_first,
    "unigram": unigram,
}


@pytest.fixture(scope="module", params=KINDS)
def directory(request, tmp_path_factory) -> Path:
    from transformers import PreTrainedTokenizerFast

    made = KINDS[request.param]()
    ends = [("<s>", made.token_to_id("<s>")), ("</s>", made.token_to_id("</s>"))]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=made, **NAMED).save_pretrained(folder)
    return folder


def features_of(options: config.Task, columns: dict[str, list[Any]], directory: Path) -> tuple[Any, Split, Features]:
    """The table, its rows as it has read them, and their features in windows of 24 tokens."""
    table = tables.build(options)
    split = table.read(Split(pa.table(columns), "texts"))
    table = tables.build(table.resolve({"train": split}))
    tokenizer = hub.load_tokenizer(directory, table.words)
    return table, split, tokenize(split.table.num_rows, lambda *_: table.features(split, tokenizer, 24), None)


def test_ids_are_the_tokenizers_own(directory):
    """And each token is of the characters that `tokenizers` says."""
    own, ours = Tokenizer.from_file(str(directory / "tokenizer.json")), hub.load_tokenizer(directory)
    for text in TEXTS:
        assert ours(text)["input_ids"] == own.encode(text).ids


def test_words_are_those_of_a_text(directory):
    """Of a text with a blank before it; parts of a word follow each other without one."""
    words = ["Anna", "co-operate", "flog."]
    given = hub.load_tokenizer(directory, words=True)(words, is_split_into_words=True)
    assert given["input_ids"] == hub.load_tokenizer(directory)(" " + " ".join(words))["input_ids"]


@pytest.mark.parametrize("blank", [True, False])
def test_one_that_puts_blanks_itself_is_let_be(blank: bool):
    from transformers import PreTrainedTokenizerFast

    made = cut_first()
    made.pre_tokenizer[1].add_prefix_space = blank
    assert cuts_first(PreTrainedTokenizerFast(tokenizer_object=made)) is not blank
    assert not cuts_first(PreTrainedTokenizerFast(tokenizer_object=byte_level(blank)()))


def test_entities_are_found_where_they_were_tagged(directory):
    spans = [
        [{"start": text.index(part), "end": text.index(part) + len(part), "label": "X"} for part in parts]
        for text, parts in zip(TEXTS, ANSWERS, strict=True)
    ]
    table, split, features = features_of(
        config.TokenClassification(tokens="text", tags="spans", stride=4),
        {"text": list(TEXTS), "spans": spans},
        directory,
    )
    labels = features.tokens["labels"]
    logits = np.where(np.arange(len(table.options.labels)) == np.where(labels == IGNORED, 0, labels)[:, None], 9.0, 0.0)
    for answer, text, wanted in zip(table.predictions({"logits": logits}, features, split), TEXTS, spans, strict=True):
        found = [(entity["start"], entity["end"]) for entity in answer["entities"]]
        assert found == sorted((span["start"], span["end"]) for span in wanted)
        assert [entity["text"] for entity in answer["entities"]] == [text[a:b] for a, b in found]


def test_answers_are_found_where_they_are(directory):
    asked = [(text, part) for text, parts in zip(TEXTS, ANSWERS, strict=True) for part in parts]
    columns = {
        "question": ["What?"] * len(asked),
        "context": [text for text, _ in asked],
        "answers": [{"text": [part], "answer_start": [text.index(part)]} for text, part in asked],
    }
    table, split, features = features_of(config.QuestionAnswering(stride=8, answer_length=20), columns, directory)
    place = np.arange(features.offsets[-1]) - np.repeat(features.offsets[:-1], features.lengths)
    outputs = {
        f"{side}_logits": 9.0 * (place == np.repeat(features.examples[f"{side}_positions"], features.lengths))
        for side in ("start", "end")
    }
    for answer, (text, part) in zip(table.predictions(outputs, features, split), asked, strict=True):
        assert text[answer["start"] : answer["end"]] == answer["prediction"]
        assert answer["prediction"] == part


@pytest.mark.parametrize(
    ("text", "token", "seen"),
    [
        ("in New York", (2, 6), (3, 6)),
        ("a \t b", (1, 4), (4, 1)),
        ("Zoe\u0308s", (0, 3), (0, 4)),
        ("ab", (0, 2), (0, 2)),
        ("e\u0301", (0, 1), (0, 2)),
    ],
)
def test_what_is_visible_of_a_token(text, token, seen):
    assert visible(text, *token) == seen


@pytest.mark.parametrize("kind", units.UNITS)
def test_units_of_an_explanation_are_stretches_that_do_not_overlap(directory, kind):
    """Nothing of the text stands in two of them, and every letter in one; an accent of its own may be left out."""

    def letters(text: str) -> str:
        return "".join(c for c in text if not c.isspace() and unicodedata.category(c) not in ("Mn", "Cf"))

    tokenizer = hub.load_tokenizer(directory)
    for text, other in zip(TEXTS, TEXTS[::-1], strict=True):
        encoding, texts = tokenizer([text], [other]).encodings[0], {"one": text, "two": other}
        found = units.reading(texts, encoding, range(len(encoding.ids)), kind)
        assert sorted({*found.unit_of}) == [-1, *range(len(found.units))] and not found.cut
        for column, whole in texts.items():
            spans = [(unit.start, unit.end) for unit in found.units if unit.column == column]
            assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
            assert letters("".join(whole[start:end] for start, end in spans)) == letters(whole)
        assert all(unit.text == texts[unit.column][unit.start : unit.end] for unit in found.units)
