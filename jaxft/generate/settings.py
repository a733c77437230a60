"""How a model is meant to write: what generation_config.json of its directory says, where the user says nothing else.

As `generate` of transformers and vLLM take it. The keys are those of transformers/generation/configuration_utils.py.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxft import hub
from jaxft.devices.distributed import say
from jaxft.errors import UserError
from jaxft.generate.options import Options, check_bounds

NAMES = {
    "max_new_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "stop_strings": "stop",
}
"""Key of the file -> the option that is the same."""

KEYS = {option: key for key, option in NAMES.items()}

DRAWN = {"temperature": 1.0, "top_k": 50}
"""What transformers draws by where the file has tokens drawn, and does not say by what."""

SAMPLING, BEAMS = ("temperature", "top_k", "top_p", "min_p"), ("beams", "length_penalty")
"""Options that are of drawing alone, and of beams."""

ELSEWHERE = (
    *("transformers_version", "_from_model_config", "do_sample", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("decoder_start_token_id", "use_cache", "cache_implementation", "cache_config", "max_cache_len", "low_memory"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
    *("remove_invalid_values", "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind"),
    *("assistant_ensemble_weight", "prompt_lookup_num_tokens", "max_matching_ngram_size", "speculation_type"),
    *("use_mtp", "compile_config", "disable_compile", "continuous_batching_config", "prefill_chunk_size"),
)
"""Keys that are read elsewhere, or by which no answer becomes another."""

ONE = (
    *("typical_p", "guidance_scale", "num_beam_groups", "num_return_sequences", "encoder_repetition_penalty"),
    *("temperature", "top_p", "repetition_penalty", "num_beams", "length_penalty"),
)
"""Keys that ask for nothing where they are 1; others where they are 0, false or null."""


def settled(
    said: Mapping[str, Any], directory: Path, most: int = Options.max_new_tokens, without: Sequence[str] = ()
) -> Options:
    """Returns how texts are written: as the user says, else as the model's directory does, else by the defaults.

    What of the file is taken, and what is not, is said.

    Args:
      said: options by name.
      most: tokens of an answer, where neither says it.
      without: options that the file cannot set here.

    Raises:
      UserError: as `Options.check`; or the file cannot be read, or has a value that cannot be.
    """
    file = directory / hub.GENERATION
    values = hub.read_json(file) if file.exists() else {}
    asked = {key: value for key, value in values.items() if key not in ELSEWHERE and _asks(key, value)}
    taken = {name: value for name, value in _options(file, values, asked).items() if name not in {*said, *without}}
    taken = _together(taken, said)
    left = [key for key in asked if NAMES.get(key) not in {*taken, *said}]
    _say(file, taken, {key: asked[key] for key in left})
    return Options(**{"max_new_tokens": most, **taken, **said}).check()


def _asks(key: str, value: Any) -> bool:
    """Whether a value of the file changes an answer."""
    return bool(value) and not (key in ONE and value == 1)


def _options(file: Path, values: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says by the names of options; of drawing only where it has tokens drawn."""
    found = {name: _value(file, key, asked[key]) for key, name in NAMES.items() if key in asked}
    if not values.get("do_sample"):
        return {name: value for name, value in found.items() if name not in SAMPLING}
    own = {name: _value(file, KEYS[name], values[KEYS[name]]) for name in DRAWN if values.get(KEYS[name]) is not None}
    found |= DRAWN | own
    return found if found["temperature"] else {name: x for name, x in found.items() if name not in SAMPLING}


def _value(file: Path, key: str, value: Any) -> Any:
    """The value of an option, of the type and within the bounds that it has."""
    name = NAMES[key]
    if name == "stop":
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UserError(f"{file}: {key} must be a text or a list of texts; it is {value!r}")
        value = tuple(value)
    else:
        kind, whole = type(getattr(Options, name)), isinstance(getattr(Options, name), int)
        if type(value) not in (int, float) or not (float(value).is_integer() if whole else math.isfinite(value)):
            raise UserError(f"{file}: {key} must be a {'whole ' if whole else ''}number; it is {value!r}")
        value = kind(value)
    check_bounds({name: value}, lambda _: f"{file}: {key}")
    return value


def _together(taken: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What of the file goes with what the user says, and then together: beams draw nothing, and know no words."""
    out = {*SAMPLING} if said.get("temperature") == 0 else set()
    if said.get("temperature") or said.get("stop"):
        out.update(BEAMS)
    found = {name: value for name, value in taken.items() if name not in out}
    out = {*SAMPLING, "stop"} if (found | {**said}).get("beams", 1) > 1 else {*BEAMS}
    return {name: value for name, value in found.items() if name not in out}


def _say(file: Path, taken: Mapping[str, Any], left: Mapping[str, Any]) -> None:
    """Says what of the file is taken and what is not."""

    def listed(values: Mapping[str, Any]) -> str:
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return ", ".join(f"{name}={value}" for name, value in plain.items())

    if taken:
        _once(f"{file}: {listed(taken)}, as no --generate flag says otherwise")
    if left:
        _once(f"{file}: left out: {listed(left)}; not computed here, or not together with the rest")


@functools.cache
def _once(line: str) -> None:
    """Says a line the first time alone: a model may be asked many times."""
    say(line)
