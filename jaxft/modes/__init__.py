"""What `run.py --mode=...` does, but for planning: train, evaluate, predict, explain, export, serve, and so on.

Each is loaded when it is asked for: importing one does not import the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxft.modes.attacking import attack
    from jaxft.modes.auditing import audit
    from jaxft.modes.calibrating import calibrate
    from jaxft.modes.chatting import chat
    from jaxft.modes.comparing import compare
    from jaxft.modes.compressing import compress
    from jaxft.modes.crossfitting import crossfit
    from jaxft.modes.evaluating import evaluate
    from jaxft.modes.explaining import explain
    from jaxft.modes.exporting import export
    from jaxft.modes.inspecting import inspect
    from jaxft.modes.pairing import setfit
    from jaxft.modes.predicting import predict
    from jaxft.modes.serving import serve
    from jaxft.modes.souping import soup
    from jaxft.modes.training import train
    from jaxft.modes.voting import pate
    from jaxft.modes.watching import watch

_FILES = {
    "attack": "attacking",
    "audit": "auditing",
    "calibrate": "calibrating",
    "compare": "comparing",
    "chat": "chatting",
    "compress": "compressing",
    "crossfit": "crossfitting",
    "evaluate": "evaluating",
    "explain": "explaining",
    "export": "exporting",
    "inspect": "inspecting",
    "pate": "voting",
    "predict": "predicting",
    "serve": "serving",
    "setfit": "pairing",
    "soup": "souping",
    "train": "training",
    "watch": "watching",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILES[name]}"), name)


__all__ = [
    "attack",
    "audit",
    "calibrate",
    "chat",
    "compare",
    "compress",
    "crossfit",
    "evaluate",
    "explain",
    "export",
    "inspect",
    "pate",
    "predict",
    "serve",
    "setfit",
    "soup",
    "train",
    "watch",
]
