"""Which part of a long text is kept: as the tokenizers cut it, by another program, and what is written about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import MINILM

from jaxft import config, hub
from jaxft.data.truncation import keeping, kept
from jaxft.errors import UserError

WORDS = st.lists(st.sampled_from(["good", "bad", "movie", "plot", "very", "the"]), min_size=1, max_size=14)
OPTIONS = {"truncation": True, "return_attention_mask": False, "return_token_type_ids": True}


@pytest.fixture(scope="module")
def tokenizer():
    assert MINILM is not None
    return hub.load_tokenizer(MINILM, False)


@given(first=WORDS, second=st.none() | WORDS, length=st.integers(4, 16))
def test_head_is_what_the_tokenizers_keep(tokenizer, first, second, length):
    texts = [[" ".join(part)] for part in (first, second) if part is not None]
    expected = tokenizer(*texts, max_length=length, **OPTIONS)
    whole = tokenizer(*texts, **OPTIONS | {"truncation": False})
    places = (
        kept(whole.encodings[0].sequence_ids, length, "head") if len(whole["input_ids"][0]) > length else slice(None)
    )
    ids = whole["input_ids"][0]
    assert (ids[places] if isinstance(places, slice) else [ids[at] for at in places]) == expected["input_ids"][0]


@given(first=WORDS, second=st.none() | WORDS, length=st.integers(4, 16))
def test_tail_is_what_the_tokenizers_keep_from_the_left(tokenizer, first, second, length):
    texts = [[" ".join(part), "good"] for part in (first, second) if part is not None]
    tokenizer.truncation_side = "left"
    try:
        expected = tokenizer(*texts, max_length=length, **OPTIONS)
    finally:
        tokenizer.truncation_side = "right"
    found = keeping(tokenizer, config.SequenceClassification(), "tail")(*texts, max_length=length, **OPTIONS)
    assert {name: found[name] for name in ("input_ids", "token_type_ids")} == dict(expected)


def test_head_and_tail():
    """A quarter of what there is room for, and the rest; special tokens beside."""
    text = [None, *[0] * 1000, None]
    assert kept(text, 512, "head+tail") == [0, *range(1, 128), *range(1001 - 383, 1001), 1001]
    assert kept(text, 10, "head+tail") == [0, 1, 2, *range(995, 1001), 1001]
    pair = [None, *[0] * 20, None, *[1] * 30, None]
    assert kept(pair, 19, "head+tail") == [0, 1, 2, *range(15, 21), 21, 22, 23, *range(46, 52), 52]
    short = [None, *[0] * 3, None, *[1] * 30, None]  # the short text stays whole
    assert kept(short, 14, "tail") == [0, 1, 2, 3, 4, *range(27, 35), 35]


def test_keeping_the_head_is_the_tokenizer_itself(tokenizer):
    assert keeping(tokenizer, config.MaskedLM(), "head") is tokenizer
    tail = keeping(tokenizer, config.SentenceEmbedding(), "tail")
    assert len(tail) == len(tokenizer) and tail.unk_token_id == tokenizer.unk_token_id
    with pytest.raises(UserError, match=r"config\.data\.truncate is 'tail', but TokenClassification cuts no texts"):
        keeping(tokenizer, config.TokenClassification(), "tail")


def test_features_are_those_of_the_part_that_is_kept(tmp_path, tiny_model, cache):
    """So they are where others of the same table are in the cache already."""
    import pyarrow as pa

    from jaxft.data.sources import Split
    from jaxft.job import Body
    from jaxft.tables import build

    split = Split(pa.table({"text": ["one two three four five"], "label": ["a"]}), "here")
    task = build(config.SequenceClassification(labels=("a", "b"), problem="single_label"))
    body = Body.of(config.Model(path=str(tiny_model)), 6)
    words = body.tokenizer()("one two three four five")["input_ids"]
    for keep, expected in (
        ("head", words[:5] + words[-1:]),
        ("tail", words[:1] + words[2:]),
        ("head+tail", words[:2] + words[3:]),
    ):
        made = body.features(split, task, config.Data(max_length=6, truncate=keep, cache=str(cache)))
        assert made.tokens["input_ids"].tolist() == expected
