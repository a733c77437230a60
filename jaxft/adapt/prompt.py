"""Prompt tuning: embeddings of virtual tokens before those of each example, which learn (Lester et al. 2021).

They are tokens but for their embeddings: they have the first positions, and what is read off an example's first token,
[CLS] else, is read off the first of them, as `peft` does. In a packed row each example has its own copies. They begin
as embeddings of random words (section 3.2).
"""

import jax

from jaxft.adapt.base import Adaptation, is_head
from jaxft.config import Experiment
from jaxft.models import nn
from jaxft.types import Params


def build(experiment: Experiment, spec: nn.Spec, prefix: str) -> Adaptation:
    size, flat = experiment.prompt.length, nn.flatten(spec)
    table = next(path for path in flat if path.endswith("word_embeddings/embedding"))
    place = f"{table.removesuffix('/embedding')}/virtual"
    (words, width), (_, axis), *_ = flat[table]
    new = {f"prompt/{place}": nn.Leaf((size, width), (None, axis))}

    def prepare(params: Params) -> Params:
        flat = nn.flatten(params)
        chosen = jax.random.randint(nn.path_key(jax.random.key(experiment.seed), place), (size,), 0, words)
        return nn.unflatten(flat | {f"prompt/{place}": flat[table][chosen]})

    def apply(params: Params) -> Params:
        flat = nn.flatten(params)
        return nn.unflatten({path: x for path, x in flat.items() if path not in new} | {place: flat[f"prompt/{place}"]})

    def learns(path: str) -> bool:
        return path in new or is_head(path, prefix)

    return Adaptation(learns, nn.unflatten(new), prepare, apply, merge=None, tokens=size, positions=size)
