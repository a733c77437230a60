"""jaxft: functional fine-tuning of BERT-like encoders in pure JAX.

    experiment = jaxft.config.load("quickstart")
    results = jaxft.train(experiment, "/tmp/qs")
    answers = jaxft.Predictor.open("/tmp/qs")(["I like it."])

`docs/python.md` has more. Each name is loaded when it is first used, so that importing jaxft stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft import config
    from jaxft.explain.explainer import explain
    from jaxft.generate.answers import generate
    from jaxft.modes import evaluate, train
    from jaxft.predict.predictor import Predictor
    from jaxft.program import compose

__version__ = "0.1.0"

_PLACES = {
    "Predictor": "jaxft.predict.predictor",
    "compose": "jaxft.program",
    "evaluate": "jaxft.modes.evaluating",
}
"""Name -> the module that has it."""

_ROOMS = ("config", "explain", "generate", "train")
"""Parts of jaxft that are loaded by their name alone. All but `config` are callable; see there."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"jaxft.{name}")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'jaxft' has no attribute {name!r}")


__all__ = ["Predictor", "compose", "config", "evaluate", "explain", "generate", "train"]
