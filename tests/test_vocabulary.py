"""Vocabularies made smaller: a corpus keeps its tokens, other texts stay readable, and numbers follow everywhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from runs import MINILM
from test_tokenizers import KINDS, NAMED, TEXTS, unigram
from tokenizers import Tokenizer

from jaxft import hub, models
from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.out import prune, vocabulary

CORPUS = (TEXTS[0], "Im Café naïve")
OTHER = (*TEXTS[1:], "Zug qx~! ふ \U0001f680 co-operated IBMs", "Müllers Montage")


def saved(made: Any, folder: Path, **names: str) -> Path:
    """A tokenizer's directory, with special tokens around texts."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    ends = [(end, made.token_to_id(end)) for end in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ends
    )
    PreTrainedTokenizerFast(tokenizer_object=made, **(NAMED | names)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["minilm", *KINDS])
def directory(request, tmp_path_factory) -> Path:
    if request.param == "minilm":
        assert MINILM is not None
        return MINILM
    return saved(KINDS[request.param](), tmp_path_factory.mktemp("tokenizer"))


def smaller(directory: Path, folder: Path, texts: Any = CORPUS, **options: Any) -> list[int]:
    """Writes the tokenizer made smaller; returns which tokens it keeps."""
    whole = vocabulary.document(directory)
    keep = sorted(vocabulary.needed(whole, vocabulary.used(directory, texts, **options)))
    folder.mkdir()
    vocabulary.write(directory, folder, vocabulary.smaller(whole, keep), keep)
    return keep


def unknown(tokenizer: Any, text: str) -> int:
    """How many characters of a text lie in unknown tokens."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return sum(end - start for i, (start, end) in spans if i == tokenizer.unk_token_id)


def spelled(tokenizer: Any, text: str) -> str:
    """A text put together again from its tokens, blanks aside."""
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    return "".join(token.removeprefix("##").removeprefix("▁") for token in tokens)


def test_the_corpus_keeps_its_tokens_and_other_texts_are_as_readable(directory, tmp_path):
    keep = smaller(directory, tmp_path / "small")
    before, after = hub.load_tokenizer(directory), hub.load_tokenizer(tmp_path / "small")
    assert len(after) == len(keep) < len(before)
    assert after.convert_ids_to_tokens(range(len(keep))) == before.convert_ids_to_tokens(keep)
    for text in CORPUS:
        assert after.convert_ids_to_tokens(after(text)["input_ids"]) == before.convert_ids_to_tokens(
            before(text)["input_ids"]
        )
        assert [keep[i] for i in after(text, "Im Café")["input_ids"]] == before(text, "Im Café")["input_ids"]
    own, whole = (Tokenizer.from_file(str(path / "tokenizer.json")) for path in (tmp_path / "small", directory))
    assert [keep[i] for i in own.encode(CORPUS[0], CORPUS[1]).ids] == whole.encode(CORPUS[0], CORPUS[1]).ids
    longer = 0
    for text in OTHER:
        assert unknown(after, text) <= unknown(before, text)
        assert spelled(after, text) == spelled(before, text)
        longer += len(after(text)["input_ids"]) - len(before(text)["input_ids"])
    assert longer > 0
    for name in ("pad", "unk", "mask", "cls", "sep"):
        assert keep[getattr(after, f"{name}_token_id")] == getattr(before, f"{name}_token_id")


def test_all_files_say_the_same(directory, tmp_path):
    """Without tokenizer.json the others give the same numbers; SentencePiece's, which cannot, is left out."""
    whole = tmp_path / "whole"
    whole.mkdir()
    for file in hub.tokenizer_files(directory):
        shutil.copyfile(file, whole / file.name)
    model = vocabulary.document(directory)["model"]
    if model["type"] == "BPE":
        (whole / "vocab.json").write_text(json.dumps(model["vocab"]))
        (whole / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])))
    (whole / "spiece.model").write_bytes(b"x")
    before, settings = hub.load_tokenizer(directory), json.loads((whole / "tokenizer_config.json").read_text())
    added = {str(before.mask_token_id): {"content": before.mask_token, "special": True}}
    (whole / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added} | settings))
    (whole / "added_tokens.json").write_text(json.dumps({before.mask_token: before.mask_token_id}))
    keep = smaller(whole, tmp_path / "small")
    small = tmp_path / "small"
    assert {file.name for file in small.iterdir()} == {file.name for file in whole.iterdir()} - {"spiece.model"}
    after = hub.load_tokenizer(small)
    assert json.loads((small / "added_tokens.json").read_text()) == {after.mask_token: after.mask_token_id}
    settings = [json.loads((path / "tokenizer_config.json").read_text()) for path in (whole, small)]
    named = [{int(i): one for i, one in found["added_tokens_decoder"].items()} for found in settings]
    assert {keep[i]: one for i, one in named[1].items()} == named[0] != {}
    own = vocabulary.document(small)["model"]
    if model["type"] == "WordPiece" and (small / "vocab.txt").exists():
        tokens = (small / "vocab.txt").read_text(encoding="utf-8").split("\n")
        assert {token: i for i, token in enumerate(tokens[:-1])} == own["vocab"] and len(tokens) == len(keep) + 1
    if model["type"] == "BPE":
        assert json.loads((small / "vocab.json").read_text()) == own["vocab"]
        assert (small / "merges.txt").read_text().splitlines()[1:] == [" ".join(pair) for pair in own["merges"]]
        assert 0 < len(own["merges"]) < len(model["merges"])


def test_words_of_a_list_are_looked_up_as_such(tmp_path):
    """RoBERTa's tokenizer takes each as if it stood after a blank."""
    whole = saved(KINDS["bytes"](), tmp_path / "whole")
    ids = hub.load_tokenizer(whole, words=True)(["Montag", "nach"], is_split_into_words=True)["input_ids"][1:-1]
    assert vocabulary.used(whole, [["Montag", "nach"]], words=True) == {*ids}
    assert vocabulary.used(whole, ["Montag nach"]) != {*ids}


def test_the_lowest_score_and_pieces_that_have_no_characters_stay():
    """What an unknown character costs depends on the one; without the other a text would become unknown."""
    whole = json.loads(unigram().to_str())
    whole["model"]["vocab"] += [[c, -9.0] for c in "<0xAunk>"] + [["flogM", -20.0]]
    count = len(whole["model"]["vocab"])
    whole["model"]["vocab"] += [["Ωβ", -3.0], ["zzz", -77.0], ["<0x0A>", -5.0]]
    for added in ([], [{"id": count - 1}]):
        found = vocabulary.needed(whole | {"added_tokens": added}, {9})
        assert {9, whole["model"]["unk_id"], count, count + 1, count + 2} <= found
        assert (count - 1 in found) == bool(added)


def test_words_with_a_character_that_is_no_piece_stay():
    vocabulary_ = ["?", "a", "##a", "##b", "ab", "bb", "abb", "caa", "##aab", "##cab", "##"]
    words = {token: i for i, token in enumerate(vocabulary_)}
    model = {"type": "WordPiece", "vocab": words, "continuing_subword_prefix": "##", "unk_token": "?"}
    found = vocabulary.needed({"model": model, "added_tokens": []}, {words["ab"]})
    assert {token for token in vocabulary_ if words[token] not in found} == {"abb", "##aab"}


def test_what_pads_has_its_new_number():
    assert MINILM is not None
    pad = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_type_id": 0}
    whole = vocabulary.document(MINILM) | {"padding": pad | {"pad_id": 103, "pad_token": "[MASK]"}}
    keep = sorted(vocabulary.needed(whole, {2000}))
    assert keep[vocabulary.smaller(whole, keep)["padding"]["pad_id"]] == 103 > keep.index(103)


def test_all_of_a_long_text_is_the_corpus():
    """MiniLM's tokenizer.json cuts texts at 128 tokens."""
    assert MINILM is not None
    (morning,) = vocabulary.used(MINILM, ["morning"])
    assert morning in vocabulary.used(MINILM, ["late " * 200 + "morning"])


@pytest.mark.parametrize("kind", support.once(support.ARCHITECTURES, "bert", "roberta", "modernbert"))
def test_rows_of_embeddings_and_of_scores_follow(kind):
    """A head of masked words gives the same scores to the words that are left; a head of classes the same classes."""
    plain = models.build(support.ARCHITECTURES[kind])
    scored = plain.module.head(plain.cfg, "word", 0) is not None
    tags = plain.module.head(plain.cfg, "token", 4) is not None
    case = support.TASKS["masked_lm" if scored else "token" if tags else "single_label"]
    hf = support.ARCHITECTURES[kind] | {"bos_token_id": 3, "eos_token_id": [7, 9], "forced_token_id": None}
    model = models.build(hf, dropout=0.0)
    params = support.random_params(case.task, model, seed=1)
    keep = [0, 1, 2, 3, 7, 9, *range(12, 40, 2)]
    found = vocabulary.with_words(model, prune.Sized(hf, params), case.task.param_spec(model), keep)
    assert {k: found.hf[k] for k in ("vocab_size", "bos_token_id", "eos_token_id", "forced_token_id")} == {
        **{"vocab_size": 20, "bos_token_id": 3, "eos_token_id": [4, 5], "forced_token_id": None}
    }
    assert found.hf.get("pad_token_id") == hf.get("pad_token_id")
    features = support.random_features(np.random.default_rng(2), case, [6, 4, 5], found.hf)
    before = {**features.tokens, "input_ids": np.asarray(keep, np.int32)[features.tokens["input_ids"]]}
    scores = []
    for hf_, params_, tokens in ((hf, params, before), (found.hf, found.params, features.tokens)):
        made = models.build(hf_, dropout=0.0)
        host = support.lay_out(features.__class__(features.offsets, tokens, features.examples), case.task, 6)
        head = made.head("word") if scored else made.head("token" if tags else "text", 4 if tags else 3)
        arrays = jax.tree.map(jnp.asarray, params_)
        scores.append(np.asarray(made.of_tokens(head, arrays, support.arrays(host), nn.Run())))
    np.testing.assert_allclose(scores[1], scores[0][..., keep] if scored else scores[0], atol=1e-5)


def test_what_config_names_stays_and_positions_of_roberta_count_from_padding():
    tokenizer = json.loads(unigram().to_str())
    hf = support.ARCHITECTURES["bert"] | {"bos_token_id": 33, "pad_token_id": 6, "sep_token_id": 99}
    bert = models.build(hf)
    keep = vocabulary.kept(bert, [hf, {"eos_token_id": [35, 36]}], tokenizer, {38})
    assert {33, 6, 38, 35, 36} <= {*keep} and 99 not in keep and keep == sorted(keep)
    bare = vocabulary.kept(bert, [], tokenizer, {38})
    free = [i for i in range(40) if i not in bare]
    named = [{"bos_token_id": free[0]}, {"eos_token_id": free[1:3], "top_k": free[3]}]
    assert {*vocabulary.kept(bert, named, tokenizer, {38})} == {*bare, *free[:3]}
    roberta = hf | {"model_type": "roberta", "pad_token_id": 20}
    kept = vocabulary.kept(models.build(roberta), [roberta], tokenizer, {38})
    assert kept[:21] == list(range(21))
    for pad in (None, 37):  # decoders count positions from nowhere
        llama = models.build(support.ARCHITECTURES["llama"] | {"pad_token_id": pad})
        assert vocabulary.kept(llama, [], tokenizer, {38}) == bare


def test_how_a_model_is_meant_to_write_follows(directory, tmp_path):
    """Which tokens end its answers, by their new numbers."""
    whole = tmp_path / "whole"
    shutil.copytree(directory, whole, ignore=shutil.ignore_patterns("*.safetensors"))
    assert vocabulary.generation(whole) == {}
    ends = [hub.load_tokenizer(whole).sep_token_id, hub.load_tokenizer(whole).mask_token_id]
    says = {"eos_token_id": ends, "pad_token_id": ends[0], "top_k": ends[1], "do_sample": True}
    (whole / hub.GENERATION).write_text(json.dumps(says))
    keep = smaller(whole, tmp_path / "small")
    found = hub.read_json(tmp_path / "small" / hub.GENERATION)
    assert [keep[i] for i in found["eos_token_id"]] == ends
    assert keep[found["pad_token_id"]] == ends[0] and (found["top_k"], found["do_sample"]) == (ends[1], True)
    (whole / hub.GENERATION).write_text(json.dumps({"suppress_tokens": [3]}))
    with pytest.raises(UserError, match=r"generation_config\.json lists tokens by suppress_tokens; take it out"):
        vocabulary.generation(whole)


def test_a_tokenizer_of_another_kind_is_one_line(tmp_path):
    from tokenizers import models as kinds

    words = {token: i for i, token in enumerate([*NAMED.values(), "a", "b"])}
    words = {token: i for i, token in enumerate(dict.fromkeys(words))}
    folder = saved(Tokenizer(kinds.WordLevel(words, "<unk>")), tmp_path / "words")  # pyright: ignore
    with pytest.raises(UserError, match="is WordLevel; those that can be made smaller are WordPiece, BPE, Unigram"):
        vocabulary.document(folder)
