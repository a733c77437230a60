"""Prompt tuning: embeddings of virtual tokens before those of each example, which learn (Lester et al. 2021).

They are tokens but for their embeddings: they have the first positions, and what is read off an example's first token,
[CLS] else, is read off the first of them, as `peft` does. In a packed row each example has its own copies. They begin
as embeddings of random words (section 3.2).
"""

import jax
import jax.numpy as jnp
from flax import struct

from jaxft.adapt.base import Adaptation
from jaxft.config import Experiment
from jaxft.models import Model, nn
from jaxft.types import Array, Params


class VirtualTokens(struct.PyTreeNode):
    """An `nn.Change` of the word embeddings: an id below zero is that of a virtual token, -1 the last of them."""

    table: Array

    def __call__(self, p: Params, x: Array, run: nn.Run | None) -> Array:
        virtual = self.table[jnp.clip(x + len(self.table), 0, len(self.table) - 1)]
        return jnp.where((x < 0)[..., None], virtual, p["embedding"][jnp.maximum(x, 0)])


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    size, flat = experiment.prompt.length, nn.flatten(spec)
    table, learned = f"{model.facts.words}/embedding", f"prompt/{model.facts.words}/virtual"
    (words, width), (_, axis), *_ = flat[table]
    new = {learned: nn.Leaf((size, width), (None, axis))}

    def prepare(params: Params) -> Params:
        flat = nn.flatten(params)
        key = nn.path_key(jax.random.key(experiment.seed), learned.removeprefix("prompt/"))
        chosen = flat[table][jax.random.randint(key, (size,), 0, words)]
        return nn.unflatten(flat | {learned: chosen.astype(jnp.float32)})

    def apply(params: Params) -> Params:
        flat = nn.flatten(params)
        virtual = VirtualTokens(flat.pop(learned))
        return nn.unflatten(flat | {f"{model.facts.words}/change": virtual})

    def learns(path: str) -> bool:
        return path in new or model.is_head(path)

    return Adaptation(learns, nn.unflatten(new), prepare, apply, merge=None, tokens=size, positions=size)
