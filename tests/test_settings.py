"""How a model is meant to write: what generation_config.json says where the user says nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest

from jaxft import hub
from jaxft.errors import UserError
from jaxft.generate import settings
from jaxft.generate.options import Options
from jaxft.generate.settings import BEAMS, settled

DRAWN = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1}
SEARCHED = {"num_beams": 4, "length_penalty": 2, "no_repeat_ngram_size": 3, "repetition_penalty": 1.3}


@pytest.fixture(autouse=True)
def lines(monkeypatch) -> list[str]:
    """What is said."""
    found: list[str] = []
    monkeypatch.setattr(settings, "say", found.append)
    settings._once.cache_clear()
    return found


def of(folder: Path, said: dict[str, Any], values: dict[str, Any], **how: Any) -> Options:
    (folder / hub.GENERATION).write_text(json.dumps(values))
    return settled(said, folder, **how)


def test_no_file_no_settings(tmp_path, lines):
    assert settled({}, tmp_path) == Options() and settled({"beams": 3}, tmp_path, 9) == Options(9, beams=3)
    assert lines == []


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({}, {}),
        (DRAWN, {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "temperature": None, "top_k": None, "top_p": None}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "temperature": 1, "top_k": 0, "top_p": 1}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.0, "top_p": 0.5}, {}),
        ({**DRAWN, "do_sample": False}, {}),
        (
            SEARCHED,
            {"beams": 4, "length_penalty": 2.0, "no_repeat_ngram": 3, "repetition_penalty": 1.3},
        ),
        ({**SEARCHED, **DRAWN, "num_beams": 1}, {**DRAWN, "no_repeat_ngram": 3, "repetition_penalty": 1.3}),
        ({**DRAWN, "num_beams": 2, "stop_strings": "x"}, {"beams": 2}),
        ({"max_new_tokens": 40, "stop_strings": ["a", "b"]}, {"max_new_tokens": 40, "stop": ("a", "b")}),
        ({"stop_strings": "END", "temperature": 0.7, "num_beams": None}, {"stop": ("END",)}),
    ],
)
def test_what_a_file_says(tmp_path, values: dict[str, Any], found: dict[str, Any]):
    found.pop("do_sample", None)
    assert of(tmp_path, {}, values) == Options(**found)


@pytest.mark.parametrize(
    ("said", "values", "found"),
    [
        ({"temperature": 0.9}, DRAWN, {"temperature": 0.9, "top_k": 20, "top_p": 0.95, "min_p": 0.1}),
        ({"temperature": 0.0}, DRAWN, {"temperature": 0.0}),
        ({"top_p": 1.0, "seed": 3}, DRAWN, {"temperature": 0.6, "top_k": 20, "min_p": 0.1, "seed": 3}),
        ({"beams": 2}, {**DRAWN, **SEARCHED}, {"beams": 2, "length_penalty": 2.0, "no_repeat_ngram": 3}),
        ({"beams": 1}, {"num_beams": 4, "length_penalty": 0.5}, {}),
        ({"length_penalty": 0.5}, {"num_beams": 4}, {"beams": 4, "length_penalty": 0.5}),
        ({"temperature": 1.0}, {"num_beams": 4, "length_penalty": 0.5}, {"temperature": 1.0}),
        ({"stop": ("x",)}, {"num_beams": 4}, {"stop": ("x",)}),
        ({"beams": 2}, {"stop_strings": ["x"]}, {"beams": 2}),
        ({"max_new_tokens": 5}, {"max_new_tokens": 40}, {"max_new_tokens": 5}),
    ],
)
def test_what_the_user_says_goes_before_it(
    tmp_path, said: dict[str, Any], values: dict[str, Any], found: dict[str, Any]
):
    """And what would not go with that is left out."""
    values = {key: value for key, value in values.items() if key != "repetition_penalty"}
    assert of(tmp_path, said, values) == Options(**found)


def test_what_may_not_be_set_here(tmp_path, lines):
    found = of(tmp_path, {}, SEARCHED, most=512, without=BEAMS)
    assert found == Options(512, no_repeat_ngram=3, repetition_penalty=1.3)
    assert "left out: num_beams=4, length_penalty=2;" in lines[1]
    assert of(tmp_path, {}, {"max_new_tokens": 7}, most=512) == Options(7)


def test_what_is_taken_and_what_is_not_is_said(tmp_path, lines):
    asks = {"typical_p": 0.9, "penalty_alpha": 0.6, "num_beam_groups": 2, "max_length": 99, "invented": "x"}
    asks_nothing = {"typical_p": 1.0, "num_beam_groups": 1, "early_stopping": False, "bad_words_ids": None}
    others = {"eos_token_id": [1, 2], "transformers_version": "5", "use_cache": True, "pad_token_id": 7}
    file = tmp_path / hub.GENERATION
    of(tmp_path, {"top_k": 3}, {**DRAWN, **asks, **others})
    assert lines == [
        f"{file}: temperature=0.6, top_p=0.95, min_p=0.1, as no --generate flag says otherwise",
        f"{file}: left out: typical_p=0.9, penalty_alpha=0.6, num_beam_groups=2, max_length=99, invented=x; not "
        "computed here, or not together with the rest",
    ]
    of(tmp_path, {"top_k": 3}, {**DRAWN, **asks, **others})
    assert len(lines) == 2, "once"
    lines.clear()
    of(tmp_path, {}, {**asks_nothing, **others})
    assert lines == []
    of(tmp_path, {}, {"do_sample": False, "top_k": 4, "stop_strings": ["a"]})
    assert [line.removeprefix(f"{file}: ").partition(";")[0] for line in lines] == [
        "stop=['a'], as no --generate flag says otherwise",
        "left out: top_k=4",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_sample": True, "temperature": -1}, "temperature is -1.0; it must be 0 or more"),
        ({"temperature": "hot"}, "temperature must be a number; it is 'hot'"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty must be a number; it is inf"),
        ({"num_beams": 65}, "num_beams is 65; it must be 1 or more, at most 64"),
        ({"num_beams": 2.5}, "num_beams must be a whole number; it is 2.5"),
        ({"no_repeat_ngram_size": True}, "no_repeat_ngram_size must be a whole number; it is True"),
        ({"stop_strings": ["a", ""]}, "stop_strings has an empty word"),
        ({"stop_strings": ["a", 3]}, "stop_strings must be a text or a list of texts; it is ['a', 3]"),
        ({"stop_strings": 3}, "stop_strings must be a text or a list of texts; it is 3"),
    ],
)
def test_what_a_file_cannot_say(tmp_path, values: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        of(tmp_path, {}, values)
    assert f"{hub.GENERATION}: {message}" in str(error.value)


def test_what_the_user_says_is_checked(tmp_path):
    with pytest.raises(UserError, match=r"generate\.top_p is 0\.5, but nothing is drawn"):
        of(tmp_path, {"top_p": 0.5}, {})
    assert of(tmp_path, {"top_p": 0.5}, {"do_sample": True}).top_p == 0.5
