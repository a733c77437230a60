"""Rotary position embeddings."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxft.types import Array, Float, Int


class Rope(NamedTuple):
    """How fast the pairs of numbers of a head turn with the positions (Su et al. 2021, eq. 15).

    Attributes:
      theta: pair i of a head of `dim` numbers turns by theta^(-2 i / dim) a position.
      factor: what slows them down, to stretch positions to a longer text (Chen et al. 2023, Position Interpolation).
      shares: of the rate of each pair, what is divided by the factor, from 0 to 1; empty: all of it.
      scale: of cosines and sines.
    """

    theta: float
    factor: float = 1.0
    shares: tuple[float, ...] = ()
    scale: float = 1.0

    def rates(self, dim: int) -> np.ndarray:
        """Returns the angle a position of each pair, `[dim / 2]` float64."""
        shares = np.asarray(self.shares or 1.0)
        return self.theta ** (-np.arange(0, dim, 2) / dim) * (1 - shares + shares / self.factor)


def slow_shares(theta: float, dim: int, longest: int, low: float, high: float) -> tuple[float, ...]:
    """Returns the shares of Llama 3.1: none of pairs that turn more than `high` times in a text, all below `low` times.

    As transformers/modeling_rope_utils.py has it for the type llama3.

    Args:
      longest: tokens of the texts that the model was trained on at first.
    """
    turns = longest * Rope(theta).rates(dim) / (2 * math.pi)
    return tuple((1 - np.clip((turns - low) / (high - low), 0, 1)).tolist())


def ramp_shares(
    theta: float, dim: int, longest: int, slow: float, fast: float, whole: bool = True
) -> tuple[float, ...]:
    """Returns the shares of YaRN (Peng et al. 2023, section 3.2): a ramp over the pairs, from `fast` to `slow` turns.

    As transformers/modeling_rope_utils.py has it for the type yarn.

    Args:
      longest: tokens of the texts that the model was trained on at first.
      whole: whether the ramp begins and ends at a pair.
    """

    def pair(turns: float) -> float:
        """Which pair turns so many times in such a text."""
        return dim * math.log(longest / (2 * math.pi * turns)) / (2 * math.log(theta))

    first, last = (math.floor(pair(fast)), math.ceil(pair(slow))) if whole else (pair(fast), pair(slow))
    first, last = max(first, 0), min(last, dim - 1)
    last += 0.001 if first == last else 0
    return tuple(np.clip((np.arange(dim // 2) - first) / (last - first), 0, 1).tolist())


class Rotation(NamedTuple):
    """The angles by which each token's pairs of numbers are turned, as cosines and sines, float32."""

    cos: Float[Array, "rows length 1 half"]
    sin: Float[Array, "rows length 1 half"]

    @classmethod
    def of(cls, positions: Int[Array, "rows length"], dim: int, rope: Rope) -> "Rotation":
        """Returns the angles of heads of `dim` numbers: positions times the rates of `rope`."""
        angles = positions[..., None, None].astype(jnp.float32) * jnp.asarray(rope.rates(dim), jnp.float32)
        return cls(jnp.cos(angles) * rope.scale, jnp.sin(angles) * rope.scale)

    def __call__(self, x: Float[Array, "rows length heads dim"]) -> Float[Array, "rows length heads dim"]:
        """Turns number i of each head together with number i + dim / 2, in float32."""
        a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([a * self.cos - b * self.sin, b * self.cos + a * self.sin], axis=-1).astype(x.dtype)
