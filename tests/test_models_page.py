"""docs/models.md: its table is what the registry says."""

import functools
import re

import jax
import numpy as np
import support
from runs import ROOT

from jaxft import models
from jaxft.models import nn
from jaxft.models.interface import PURPOSES

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def attention_of(kind: str) -> str:
    """Which of its layers the kernels serve, by what its attention is asked for."""
    seen = []

    def recorded(query, key, value, see, drop):
        seen.append(see)
        return nn.attention(query, key, value, see, drop)

    model, case = models.build(support.ARCHITECTURES[kind]), support.TASKS["single_label"]
    features = support.random_features(np.random.default_rng(0), case, [6, 5], support.ARCHITECTURES[kind])
    batch = support.arrays(support.lay_out(features, case.task, 12, 0))
    params = support.random_params(case.task, model, seed=0)
    jax.eval_shape(
        functools.partial(case.task.forward, model=model, run=nn.Run(attention=recorded)), params, batch=batch
    )
    if all(see.bias is not None for see in seen):
        return "no"
    return "layers that see all" if any(see.window for see in seen) else "yes"


def row(kind: str) -> str:
    """The line of the table, from a model with the defaults of its architecture."""
    model = models.build({"model_type": kind})
    heads = {purpose: model.module.head(model.cfg, purpose, 2) for purpose in PURPOSES}
    own = [purpose for purpose, head in heads.items() if head is not None]
    facts = model.facts
    prefix = "yes" if facts.states else "no"
    return (
        f"| `{kind}` | `{model.cfg.hf_name}` | {', '.join(own)} | {facts.longest:,} | {prefix} | {attention_of(kind)} |"
    )


def test_the_table_is_what_the_registry_says():
    start = PAGE.index("| `model_type` |")
    lines = PAGE[start : PAGE.index("\n\n", start)].splitlines()[2:]
    found = [re.sub(r"^(\| `[^|]+ \|)[^|]*\|", r"\1", line) for line in lines]
    assert found == [row(kind) for kind in models.ARCHITECTURES]
