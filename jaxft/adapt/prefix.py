"""Prefix tuning: each layer's attention sees further keys and values, which learn (Li and Liang 2021).

They learn directly, without the paper's network that makes them, as in P-Tuning v2 (Liu et al. 2022), which is for
encoders. They are no tokens: nothing but attention sees them. In a packed row each example has them for itself. As in
`peft`, the model's first positions count as theirs.
"""

from jaxft.adapt.base import Adaptation, dense_layers
from jaxft.config import Experiment
from jaxft.errors import UserError
from jaxft.models import Model, nn
from jaxft.types import Params


def build(experiment: Experiment, spec: nn.Spec, model: Model) -> Adaptation:
    size, flat = experiment.prefix.length, nn.flatten(spec)
    if not model.facts.states:
        raise UserError(
            f"config.adapt is prefix, but {model.cfg.hf_name} tells tokens by their distance, and keys that are no "
            "tokens have none; take lora"
        )
    new, patterns = {}, (*model.facts.parts["key"], *model.facts.parts["value"])
    for path in dense_layers(flat, model, "prefix", patterns):
        kernel = flat[f"{path}/kernel"]
        new[f"prefix/{path}/states"] = nn.Leaf((size, kernel.shape[1]), (None, kernel.axes[1]))

    def apply(params: Params) -> Params:
        flat = nn.flatten(params)
        states = {path.removeprefix("prefix/"): flat[path] for path in new}
        return nn.unflatten({path: x for path, x in flat.items() if path not in new} | states)

    def learns(path: str) -> bool:
        return path in new or model.is_head(path)

    return Adaptation(learns, nn.unflatten(new), apply=apply, merge=None, positions=size)
