"""Hugging Face in and out: directories and the Hub, weights, tokenizers; exports, their cards, adapters."""

from jaxft.hub.directory import CALIBRATION, GENERATION, locate, read_config, read_json
from jaxft.hub.heads import fit_of
from jaxft.hub.parameters import Accounting, load_parameters
from jaxft.hub.tokenizer import load_tokenizer, settings_for_words, tokenizer_files, tokenizer_fingerprint
from jaxft.hub.weights import digest, is_transposed, open_weights, torch_name

__all__ = [
    "CALIBRATION", "GENERATION", "Accounting", "digest", "fit_of", "is_transposed", "load_parameters", "load_tokenizer",
    "locate", "open_weights", "read_config", "read_json", "settings_for_words", "tokenizer_files",
    "tokenizer_fingerprint", "torch_name",
]  # fmt: skip
