"""How well vectors find what belongs together: metrics of ranked lists, and the contrastive loss of a whole split."""

from collections.abc import Sequence
from typing import Any

import numpy as np

CHUNK = 1024
"""Queries that are ranked at a time."""


def scores(
    queries: np.ndarray, corpus: np.ndarray, relevant: Sequence[Sequence[int]], ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Ranks the corpus for each query by the dot product; among equals the earlier entry comes first.

    Each is a mean over the queries, for the first k entries of the ranking: `recall@k`, the share of what is relevant
    that is among them; `mrr@k`, 1 / rank of the first relevant one, or 0 (Voorhees 1999); `ndcg@k`, with a gain of 1
    for what is relevant and a discount of log2(1 + rank) (Jarvelin and Kekalainen 2002).

    Args:
      queries: [queries, embed].
      corpus: [entries, embed].
      relevant: of each query the entries that belong to it, one or more.

    Returns:
      `recall@k` for each of `ks`, `mrr@k` and `ndcg@k` for the largest. Empty without queries.
    """
    if not len(queries):
        return {}
    most = min(max(ks), len(corpus))
    gains = np.zeros((len(queries), max(ks)))
    for start in range(0, len(queries), CHUNK):
        similar = queries[start : start + CHUNK].astype(np.float64) @ corpus.T.astype(np.float64)
        ranked = np.argsort(-similar, axis=1, kind="stable")[:, :most]
        for at, order in enumerate(ranked, start):
            gains[at, :most] = np.isin(order, relevant[at])
    count = np.asarray([len(set(entries)) for entries in relevant])
    discount = 1 / np.log2(np.arange(2, max(ks) + 2))
    ideal = np.cumsum(discount)[np.minimum(count, max(ks)) - 1]
    ranks = 1 / (gains.argmax(1) + 1.0)
    found = {f"recall@{k}": float((gains[:, :k].sum(1) / count).mean()) for k in ks}
    found[f"mrr@{max(ks)}"] = float(np.where(gains.any(1), ranks, 0).mean())
    return found | {f"ndcg@{max(ks)}": float(((gains * discount).sum(1) / ideal).mean())}


def contrastive(anchors: np.ndarray, candidates: np.ndarray, own: np.ndarray, scale: float) -> float:
    """The mean of -log softmax(scale x anchor . candidates)[own], over all candidates.

    Args:
      anchors: [n, embed].
      candidates: [m, embed].
      own: [n], the candidate that belongs to each anchor.
    """
    total = 0.0
    for start in range(0, len(anchors), CHUNK):
        logits = scale * (anchors[start : start + CHUNK].astype(np.float64) @ candidates.T.astype(np.float64))
        peak = logits.max(1)
        norm = peak + np.log(np.exp(logits - peak[:, None]).sum(1))
        total += float((norm - logits[np.arange(len(logits)), own[start : start + CHUNK]]).sum())
    return total / len(anchors)


def distinct(texts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """The first place of each different text, ascending, and of every text the number of its like among those."""
    numbers: dict[Any, int] = {}
    inverse = np.asarray([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)
    return np.unique(inverse, return_index=True)[1], inverse
