"""Texts of which units are left out, as examples that share rows."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.explain.targets import logits_of, per_token
from jaxft.explain.units import Reading
from jaxft.predict.predictor import Predictor

TOKENS = 1 << 20
"""Tokens of the ablations that are made at once, about."""


def features(reading: Reading, kept: np.ndarray, fill: int | None) -> Features:
    """Returns an example for each ablation of a row; of two texts two, one after the other.

    Args:
      kept: `[ablations, units]` of bool, which units are left.
      fill: the token that stands in for each token that is hidden; None: it is taken out, and the rest moves up.
    """
    count = len(kept)
    special = np.ones((count, 1), bool)  # unit -1, the last column
    there = np.concatenate([kept, special], axis=1)[:, reading.unit_of]
    ids = np.broadcast_to(reading.ids, there.shape)
    types = np.broadcast_to(reading.types, there.shape)
    if fill is None:
        tokens = {"input_ids": ids[there], "token_type_ids": types[there]}
    else:
        tokens = {"input_ids": np.where(there, ids, np.int32(fill)).ravel(), "token_type_ids": types.ravel()}
    left = there if fill is None else np.ones_like(there)
    return Features(np.cumsum([0, *reading.lengths(left)]), tokens, reading.examples(left))


def outputs(
    predictor: Predictor, ablations: Sequence[tuple[Reading, np.ndarray]], fill: int | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields of each row the logits of its ablations, and how many of them are distinct, which alone are computed.

    They are `[ablations, labels]`, of a similarity `[ablations, 1]`; of a model that tags words or answers questions
    `[ablations, tokens, labels]`.

    Args:
      ablations: rows, and which units are left, as `features` takes them.
      fill: as of `features`; of a model whose logits are of tokens no token is taken out.

    Raises:
      UserError: nothing is left of a text.
    """

    def made() -> Iterator[tuple[Features, np.ndarray]]:
        for reading, kept in ablations:
            distinct, back = np.unique(kept, axis=0, return_inverse=True)
            found = features(reading, distinct, fill)
            if not found.lengths.all():
                raise UserError(
                    "explain.baseline 'delete' leaves nothing of a text, as this tokenizer has no special tokens; "
                    "take mask or pad"
                )
            yield found, back.reshape(-1)

    of_tokens = per_token(predictor.engine.task.outputs)
    for group in _grouped(made()):
        computed = predictor.compute_each([examples for examples, _ in group])
        for (examples, back), found in zip(group, computed, strict=True):
            logits = logits_of(found)
            if of_tokens:
                logits = logits.reshape(len(examples), -1, logits.shape[-1])
            yield logits[back], len(logits)


def _grouped(made: Iterable[tuple[Features, np.ndarray]]) -> Iterator[list[tuple[Features, np.ndarray]]]:
    """Yields the same in groups of about `TOKENS`."""
    group, size = [], 0
    for one in made:
        group.append(one)
        size += int(one[0].offsets[-1])
        if size >= TOKENS:
            yield group
            group, size = [], 0
    if group:
        yield group
