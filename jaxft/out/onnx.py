"""A trained model as an ONNX graph, where Optimum and transformers.js look for it: `onnx/model.onnx`."""

from pathlib import Path

import jax
import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

import jaxft
from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.out import files
from jaxft.out.answers import Answers, abstract_inputs, abstract_params
from jaxft.out.graph import OPSET, Graph, Tensor
from jaxft.out.lowering import lower, tensor
from jaxft.out.runtime import Runtime
from jaxft.types import Params

LARGEST_FILE = 2**31 - 2**20
"""Bytes of a graph with its weights; more than that is no protobuf: weights are then a file beside it."""

TOLERANCE = 1e-3
"""Of float32 sums in another order, through many layers."""

IR_VERSION = 8
"""Of the file format: that of the first release that knew the opset."""


def graph_of(answers: Answers, params: Params) -> ir.Model:
    """Returns the graph of a model: token ids, masks and types in, all int64 of any sizes, float32 answers out.

    Args:
      params: arrays `[...]` on the host, as `answers` takes them.

    Raises:
      UserError: the model computes something that has no ONNX operator.
    """
    inputs = abstract_inputs(answers)
    traced = jax.jit(answers).trace(abstract_params(answers), inputs)
    graph = Graph()
    weights = [tensor(graph, array, path) for path, array in sorted(nn.flatten(params).items())]
    given = {name: graph.input(name, answers.axes) for name in answers.inputs}
    tensors = [Tensor(given[name], inputs[name].shape) for name in sorted(given)]
    closed = traced.jaxpr
    found = lower(graph, closed.jaxpr, [tensor(graph, x) for x in closed.consts], [*weights, *tensors])
    names = sorted(traced.out_info)
    outputs = []
    for name, out in zip(names, found, strict=True):
        value = graph.add("Identity", graph.whole(out, traced.out_info[name].shape))
        value.name, value.type = name, ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape([size if isinstance(size, int) else str(size) for size in traced.out_info[name].shape])
        outputs.append(value)
    made = ir.Graph(
        [given[name] for name in answers.inputs],
        outputs,
        nodes=graph.nodes,
        initializers=list(graph.constants.values()),
        opset_imports={"": OPSET},
        name="answers",
    )
    model = ir.Model(made, ir_version=IR_VERSION, producer_name="jaxft", producer_version=jaxft.__version__)
    for change in (
        common.CommonSubexpressionEliminationPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.NameFixPass(),
    ):
        change(model)
    return model


def write(directory: Path, answers: Answers, params: Params, weights: str) -> Path:
    """Writes the graph into a model's directory, whole or not at all, and returns where.

    Args:
      params: as in `graph_of`.
      weights: digest of the files that they were read from; the graph's metadata say it.

    Raises:
      UserError: as `graph_of` and `check`; or the folder cannot be written.
    """
    model = graph_of(answers, params)
    model.metadata_props[files.WEIGHTS] = weights
    size = sum(array.nbytes for array in jax.tree.leaves(params))
    name = files.GRAPHS["onnx"]
    with files.replaced(directory / files.ONNX) as folder:
        ir.save(model, folder / name, external_data=f"{name}_data" if size > LARGEST_FILE else None)
        check(folder / name, answers, params)
    return directory / files.ONNX / name


def check(file: Path, answers: Answers, params: Params) -> None:
    """Makes sure that a graph gives what jax computes, for two rows of words at random, the second of them padded.

    What comes out at padding counts for nothing and is not compared: with a window, what padding that sees no token
    makes of the others depends on how many a program has computed beside it.

    Raises:
      UserError: a number is off by more than `TOLERANCE`, relative to the largest.
    """
    facts, rng = answers.model.facts, np.random.default_rng(0)
    length = min(facts.longest, 12)
    shape = (2, *(2 for _ in answers.axes[1:-1]), length)
    inputs = {name: np.zeros(shape, np.int64) for name in answers.inputs}
    inputs["attention_mask"][0], inputs["attention_mask"][1, ..., : length // 2] = 1, 1
    inputs["input_ids"] += rng.integers(0, facts.vocabulary, shape)
    with jax.default_matmul_precision("highest"):
        wanted = jax.jit(answers)(params, {name: x.astype(np.int32) for name, x in inputs.items()})
    sizes = jax.eval_shape(answers, abstract_params(answers), abstract_inputs(answers))
    for name, found in Runtime(file, answers).run(inputs).items():
        of_tokens = tuple(map(str, sizes[name].shape[: len(shape)])) == answers.axes
        counts = inputs["attention_mask"] > 0 if of_tokens else ...
        found, here = found[counts], np.asarray(wanted[name])[counts]
        off = np.abs(found - here).max() / max(np.abs(here).max(), 1)
        if not off <= TOLERANCE:
            raise UserError(f"no ONNX graph: {name} of onnxruntime is off by {off:.1e}; please report this model")
