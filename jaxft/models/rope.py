"""Rotary positions as a config.json describes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.errors import UserError
from jaxft.models.nn import Rope, ramp_shares, slow_shares

PLAIN = ("default", "linear", "dynamic")
"""Types that all architectures with rotary positions compute."""

SCALED = (*PLAIN, "llama3", "yarn")
"""Types of those that read texts far longer than they were trained on at first."""


def read(hf: Mapping[str, Any], theta: float, dim: int, kinds: Sequence[str] = PLAIN) -> Rope:
    """Returns how fast heads turn, of a config.json of transformers 4 or 5 (transformers/modeling_rope_utils.py).

    Scaling of type dynamic is for what lies beyond max_position_embeddings alone, where no example has tokens.

    Args:
      theta: where config.json has none.
      dim: size of a head.
      kinds: types of scaling that are computed.

    Raises:
      UserError: scaling of another type or without its numbers, or heads that are not turned as a whole.
    """
    own = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    kind = own.get("rope_type") or own.get("type") or "default"
    if kind not in kinds:
        listed = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise UserError(f"config.json: rope_type must be {listed}; {kind!r} is not supported")
    part = own.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or 1
    if part != 1 or dim % 2:
        raise UserError(f"config.json: partial_rotary_factor must be 1, and the size of a head, {dim}, even")
    theta = float(own.get("rope_theta") or hf.get("rope_theta") or theta)
    if kind in ("default", "dynamic"):
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, float(own.get("factor") or 1))
    longest = hf.get("original_max_position_embeddings") or own.get("original_max_position_embeddings")
    return (_llama3 if kind == "llama3" else _yarn)(own, theta, dim, longest or hf.get("max_position_embeddings"))


def _llama3(own: Mapping[str, Any], theta: float, dim: int, longest: Any) -> Rope:
    low, high = _number(own, "low_freq_factor"), _number(own, "high_freq_factor")
    if low >= high:
        raise UserError(f"config.json: low_freq_factor must be below high_freq_factor; they are {low:g} and {high:g}")
    shares = slow_shares(theta, dim, _length(longest), low, high)
    return Rope(theta, _number(own, "factor"), shares)


def _yarn(own: Mapping[str, Any], theta: float, dim: int, longest: Any) -> Rope:
    factor = _number(own, "factor")
    slow, fast = own.get("beta_slow") or 1, own.get("beta_fast") or 32
    shares = ramp_shares(theta, dim, _length(longest), slow, fast, whole=own.get("truncate", True))

    def magnitude(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0

    over, under = own.get("mscale"), own.get("mscale_all_dim")
    scale = magnitude(over) / magnitude(under) if over and under else magnitude(1)
    given = own.get("attention_factor")
    return Rope(theta, factor, shares, scale if given is None else float(given))


def _number(own: Mapping[str, Any], key: str) -> float:
    value = own.get(key)
    if not isinstance(value, int | float) or value <= 0:
        kind = own.get("rope_type") or own.get("type")
        raise UserError(f"config.json: {key} of the rope_type {kind} must be a number above 0; it is {value!r}")
    return float(value)


def _length(longest: Any) -> int:
    if not isinstance(longest, int) or longest < 1:
        raise UserError(f"config.json: original_max_position_embeddings must be a number of tokens; it is {longest!r}")
    return longest
