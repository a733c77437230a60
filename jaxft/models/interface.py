"""What a file of this room gives: an architecture is a module with these names, and `jaxft.models.Model` asks it.

Config                       a frozen dataclass; `from_hf(config.json)`, `with_dropout(rate)`, `prefix`, `hf_name`;
                             `hf_heads` where what follows that in the name of a Hugging Face class is not as usual
facts(cfg)                   what others ask about it
param_spec(cfg)              declares the body
encode(params, cfg, batch, run, at)   hidden states of the last layer, at all positions or at some
decode(params, cfg, batch, run, cache, at)   the same of tokens that follow those in a cache, and the cache with them;
                             of an architecture that writes texts, where `facts` says causal
head(cfg, purpose, outputs)  what stands on the body for a purpose; None: nothing does
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxft.models import nn
from jaxft.types import Array, Float, Params

PURPOSES = ("text", "choice", "pair", "token", "span", "word", "next")
"""What a head is for: classes or scores of an example; the same, of one choice of several; whether two segments belong
together; classes of each token; the first and the last token of an answer; which word of the vocabulary a token is, and
which one comes next."""


class Facts(NamedTuple):
    """What those who do not compute a model need to know of it.

    Attributes:
      width: of the hidden states.
      heads: of attention.
      vocabulary: rows of the word embedding table.
      longest: tokens an example, at most.
      segment_types: rows of the table of token types; types are below it. 0: the model has none and reads no types.
      words: path of the word embedding table.
      embeddings: paths of all parameters below the first layer, or that all layers share.
      layers: paths of the parameters of each layer, the first layer first.
      rates: dropout rates by the names that the model's parts use.
      parts: what dense layers are for -> patterns for their paths; see `PARTS`. What a model has no layer of its own
        for is missing.
      key_heads: of keys and values; 0: as many as of queries.
      head_size: numbers of a head; 0: those of the width, divided among the heads.
      causal: whether a token sees itself and those before it alone.
      states: whether attention may see further keys and values, which have no distance to any token.
      distances: whether scores of attention depend on distances that have parameters: no kernel computes such.
      repeats: how many times each layer is computed, one after the other, with the same parameters.
      inner_key: what config.json calls the width of the feed-forward nets.
      depth_key: what config.json calls the number of layers, repeats counted.
      groups: of layers that share parameters: no layer can be taken out alone, and their number is a multiple of it.
        0: each layer has its own.
      per_layer: keys of config.json that say something of each layer, such as its kind -> what they say.
      padding: the id that stands for padding, with which no example ends; None: there is none.
    """

    width: int
    heads: int
    vocabulary: int
    longest: int
    segment_types: int
    words: str
    embeddings: tuple[str, ...]
    layers: tuple[str, ...]
    rates: dict[str, float]
    parts: Mapping[str, tuple[str, ...]]
    key_heads: int = 0
    head_size: int = 0
    causal: bool = False
    states: bool = True
    distances: bool = False
    repeats: int = 1
    inner_key: str = "intermediate_size"
    depth_key: str = "num_hidden_layers"
    groups: int = 0
    per_layer: Mapping[str, tuple[str | int, ...]] = {}
    padding: int | None = None


PARTS = ("key", "value", "attention", "mlp")
"""What dense layers are for: keys and values of attention; what ends attention, and the feed-forward net."""


class Head(NamedTuple):
    """What an architecture computes for one purpose, from hidden states of its last layer.

    Attributes:
      spec: its parameters, those in the body's own tree (a pooler) included.
      apply: `(params, x [rows, places, width], run of these places) -> [rows, places, outputs]`, logits in float32.
      pooling: what it is applied to where an example gets one answer: "first", its first token; "last", its last one
        that is not padding; "mean", the mean of its tokens; "late": to each of them, and the mean is taken of the
        answers.
    """

    spec: nn.Spec
    apply: Callable[[Params, Float[Array, "rows places width"], nn.Run], Float[Array, "rows places outputs"]]
    pooling: str = "first"
