"""Which examples make up which batch: a pure function of the seed."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

GROUP = 50
"""Batches that are sorted by length together, as LengthGroupedSampler of transformers does."""


SAMPLED = 2**33
"""What is drawn by weights in epoch e has the random streams SAMPLED + 3 e, + 1 and + 2."""


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """A random order of `count` things, `[count]`; each (seed, stream) gives another one.

    From raw Philox bits: numpy keeps those the same over its versions, but not `Generator.permutation`.
    """
    bits = np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(count)
    return np.argsort(bits, kind="stable")


def sampled(weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Draws as many things as there are by their weights, `[count]`, in random order: systematic sampling.

    Each is drawn count x weight / (the sum of weights) times, rounded down or up, and so are all of one weight taken
    together. With equal weights each is drawn once.

    Args:
      weights: `[count]`, none below 0, and one above it.
    """
    count, stream = len(weights), SAMPLED + 3 * epoch
    order = permutation(count, seed, stream)
    order = order[np.argsort(weights[order], kind="stable")]
    ends = np.cumsum(weights[order])
    shift = int(np.random.Philox(key=np.array([seed, stream + 1], np.uint64)).random_raw()) / 2**64
    drawn = order[np.searchsorted(ends, ends[-1] * ((np.arange(count) + shift) / count))]
    return drawn[permutation(count, seed, stream + 2)]


@dataclass(frozen=True, eq=False)
class Order:
    """Which examples (or items; see `features.Items`) make up each batch of a run: each epoch a permutation of its own.

    The last batch of an epoch is smaller where the batch size does not divide n. With weights an epoch is as long, but
    draws by them; see `sampled`.
    """

    lengths: np.ndarray
    batch_size: int
    seed: int
    group_by_length: bool = False
    weights: np.ndarray | None = None

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __getitem__(self, i: int) -> np.ndarray:
        """The examples of batch i, `[batch_size]` or fewer."""
        epoch, at = divmod(i, self.batches_per_epoch)
        return self._epoch(epoch)[at * self.batch_size : (at + 1) * self.batch_size]

    @lru_cache(maxsize=2)  # noqa: B019
    def _epoch(self, epoch: int) -> np.ndarray:
        if self.weights is None:
            order = permutation(len(self.lengths), self.seed, 2 * epoch)
        else:
            order = sampled(self.weights, self.seed, epoch)
        if not self.group_by_length:
            return order
        size = self.batch_size
        groups = [order[i : i + GROUP * size] for i in range(0, len(order), GROUP * size)]
        order = np.concatenate([group[np.argsort(-self.lengths[group], kind="stable")] for group in groups])
        full = len(order) // size
        shuffled = permutation(full, self.seed, 2 * epoch + 1)
        batches = [order[i * size : (i + 1) * size] for i in (*shuffled, *range(full, self.batches_per_epoch))]
        return np.concatenate(batches)
