"""Token classification: what is read, what is measured, windows put together again, and a whole run."""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import assert_packed_is_padded, experiment, results

from jaxft import config, modes, tables
from jaxft.config import TokenClassification
from jaxft.data import tags as schemes
from jaxft.data.sources import Split, read
from jaxft.errors import UserError
from jaxft.job import Body
from jaxft.metrics import entities
from jaxft.modes import exporting
from jaxft.tables import weighting, windows
from jaxft.tables.words import split_text

TAGGED = pa.table({"tokens": [["a", "b", "c"], ["d", "e"]], "tags": [["X", "Y", "X"], ["X", "X"]]})


def test_tags_have_weights():
    def resolved(**keys) -> tuple[float, ...]:
        table = tables.build(TokenClassification(problem="words", **keys))
        return table.resolve({"train": table.read(Split(TAGGED, "tags"))}).class_weights

    assert resolved() == () and resolved(class_weights=(1.0, 3.0)) == (1, 3)
    assert resolved(balanced=True) == pytest.approx((5 / 8, 5 / 2))
    assert resolved(class_balance=0.5) == pytest.approx(weighting.effective(np.asarray([4, 1]), 0.5))
    for keys, said in (
        ({"class_weights": (1.0,)}, "config.task.class_weights has 1 numbers for 2 tags: X, Y"),
        ({"focal": 1.0, "label_smoothing": 0.1}, "config.task.label_smoothing and config.task.focal are set"),
    ):
        with pytest.raises(UserError, match=said):
            resolved(**keys)


TYPES = ("PER", "LOC-A")
SEQUENCES = st.lists(
    st.lists(st.sampled_from(["O", *(f"{p}-{t}" for p in "BIES" for t in TYPES)]), max_size=8), min_size=1, max_size=6
)


@given(tags=SEQUENCES)
def test_entities_of_any_tags_are_those_of_seqeval(tags: list[list[str]]):
    get_entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities

    for part in tags:
        assert schemes.read(part) == [(kind, start, stop + 1) for kind, start, stop in get_entities(part)]


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[schemes.Entity], int]:
    """Entities in order, some of them side by side, and the number of words."""
    found, at = [], 0
    for kind, gap, size in draw(
        st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 2), st.integers(1, 3)), max_size=4)
    ):
        found.append((kind, at + gap, at + gap + size))
        at += gap + size
    return found, at + draw(st.integers(0, 2))


@pytest.mark.parametrize("scheme", schemes.SCHEMES)
@given(sentence=sentences())
def test_schemes_are_those_of_seqeval(scheme: str, sentence: tuple[list[schemes.Entity], int]):
    seqeval = pytest.importorskip("seqeval.scheme")

    found, words = sentence
    tags = schemes.write(found, words, scheme)
    assert schemes.read(tags) == found
    kind = seqeval.IOBES if scheme == "BIOES" else getattr(seqeval, scheme)
    if tags:
        strict = seqeval.Entities([tags], kind).entities[0]
        assert [(e.tag, e.start, e.end) for e in strict] == found


@given(pairs=st.lists(st.tuples(SEQUENCES, st.randoms(use_true_random=False)), min_size=1, max_size=2))
def test_scores_are_those_of_seqeval(pairs: list[tuple[list[list[str]], random.Random]]):
    sequence_labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    reference = sequence_labeling.precision_recall_fscore_support

    true = [part for tags, _ in pairs for part in tags]
    shuffle = pairs[0][1]
    predicted = [[shuffle.choice([tag, tag, "O", "B-PER", "I-LOC-A"]) for tag in part] for part in true]
    found = entities.scores(list(map(schemes.read, true)), list(map(schemes.read, predicted)))
    spans = [sequence_labeling.get_entities(part) for part in (true, predicted)]
    kinds = sorted({kind for part in spans for kind, *_ in part})
    assert {key.partition("/")[2] for key in found if "/" in key} == set(kinds)
    if not kinds:
        assert set(found.values()) == {0.0}
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        micro = reference(true, predicted, average="micro")
        macro = reference(true, predicted, average="macro")
        each = reference(true, predicted, average=None)
    names = ("precision", "recall", "f1")
    np.testing.assert_allclose([found[name] for name in names], micro[:3], atol=1e-9)
    np.testing.assert_allclose(found["f1_macro"], macro[2], atol=1e-9)
    for name, values in zip((*names, "support"), each, strict=True):
        np.testing.assert_allclose([found[f"{name}/{kind}"] for kind in kinds], values, atol=1e-9)


def test_words_of_a_text():
    text = "Ann's 20kg of naïve\u0301 東京タワー, e.g.\u00a0हिन्दी_1 😀!"
    words = [text[a:b] for a, b in split_text(text)]
    assert words == [
        *["Ann", "'", "s", "20kg", "of", "naïve\u0301", "東", "京", "タ", "ワ", "ー", ",", "e", ".", "g", "."],
        *["हिन्दी", "_", "1", "😀", "!"],
    ]


def taken(options: TokenClassification, **columns: list) -> list[list[str]]:
    found = tables.build(options).read(Split(pa.table(columns), "here"))
    return found.table[options.tags].to_pylist()


def test_tags_are_converted_on_request():
    given = [["I-X", "B-X", "I-X", "O", "I-Y"], ["S-X", "B-Y", "E-Y", "O", "O"]]
    words = [list("abcde")] * 2
    expected = {
        "": given,
        "IOB1": [given[0], ["I-X", "I-Y", "I-Y", "O", "O"]],
        "IOB2": [["B-X", "B-X", "I-X", "O", "B-Y"], ["B-X", "B-Y", "I-Y", "O", "O"]],
        "BIOES": [["S-X", "B-X", "E-X", "O", "S-Y"], given[1]],
    }
    for scheme, tags in expected.items():
        assert taken(TokenClassification(scheme=scheme), tokens=words, tags=given) == tags


def test_spans_of_characters_become_tags():
    spans = [[{"start": 6, "end": 11, "label": "LOC"}, {"start": 0, "end": 2, "label": "PER"}], []]
    found = taken(TokenClassification(scheme="BIOES"), tokens=["Ann, New York!", "nothing"], tags=spans)
    assert found == [["S-PER", "O", "B-LOC", "E-LOC", "O"], ["O"]]


OUTSIDE = "lies outside; its text has 8 characters; start counts from 0, end is one past the last"
NO_SPAN = 'of a text it must be a list of spans such as {"start": 0, "end": 5, "label": "PER"} or [0, 5, "PER"]'


@pytest.mark.parametrize(
    ("start", "end", "kind", "said"),
    [
        *((start, end, "X", OUTSIDE) for start, end in ((1, 1), (3, 2), (-1, 2), (4, 9))),
        (3, 4, "X", "holds no word; remove it"),
        *((start, end, "X", NO_SPAN) for start, end in ((0, None), (None, 3), ("0", 3), (0, "3"))),
        *((0, 3, kind, NO_SPAN) for kind in (None, "")),
    ],
)
def test_a_span_that_is_none(start, end, kind, said):
    span = {"start": start, "end": end, "label": kind}
    with pytest.raises(UserError) as raised:
        taken(TokenClassification(), tokens=["Ann  Lee"], tags=[[span]])
    assert str(raised.value).startswith("here, row 1: ") and said in str(raised.value)


def test_labels_are_closed_under_types():
    tags = [["B-X", "I-X", "O"], ["B-Y", "O", "O"]]
    split = {"train": Split(pa.table({"tokens": [list("abc")] * 2, "tags": tags}), "here")}
    found = tables.build(TokenClassification()).resolve(split)
    assert found.labels == ("O", "B-X", "I-X", "B-Y", "I-Y") and found.problem == "entities"
    pos = {"train": Split(pa.table({"tokens": [list("ab")], "tags": [["NN", "DT"]]}), "here")}
    found = tables.build(TokenClassification()).resolve(pos)
    assert found.labels == ("DT", "NN") and found.problem == "words"


CONLL = {
    "tabs": ("a b\tO\nc\tB-X\n\n\nd\tI-X\n", {"tokens": [["a b", "c"], ["d"]], "tags": [["O", "B-X"], ["I-X"]]}),
    "blanks": (
        "-DOCSTART- -X- O\r\n\r\na  NN O\r\nb DT B-X\r\n",
        {"tokens": [["a", "b"]], "column2": [["NN", "DT"]], "tags": [["O", "B-X"]]},
    ),
    "words alone": ("a\nb\n\nc", {"tokens": [["a", "b"], ["c"]]}),
}


@pytest.mark.parametrize(("text", "expected"), CONLL.values(), ids=CONLL)
def test_conll(tmp_path, text: str, expected: dict):
    (tmp_path / "train.conll").write_bytes(text.encode())
    assert read(config.Data(source=str(tmp_path)))["train"].table.to_pydict() == expected


def test_hugging_face_lists_of_class_ids(tmp_path):
    import datasets

    tags = datasets.ClassLabel(names=["O", "B-X", "I-X"])
    features = datasets.Features({"tokens": [datasets.Value("string")], "ner_tags": datasets.Sequence(tags)})  # pyright: ignore
    rows = {"tokens": [["a", "b"], ["c"], ["d"]], "ner_tags": [[1, 2], [0], None]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "ds"))
    found = read(config.Data(source=str(tmp_path / "ds")))["train"].table["ner_tags"].to_pylist()
    assert found == [["B-X", "I-X"], ["O"], None]


def test_japanese_iob2(tmp_path):
    hironsan = pytest.importorskip("hironsan")
    text = (Path(hironsan.__file__).parent / "corpus" / "iob_sents.txt").read_text()
    (tmp_path / "whole.bio").write_text(text)
    with pytest.raises(UserError, match="line 2 has 12 cell"):
        read(config.Data(source=str(tmp_path / "whole.bio")))
    cut = ["\t".join(line.split("\t")[:: max(line.count("\t"), 1)]) for line in text.split("\n")]
    (tmp_path / "train.bio").write_text("\n".join(cut))
    data = config.Data(source=str(tmp_path / "train.bio"), columns=("word", "iob"))
    options = TokenClassification(tokens="word", tags="iob", scheme="BIOES")
    split = tables.build(options).read(read(data)["train"])
    assert split.table.num_rows == text.strip().count("\n\n") + 1
    found = [schemes.read(tags) for tags in split.table["iob"].to_pylist()]  # two entities lack their B-
    assert sum(map(len, found)) == text.count("\tB-") + 2 and ("DAT", 0, 6) in found[0]


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=12), length=st.integers(2, 9), stride=st.integers(0, 8))
def test_each_word_is_seen_once_where_it_has_most_context(sizes: list[int], length: int, stride: int):
    stride = min(stride, length - 1)
    tokens = [word for word, size in enumerate(sizes) for _ in range(size)]
    starts = range(0, max(len(tokens) - stride, 1), length - stride)
    cut = [(start, tokens[start : start + length]) for start in starts]
    chosen = windows.best_seen([[None, *part, None] for _, part in cut])
    found = {}
    for (start, part), words in zip(cut, chosen, strict=True):
        assert len(words) == len(part) + 2
        for at, word in enumerate(words):
            if word >= 0:
                assert word not in found
                found[word] = (start + at - 1, min(at - 1, len(part) - at))
    firsts = {word: tokens.index(word) for word in range(len(sizes))}
    assert {word: at for word, (at, _) in found.items()} == firsts
    for at, context in found.values():
        assert context == max(min(at - s, s + len(p) - 1 - at) for s, p in cut if s <= at < s + len(p))


def test_an_export_names_the_tags_as_they_are_learned(tiny_model):
    """What a user of the export reads off a number is the tag of which the number was the target."""
    words = [["anna", "went", "to", "paris"], ["new", "york"]]
    tags = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "I-LOC"]]
    split = Split(pa.table({"tokens": words, "tags": tags}), "here")
    table = tables.build(TokenClassification(stride=5))
    table = tables.build(table.resolve({"train": table.read(split)}))
    body = Body.of(config.Model(path=str(tiny_model)), 16)
    columns = table.features(split, body.tokenizer(words=True), 16)
    names = table.published(body.model, 16).settings
    seen = [[names["id2label"][str(i)] for i in row if i != -100] for row in columns["labels"]]
    assert seen == tags
    assert {names["id2label"][str(i)]: i for i in range(5)} == names["label2id"]
    written = exporting.settings({"id2label": {"0": "X", "1": "Y"}, "label2id": {"X": 0}}, names, {})
    assert written["id2label"] == names["id2label"] and written["label2id"] == names["label2id"]


NAMES, PLACES = ["anna", "peter smith", "zoë"], ["paris", "new york"]


def write_corpus(folder: Path) -> None:
    """Names and places between other words; every fourth sentence is longer than a window."""
    rng = random.Random(0)
    for split, count in (("train", 120), ("dev", 20), ("test", 20)):
        lines = []
        for number in range(count):
            for _ in range(9 if number % 4 == 0 else 2):
                for words, kind in ((rng.choice(NAMES), "PER"), ("went to", ""), (rng.choice(PLACES), "LOC")):
                    parts = words.split()
                    tags = schemes.write([(kind, 0, len(parts))] if kind else [], len(parts), "IOB2")
                    lines += [f"{word} {tag}" for word, tag in zip(parts, tags, strict=True)]
            lines.append("")
        (folder / f"{split}.conll").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model, cache) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    write_corpus(folder)
    e = experiment(
        tiny_model,
        cache,
        data={"source": str(folder), "encoding": "utf-8", "max_length": 16, "shapes": 1},
        train={"epochs": 4, "eval_every": 0},
        optimizer={"learning_rate": 1e-2},
    )
    for key in ("train_examples", "validation_examples", "test_examples"):
        setattr(e.data, key, 0)
    e.task = TokenClassification(stride=5)
    modes.train(e, str(folder / "run"))
    return folder / "run"


def predicted(run: Path, name: str, content: str) -> list[dict]:
    file = run.parent / name
    file.write_text(content, encoding="utf-8")
    modes.predict(str(run), str(file), str(run.parent / "answers.jsonl"))
    return [json.loads(line) for line in (run.parent / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_finds_entities(trained):
    found = results(trained)
    assert found["test/f1"] > 0.95 and found["test/support/PER"] == 20 * 2 + 5 * 7
    assert {key for key in found if key.startswith("test/f1/")} == {"test/f1/PER", "test/f1/LOC"}


def test_packed_is_padded(trained, tmp_path):
    assert_packed_is_padded(trained, trained.parent / "test.conll", tmp_path)


def test_predictions_of_text_have_offsets(trained):
    text = "Zoë went to New York, " * 6 + "Peter Smith went to Paris"
    (answer,) = predicted(trained, "texts.txt", text + "\n")
    assert answer["tokens"] == text and len(answer["prediction"]) == len(answer["words"]) == 41
    places = [e for e in answer["entities"] if e["text"] in ("New York", "Paris", "Zoë", "Peter Smith")]
    assert len(places) >= 10 and all(text[e["start"] : e["end"]] == e["text"] for e in answer["entities"])
    assert all(0 < e["score"] <= 1 for e in answer["entities"])


def test_predictions_of_words(trained):
    rows = [["anna", "\u200d", "went", "to", "paris"], ["paris"] * 40]
    answers = predicted(trained, "words.jsonl", "".join(json.dumps({"tokens": row}) + "\n" for row in rows))
    assert [answer["tokens"] for answer in answers] == [answer["words"] for answer in answers] == rows
    assert [len(answer["prediction"]) for answer in answers] == [5, 40]
    assert answers[0]["prediction"] == ["B-PER", "O", "O", "O", "B-LOC"]
    assert answers[0]["entities"][1]["start"] == len("anna \u200d went to ")
