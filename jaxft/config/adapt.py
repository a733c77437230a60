"""Which parameters learn: the knobs of each method."""

# No `from __future__ import annotations`: config_flags reads the fields' types, which must not be strings.
from dataclasses import dataclass

from jaxft.config.base import Section, knob

METHODS = ("full", "mixout", "freeze", "bitfit", "lora", "adalora", "adapter", "ia3", "prefix", "prompt")
"""What `Experiment.adapt` may be: which parameters learn."""


@dataclass(kw_only=True)
class Mixout(Section):
    """adapt=mixout: weights fall back to where they began, at random in each step (Lee et al. 2020)."""

    rate: float = knob(0.7, "share of the weights that do; 0: off", low=0, high=0.99, since="0.2.0")
    targets: tuple[str, ...] = knob(
        (), "parts of the paths of dense layers: ('query', 'value'); empty: all of the body", since="0.2.0"
    )


@dataclass(kw_only=True)
class Freeze(Section):
    """adapt=freeze: a part of the model learns, and the head with the pooler below it."""

    last_layers: int = knob(1, "so many of the last layers learn; -1: all of them", low=-1)
    embeddings: bool = knob(False, "the embeddings learn")
    learn: tuple[str, ...] = knob((), "parts of the paths of parameters that learn besides: ('LayerNorm', 'layer/0')")
    still: tuple[str, ...] = knob((), "parts of the paths of parameters that do not learn, whatever else is said")


@dataclass(kw_only=True)
class Lora(Section):
    """adapt=lora: corrections of low rank to dense layers (Hu et al. 2022)."""

    rank: int = knob(8, "of each correction", low=1)
    alpha: float = knob(16.0, "corrections are multiplied by alpha / rank", low=0)
    dropout: float = knob(0.0, "rate of dropout of what goes into the corrections", low=0, high=0.99)
    targets: tuple[str, ...] = knob(
        (), "parts of the paths of dense layers: ('query', 'value'); empty: all of the body"
    )
    rslora: bool = knob(False, "alpha / sqrt(rank) instead (Kalajdzievski 2023): for ranks of 32 and more")
    dora: bool = knob(
        False, "the lengths of the columns of weights learn apart from their directions (Liu et al. 2024)"
    )


@dataclass(kw_only=True)
class AdaLora(Section):
    """adapt=adalora: corrections of low rank that share a budget of ranks (Zhang et al. 2023)."""

    rank: int = knob(12, "of each correction at first", low=1)
    target: int = knob(8, "ranks a layer that are left, on average", low=1)
    start: float = knob(0.1, "share of all steps before the first ranks are cut", low=0, high=1)
    end: float = knob(0.3, "share of all steps after the last ranks are cut", low=0, high=1)
    every: int = knob(10, "steps between two cuts", low=1)
    beta1: float = knob(0.85, "decay of the average importance", low=0, high=1)
    beta2: float = knob(0.85, "decay of the average distance from it", low=0, high=1)
    orthogonality: float = knob(0.5, "weight of the penalty that keeps ranks apart", low=0)
    dropout: float = knob(0.0, "rate of dropout of what goes into the corrections", low=0, high=0.99)
    targets: tuple[str, ...] = knob(
        (), "parts of the paths of dense layers: ('query', 'value'); empty: all of the body"
    )


@dataclass(kw_only=True)
class Adapter(Section):
    """adapt=adapter: small layers between those of the model (Houlsby et al. 2019, Pfeiffer et al. 2021)."""

    size: int = knob(48, "hidden units of an adapter", low=1)
    activation: str = knob("gelu", "of the hidden units", choices=("gelu", "relu", "silu", "tanh"))
    placement: str = knob(
        "pfeiffer", "after each feed-forward layer; houlsby: after attention too", choices=("pfeiffer", "houlsby")
    )
    targets: tuple[str, ...] = knob((), "parts of the paths of dense layers to stand behind instead")


@dataclass(kw_only=True)
class IA3(Section):
    """adapt=ia3: keys, values and hidden units are rescaled (Liu et al. 2022)."""

    outputs: tuple[str, ...] = knob(
        ("auto",),
        "parts of the paths of dense layers whose outputs are rescaled; auto: keys and values; empty: of none",
    )
    inputs: tuple[str, ...] = knob(
        ("auto",), "and of those whose inputs are; auto: what ends the feed-forward net; empty: of none"
    )


@dataclass(kw_only=True)
class Prefix(Section):
    """adapt=prefix: keys and values before those of each example (Li and Liang 2021)."""

    length: int = knob(16, "keys and values a layer", low=1)


@dataclass(kw_only=True)
class Prompt(Section):
    """adapt=prompt: the embeddings of tokens before those of each example (Lester et al. 2021)."""

    length: int = knob(8, "tokens; every example that a row has room for costs so many positions", low=1)
