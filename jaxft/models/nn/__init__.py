"""The parts that models are made of: pure functions on (params, x), and how a parameter is declared."""

from jaxft.models.nn.attend import PairDropout, See, Stream, attend, attention
from jaxft.models.nn.dense import ACTIVATIONS, Change, dense, embed, gelu, linear, product
from jaxft.models.nn.leaf import Leaf, Spec, dense_spec, flatten, layer_norm_spec, path_key, unflatten
from jaxft.models.nn.norm import layer_norm
from jaxft.models.nn.run import (
    DTYPES,
    Rate,
    Run,
    count,
    dropout,
    hash_bits,
    kept,
    mix,
    pick,
    threefry_bits,
    token_numbers,
)
from jaxft.models.nn.stack import repeat

__all__ = [
    "ACTIVATIONS", "DTYPES", "Change", "Leaf", "PairDropout", "Rate", "Run", "See", "Spec", "Stream", "attend",
    "attention", "count", "dense", "dense_spec", "dropout", "embed", "flatten", "gelu", "hash_bits", "kept",
    "layer_norm", "layer_norm_spec", "linear", "mix", "path_key", "pick", "product", "repeat", "threefry_bits",
    "token_numbers", "unflatten",
]  # fmt: skip
