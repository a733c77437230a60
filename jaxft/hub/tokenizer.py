"""The tokenizer of a model's directory."""

import hashlib
import os
from pathlib import Path
from typing import Any

from jaxft.errors import UserError
from jaxft.hub.directory import TOKENIZER_FILES, VOCABULARIES, first_line, read_json


def tokenizer_files(directory: Path) -> list[Path]:
    """The files that a tokenizer is made of.

    Raises:
      UserError: there is no vocabulary among them.
    """
    if not any((directory / name).exists() for name in VOCABULARIES):
        raise UserError(f"no tokenizer in {directory}: it needs one of {', '.join(VOCABULARIES)}")
    return [directory / name for name in TOKENIZER_FILES if (directory / name).exists()]


def load_tokenizer(directory: Path, words: bool = False) -> Any:
    """Loads the tokenizer of a model directory, a `transformers.PreTrainedTokenizerBase`.

    Args:
      words: it will be given lists of words. One that works on bytes (RoBERTa's, Llama 3's) tells a word after a blank
        from one without; it then takes each word as if after a blank, the first one too.

    Raises:
      UserError: no tokenizer files, or transformers cannot read them.
    """
    tokenizer_files(directory)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch, which it need not have
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        if words and (needs_blanks(tokenizer) or cuts_first(tokenizer)):
            _put_blanks(tokenizer)
        return tokenizer
    except Exception as error:  # OSError, ValueError, KeyError, or a bare Exception from the Rust side
        raise UserError(f"transformers cannot read the tokenizer in {directory}: {first_line(error)}") from error


def needs_blanks(tokenizer: Any) -> bool:
    """Tells whether a tokenizer takes a word of a list as if it stood in the middle of another."""
    return getattr(tokenizer.backend_tokenizer.pre_tokenizer, "add_prefix_space", None) is False


def cuts_first(tokenizer: Any) -> bool:
    """Tells whether a tokenizer takes words so, and cuts them before they become bytes, as those of Llama 3 and Qwen.

    `add_prefix_space`, which not all classes hear of, would put a blank before each part of a word there.
    """
    from tokenizers.pre_tokenizers import Sequence

    steps = tokenizer.backend_tokenizer.pre_tokenizer
    return isinstance(steps, Sequence) and any(getattr(step, "add_prefix_space", None) is False for step in steps)  # pyright: ignore


def _put_blanks(tokenizer: Any) -> None:
    """Makes a tokenizer see a blank before each text or word that it is given."""
    from tokenizers.normalizers import Prepend, Sequence

    backend = tokenizer.backend_tokenizer
    own = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = Sequence([*own, Prepend(" ")])


def settings_for_words(directory: Path) -> dict[str, Any]:
    """Returns the files that make an export's tokenizer take words as `load_tokenizer` does: name -> JSON."""
    file = directory / "tokenizer_config.json"
    if not file.exists() or not needs_blanks(load_tokenizer(directory)):
        return {}
    return {file.name: read_json(file) | {"add_prefix_space": True}}


def tokenizer_fingerprint(directory: Path) -> str:
    """A hash of the tokenizer's files (40 hex digits): made without importing transformers.

    Raises:
      UserError: no tokenizer files.
    """
    digest = hashlib.sha256()
    for file in tokenizer_files(directory):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:40]
