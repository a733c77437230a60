"""Graphs with int8 weights, by onnxruntime's dynamic quantization, and how far their answers are those of float32.

Weights are int8 with a scale a channel, made once; activations become uint8 as they come, with a scale a tensor, that
is, a batch: what else is in it moves an answer a little. Of a weight's eight bits seven are used: x86 processors that
know no more than AVX2 add products in pairs, as int16, which two of 255 x 127 do not fit into. They would be cut there,
and a graph measured on one machine would answer otherwise on another, without a word.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from jaxft.models import Model

OPERATORS = ("Gather", "MatMul")
"""That take weights: embeddings and matrices."""


class Part(NamedTuple):
    """A part of a graph that stays float32.

    Attributes:
      what: it is, in words.
      nodes: names of its operators.
    """

    what: str
    nodes: tuple[str, ...]


def parts(file: Path, model: Model) -> list[Part]:
    """Returns what may stay float32, from nothing to the half of the graph that int8 harms most.

    Rounding harms the head, whose numbers are the answer, and what all layers build on: embeddings and first layers.

    Args:
      file: the float32 graph.
    """
    graph = onnx.load(str(file), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    of: dict[str, int] = {}  # how far below the head
    for node in graph.node:
        taken = [name for name in node.input if name in weights and "/" in name]
        if node.op_type in OPERATORS and taken:
            of[node.name] = model.depth(taken[0])
    layers = len(model.facts.layers)

    def part(what: str, least: int) -> Part:
        return Part(what, tuple(name for name, depth in of.items() if depth == 0 or depth >= least))

    quarter, half = max(layers // 4, 1), max(layers // 2, 1)
    found = [Part("nothing", ()), part("the head", layers + 2), part("the head and the embeddings", layers + 1)]
    found += [part(f"the head, the embeddings and {n} of {layers} layers", layers + 1 - n) for n in (quarter, half)]
    return [one for one, before in zip(found, [None, *found], strict=False) if not before or one.nodes != before.nodes]


def quantize(file: Path, target: Path, part: Part) -> None:
    """Writes the graph with int8 weights, but for a part.

    Args:
      file: the float32 graph.
      target: where to.
    """
    with _quiet():
        quantize_dynamic(
            file,
            target,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # to -64..64
            nodes_to_exclude=list(part.nodes),
        )


def agreement(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], by_word: bool) -> float:
    """Returns the share of predictions that are the same; NaN where answers are numbers alone.

    Args:
      before, after: answers to the same rows, as a predictor gives them.
      by_word: predictions are lists, an item a word, of which each counts.
    """
    if "prediction" not in before[0]:
        return math.nan
    same: list[bool] = []
    for one, other in zip(before, after, strict=True):
        if by_word:
            same += [a == b for a, b in zip(one["prediction"], other["prediction"], strict=True)]
        else:
            same.append(one["prediction"] == other["prediction"])
    return sum(same) / len(same) if same else math.nan


@contextmanager
def _quiet():
    """Without the quantizer's advice on the root logger, which is about graphs of other programs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
