"""Texts of which units are left out, as examples that share rows."""

import numpy as np

from jaxft.data.features import Features
from jaxft.explain.units import Reading


def features(reading: Reading, kept: np.ndarray, fill: int | None) -> Features:
    """Returns an example for each ablation of a row.

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
        offsets, tokens = np.cumsum([0, *there.sum(1)]), {"input_ids": ids[there], "token_type_ids": types[there]}
    else:
        offsets = np.arange(count + 1) * len(reading.ids)
        tokens = {"input_ids": np.where(there, ids, np.int32(fill)).ravel(), "token_type_ids": types.ravel()}
    return Features(offsets, tokens, {})
