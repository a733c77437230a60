"""What `run.py --mode=...` does, but for planning: train, evaluate, predict, export, inspect."""

from jaxft.modes.finished import evaluate, export
from jaxft.modes.inspecting import inspect
from jaxft.modes.predicting import predict
from jaxft.modes.training import train

__all__ = ["evaluate", "export", "inspect", "predict", "train"]
