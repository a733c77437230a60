"""The parts that models are made of: pure functions on (params, x), and how a parameter is declared."""

from jaxft.models.nn.attend import Stream, attend, split_heads
from jaxft.models.nn.cache import Cache, LayerCache, cache_spec
from jaxft.models.nn.dense import ACTIVATIONS, Change, dense, embed, gelu, linear, product
from jaxft.models.nn.forms import Narrow, arrays, formed, narrow, narrowed, parts, wide, widened
from jaxft.models.nn.leaf import Leaf, Spec, dense_spec, flatten, layer_norm_spec, merged, path_key, unflatten
from jaxft.models.nn.norm import layer_norm, rms_norm
from jaxft.models.nn.operator import OPERATOR, operator
from jaxft.models.nn.pool import last_places, mean_pool, unit
from jaxft.models.nn.relative import disentangled, log_buckets, of_distances, toeplitz
from jaxft.models.nn.rotary import Rope, Rotation, ramp_shares, slow_shares
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
from jaxft.models.nn.scores import PairDropout, See, Sight, attention
from jaxft.models.nn.stack import repeat

__all__ = [
    "ACTIVATIONS", "DTYPES", "OPERATOR", "Cache", "Change", "LayerCache", "Leaf", "Narrow", "PairDropout", "Rate",
    "Rope", "Rotation", "Run", "See", "Sight", "Spec", "Stream", "arrays", "attend", "attention", "cache_spec",
    "count", "dense", "dense_spec", "disentangled", "dropout", "embed", "flatten", "formed", "gelu", "hash_bits",
    "kept", "last_places", "layer_norm", "layer_norm_spec", "linear", "log_buckets", "mean_pool", "merged", "mix",
    "narrow", "narrowed", "of_distances", "operator", "parts", "path_key", "pick", "product", "ramp_shares", "repeat",
    "rms_norm", "slow_shares", "split_heads", "threefry_bits", "toeplitz", "token_numbers", "unflatten", "unit",
    "wide", "widened",
]  # fmt: skip
