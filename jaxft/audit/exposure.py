"""Whether a language model gives away what was planted in its training data (Carlini et al. 2019, The Secret Sharer).

A canary is a text with a secret in it, such as a number. A model that has not learned it finds it no likelier than the
same text with another secret of the kind. Its exposure is log2 |R| - log2 rank (definition 5), its rank among the texts
R with all secrets, the likeliest first; here R are the secret and others that are drawn (section 4.3).
"""

import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxft import config
from jaxft.batch import IGNORED
from jaxft.data.features import Features
from jaxft.data.sources import Split
from jaxft.errors import UserError
from jaxft.predict.predictor import Predictor

OTHERS = 1000
"""Secrets that are drawn, where there are so many."""

PLACE = "{}"
"""Where the secret stands in a text."""

COLUMNS = ("template", "secret")
"""Of a table of canaries."""

KINDS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
"""A character of a secret is replaced by others of its kind; what is of none stays."""


class Exposure(NamedTuple):
    """What a model makes of a canary.

    Attributes:
      where: its row.
      text: with the secret.
      rank: of the secret, 1 where none is likelier.
      among: secrets, itself included.
      exposure: in bits; 0 to log2(among).
    """

    where: str
    text: str
    rank: int
    among: int
    exposure: float

    @property
    def chance(self) -> float:
        """How often a secret that the model does not know has such a rank, or a better one."""
        return self.rank / self.among


def exposures(predictor: Predictor, canaries: Split) -> Iterator[Exposure]:
    """Yields the exposure of each canary of a table.

    Raises:
      UserError: the model is no language model, or a canary cannot be used; names it.
    """
    if type(predictor.table.options) not in (config.CausalLM, config.MaskedLM):
        kind = type(predictor.table.options).__name__
        raise UserError(
            f"--audit.canaries is for models of CausalLM and MaskedLM, and this is one of {kind}; leave it out"
        )
    for name in COLUMNS:
        if name not in canaries.table.column_names:
            raise UserError(f"{canaries.origin} has no column {name!r}; canaries have {' and '.join(COLUMNS)}")
    pairs = zip(*(canaries.table[name].to_pylist() for name in COLUMNS), strict=True)
    for row, (template, secret) in enumerate(pairs):
        where = canaries.where(row)
        if not isinstance(template, str) or template.count(PLACE) != 1:
            raise UserError(f"{where}: its template must be a text with {PLACE} once in it, where the secret stands")
        if not isinstance(secret, str) or not any(letter in kind for letter in secret for kind in KINDS):
            raise UserError(f"{where}: its secret must be a text with letters or digits, in whose place others can be")
        every = [secret, *others(secret, np.random.default_rng(row))]
        likely = likelihoods(predictor, template, every, where)
        rank = 1 + int((likely[1:] >= likely[0]).sum())
        bits = float(np.log2(len(every)) - np.log2(rank))
        yield Exposure(where, template.replace(PLACE, secret), rank, len(every), bits)


def others(secret: str, rng: np.random.Generator) -> list[str]:
    """Returns other secrets of the kind, each once: `OTHERS` that are drawn, or as many as there are."""
    kinds = [next((kind for kind in KINDS if letter in kind), letter) for letter in secret]
    there = int(np.prod([float(len(kind)) for kind in kinds])) - 1
    found: dict[str, None] = {}
    while len(found) < min(OTHERS, there):
        drawn = "".join(kind[rng.integers(len(kind))] for kind in kinds)
        if drawn != secret:
            found[drawn] = None
    return list(found)


def likelihoods(predictor: Predictor, template: str, secrets: Sequence[str], where: str) -> np.ndarray:
    """Returns the log likelihood of a text with each secret, `[secrets]`, as far as it depends on it.

    Of a masked language model it is the sum over the tokens of the secret of the log probability of each, where it
    alone is hidden (the pseudo log likelihood, Salazar et al. 2020).
    """
    texts = [template.replace(PLACE, secret) for secret in secrets]
    if isinstance(predictor.table.options, config.MaskedLM):
        features = _hidden(predictor, template.index(PLACE), texts, secrets, where)
    else:
        features = predictor.tokenized(texts).features
    told = np.add.reduceat(predictor.compute(features)["log_probs"].astype(np.float64), features.offsets[:-1])
    return np.add.reduceat(told, features.bounds[:-1])


def _hidden(predictor: Predictor, start: int, texts: Sequence[str], secrets: Sequence[str], where: str) -> Features:
    """An example for each token of each secret, which is hidden in it."""
    ids, labels, rows = [], [], []
    with predictor.tokenizer() as tokenizer:
        encodings = tokenizer(list(texts), truncation=False, max_length=None, verbose=False).encodings
        mask = tokenizer.mask_token_id
    for row, (encoding, secret) in enumerate(zip(encodings, secrets, strict=True)):
        whole, end = np.asarray(encoding.ids, np.int32), start + len(secret)
        spans = zip(encoding.sequence_ids, encoding.offsets, strict=True)
        places = [at for at, (own, (low, high)) in enumerate(spans) if own is not None and low < end and high > start]
        if len(whole) > predictor.experiment.data.max_length:
            raise UserError(f"{where}: it has {len(whole):,} tokens, more than are read at once; shorten its template")
        for at in places:
            ids.append(np.where(np.arange(len(whole)) == at, np.int32(mask), whole))
            labels.append(np.where(np.arange(len(whole)) == at, whole, np.int32(IGNORED)))
            rows.append(row)
    offsets = np.cumsum([0, *map(len, ids)])
    flat = np.concatenate(ids)
    tokens = {"input_ids": flat, "token_type_ids": np.zeros_like(flat), "labels": np.concatenate(labels)}
    return Features(offsets, tokens, {"row": np.asarray(rows)})
