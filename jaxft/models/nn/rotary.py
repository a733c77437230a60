"""Rotary position embeddings."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxft.types import Array, Float, Int


class Rotation(NamedTuple):
    """The angles by which each token's pairs of numbers are turned, as cosines and sines, float32."""

    cos: Float[Array, "rows length 1 half"]
    sin: Float[Array, "rows length 1 half"]

    @classmethod
    def of(cls, positions: Int[Array, "rows length"], dim: int, theta: float, factor: float = 1.0) -> "Rotation":
        """Returns the angles `position * theta^(-2 i / dim) / factor` (Su et al. 2021, eq. 15).

        Args:
          factor: stretches positions to a longer text (Chen et al. 2023, Position Interpolation).
        """
        rates = jnp.asarray(theta ** (-np.arange(0, dim, 2) / dim) / factor, jnp.float32)
        angles = positions[..., None, None].astype(jnp.float32) * rates
        return cls(jnp.cos(angles), jnp.sin(angles))

    def __call__(self, x: Float[Array, "rows length heads dim"]) -> Float[Array, "rows length heads dim"]:
        """Turns number i of each head together with number i + dim / 2, in float32."""
        a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([a * self.cos - b * self.sin, b * self.cos + a * self.sin], axis=-1).astype(x.dtype)
