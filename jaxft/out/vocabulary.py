"""A vocabulary made smaller: the words that a corpus uses, and what the tokenizer needs to spell all others.

WordPiece, BPE and Unigram are known (`model` of tokenizer.json, as Hugging Face's `tokenizers` writes it). Texts of the
corpus become the same tokens as before, under other numbers; any other text falls apart into more of them, at worst
into characters or bytes, and what was known stays known.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.errors import UserError
from jaxft.hub.directory import GENERATION, read_json
from jaxft.hub.tokenizer import load_tokenizer, tokenizer_files
from jaxft.models import Model, nn
from jaxft.out.prune import Sized, with_settings

AT_ONCE = 1000
"""Texts that are tokenized side by side."""

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A token that stands for a byte of what has no other."""

PIECES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
"""Files of SentencePiece, which tokenizer.json stands in for."""

LISTED = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias")
"""Keys of generation_config.json that list tokens which may be gone."""

Ids = set[int]
Document = dict[str, Any]


def document(directory: Path) -> Document:
    """Returns what tokenizer.json of a directory says, or would say where there are other files alone.

    Raises:
      UserError: the tokenizer cannot be read, or is of a kind that is not known here.
    """
    backend = getattr(load_tokenizer(directory), "backend_tokenizer", None)
    found = json.loads(backend.to_str()) if backend is not None else {"model": {"type": "of Python alone"}}
    if (kind := found["model"]["type"]) not in NEEDED:
        raise UserError(
            f"--compress.words: the tokenizer in {directory} is {kind}; those that can be made smaller are "
            f"{', '.join(NEEDED)}"
        )
    return found


def used(directory: Path, texts: Iterable[Any], words: bool = False) -> Ids:
    """Returns the numbers of all tokens that texts have.

    Args:
      texts: strings or, where `words` is true, lists of words.
    """
    from tokenizers import Tokenizer

    # A copy, as what cuts and pads is taken away.
    tokenizer = Tokenizer.from_str(load_tokenizer(directory, words).backend_tokenizer.to_str())
    found, left = set[int](), iter(texts)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    while batch := list(islice(left, AT_ONCE)):
        for one in tokenizer.encode_batch(batch, is_pretokenized=words, add_special_tokens=False):
            found.update(one.ids)
    return found


def needed(tokenizer: Document, ids: Ids) -> Ids:
    """Returns the numbers of the tokens to keep so that texts with the tokens `ids` have them still.

    Added tokens, which hold the special ones, stay.
    """
    model = tokenizer["model"]
    return ids | {one["id"] for one in tokenizer["added_tokens"]} | NEEDED[model["type"]](model, ids)


def _of_wordpiece(model: Document, ids: Ids) -> Ids:
    """All characters, at the start of a word and in it; and pieces with one that is no piece by itself.

    The longest piece goes first: one of the corpus is the longest still. Any other word can be spelled by characters.
    """
    vocabulary, prefix = model["vocab"], model["continuing_subword_prefix"]

    def characters(token: str) -> list[str]:
        if token.startswith(prefix) and token != prefix:
            return [prefix + c for c in token.removeprefix(prefix)]
        return [token[:1], *(prefix + c for c in token[1:])]

    unknown = model["unk_token"]
    return {
        number
        for token, number in vocabulary.items()
        if token == unknown or len(parts := characters(token)) == 1 or not all(part in vocabulary for part in parts)
    }


def _of_bpe(model: Document, ids: Ids) -> Ids:
    """What no merge makes (bytes, characters), and all that the tokens of the corpus are merged from.

    Merges go by their order, and what the corpus needs of them keeps it.
    """
    vocabulary, made = model["vocab"], dict[str, list[tuple[str, str]]]()
    for left, right in model["merges"]:
        made.setdefault(_joined(model, left, right), []).append((left, right))
    names = {number: token for token, number in vocabulary.items()}
    found, open_ = {token for token in vocabulary if token not in made}, [names[i] for i in ids if i in names]
    while open_:
        token = open_.pop()
        if token not in found:
            found.add(token)
            open_ += [part for pair in made.get(token, ()) for part in pair]
    return {vocabulary[token] for token in found}


def _joined(model: Document, left: str, right: str) -> str:
    """What a merge makes of two tokens."""
    return left + right.removeprefix(model["continuing_subword_prefix"] or "")


def _of_unigram(model: Document, ids: Ids) -> Ids:
    """All characters, pieces with one that is no piece by itself, bytes, and the piece of the lowest score.

    The best way to cut a text of the corpus is the best still. What an unknown character costs depends on the lowest.
    """
    pieces = [piece for piece, _ in model["vocab"]]
    known = {piece for piece in pieces if len(piece) == 1}
    found = {i for i, piece in enumerate(pieces) if len(piece) == 1 or not known.issuperset(piece)}
    found |= {i for i, piece in enumerate(pieces) if BYTE.fullmatch(piece)}
    lowest = min(range(len(pieces)), key=lambda i: model["vocab"][i][1])
    return found | {lowest} | ({model["unk_id"]} if model["unk_id"] is not None else set())


NEEDED = {"WordPiece": _of_wordpiece, "BPE": _of_bpe, "Unigram": _of_unigram}
"""Kind of a tokenizer -> what it needs beside the tokens of the corpus, or of them."""


def smaller(tokenizer: Document, keep: Sequence[int]) -> Document:
    """Returns tokenizer.json with some tokens alone, numbered in their order.

    Args:
      keep: the numbers of those that stay, ascending.

    Raises:
      UserError: `tokenizers` would give them other numbers.
    """
    from tokenizers import Tokenizer

    new, model = {old: i for i, old in enumerate(keep)}, tokenizer["model"]
    if model["type"] == "Unigram":
        changed = {"vocab": [model["vocab"][old] for old in keep if old < len(model["vocab"])]}
        changed["unk_id"] = None if model["unk_id"] is None else new[model["unk_id"]]
    else:
        changed: Document = {"vocab": {token: new[old] for token, old in model["vocab"].items() if old in new}}
    if model["type"] == "BPE":
        there, joined = changed["vocab"], lambda pair: _joined(model, *pair)
        changed["merges"] = [pair for pair in model["merges"] if {*pair, joined(pair)} <= there.keys()]
    added = [{**one, "id": new[one["id"]]} for one in tokenizer["added_tokens"]]
    found = tokenizer | {"model": model | changed, "added_tokens": added}
    found["post_processor"] = _renumbered(tokenizer["post_processor"], new)
    if tokenizer["padding"]:
        found["padding"] = tokenizer["padding"] | {"pad_id": new[tokenizer["padding"]["pad_id"]]}
    before, after = (Tokenizer.from_str(json.dumps(one)) for one in (tokenizer, found))
    if any(after.id_to_token(i) != before.id_to_token(old) for old, i in new.items()):
        raise UserError("--compress.words: the numbers of the tokenizer's tokens have gaps; it cannot be made smaller")
    return found


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """A post-processor whose special tokens have their new numbers."""
    if not processor:
        return processor
    if processor["type"] == "Sequence":
        return processor | {"processors": [_renumbered(one, new) for one in processor["processors"]]}
    if processor["type"] == "TemplateProcessing":
        tokens = processor["special_tokens"].items()
        return processor | {"special_tokens": {k: v | {"ids": [new[i] for i in v["ids"]]} for k, v in tokens}}
    return processor | {end: [processor[end][0], new[processor[end][1]]] for end in ("sep", "cls") if end in processor}


def write(source: Path, directory: Path, tokenizer: Document, keep: Sequence[int]) -> None:
    """Writes the files of a smaller tokenizer into an empty directory, and how the model is meant to write.

    Args:
      source: the directory of the whole one.
      tokenizer: as `smaller` returns it.
      keep: as `smaller` takes it.
    """
    new, vocabulary = {old: i for i, old in enumerate(keep)}, tokenizer["model"]["vocab"]
    for file in tokenizer_files(source):
        if file.name in (*PIECES, "tokenizer.json"):
            continue
        text = file.read_text(encoding="utf-8")
        if file.name == "vocab.txt":
            text = "".join(f"{token}\n" for token in sorted(vocabulary, key=lambda token: vocabulary[token]))
        elif file.name == "vocab.json":
            text = json.dumps(vocabulary, ensure_ascii=False)
        elif file.name == "merges.txt":
            pairs = tokenizer["model"]["merges"]
            text = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs)
        elif file.name == "added_tokens.json":
            text = json.dumps({token: new[old] for token, old in read_json(file).items()}, indent=2)
        elif file.name == "tokenizer_config.json":
            text = json.dumps(_settings(read_json(file), new), indent=2)
        (directory / file.name).write_text(text, encoding="utf-8")
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    if says := generation(source):
        (directory / GENERATION).write_text(json.dumps(says | _renamed(says, new), indent=2) + "\n", encoding="utf-8")


def generation(directory: Path) -> Document:
    """Returns what generation_config.json of a directory says; nothing where there is none.

    Raises:
      UserError: it lists tokens, of which some may be gone from a smaller vocabulary.
    """
    file = directory / GENERATION
    says = read_json(file) if file.exists() else {}
    if listed := [key for key in LISTED if says.get(key)]:
        raise UserError(f"--compress.words: {file} lists tokens by {listed[0]}; take it out first")
    return says


def _settings(values: Document, new: Mapping[int, int]) -> Document:
    """tokenizer_config.json, in which added tokens have their new numbers."""
    if "added_tokens_decoder" not in values:
        return values
    added = values["added_tokens_decoder"].items()
    return values | {"added_tokens_decoder": {str(new[int(old)]): one for old, one in added}}


def kept(model: Model, settings: Sequence[Mapping[str, Any]], tokenizer: Document, ids: Ids) -> list[int]:
    """Returns the numbers of the tokens that stay, ascending: those that are needed, and those that settings name.

    Where positions are counted from the number of padding (RoBERTa), all below it stay too.

    Args:
      settings: config.json, and generation_config.json.
    """
    rows = model.facts.vocabulary
    named = {i for one in settings for _, value in _token_ids(one) for i in value}
    named |= set(range(getattr(model.cfg, "first_position", 0)))
    return sorted(needed(tokenizer, ids) | {i for i in named if 0 <= i < rows})


def _token_ids(hf: Mapping[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """The keys of a file of settings that name tokens, and their numbers."""
    for key, value in hf.items():
        numbers = value if isinstance(value, list) else [value]
        if key.endswith("_token_id") and numbers and all(type(i) is int for i in numbers):
            yield key, numbers


def _renamed(hf: Mapping[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """These keys with the tokens' new numbers."""
    ids = {key: [new.get(i, i) for i in value] for key, value in _token_ids(hf)}
    return {key: value if isinstance(hf[key], list) else value[0] for key, value in ids.items()}


def with_words(model: Model, sized: Sized, spec: nn.Spec, keep: Sequence[int]) -> Sized:
    """Returns the model with some rows of its word embeddings, and of what scores words, alone.

    Args:
      spec: of the body and of the head.
      keep: the numbers of the rows that stay, ascending.
    """
    new = {old: i for i, old in enumerate(keep)}
    named = _renamed(sized.hf, new)
    flat = dict(nn.flatten(sized.params))
    for path, leaf in nn.flatten(spec).items():
        if "vocab" in leaf.axes:
            flat[path] = np.take(np.asarray(flat[path]), keep, leaf.axes.index("vocab"))
    return Sized(with_settings(model, sized.hf, {"vocab_size": len(keep), **named}), nn.unflatten(flat))
