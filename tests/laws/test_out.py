"""Law 6 of what a model becomes after training: graphs and programs give what the task's own function gives."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import support
from support import ARCHITECTURES, EVERY, TASKS

from jaxft import models
from jaxft.batch import BatchShape
from jaxft.data.batches import HostBatch, assemble
from jaxft.data.features import Features
from jaxft.data.packing import Rows
from jaxft.hub import is_transposed, torch_name
from jaxft.models import nn
from jaxft.out import onnx as graphs
from jaxft.out import stablehlo
from jaxft.out.answers import Answers
from jaxft.out.answers import attention as given_away
from jaxft.out.runtime import Runtime
from jaxft.types import Params

LENGTHS = [7, 3, 9, 1, 4, 6]
"""Of the examples; questions have three choices."""

CELLS = [(kind, name) for kind in ARCHITECTURES for name, case in EVERY.items() if support.has_head(kind, case)]
ONCE = [
    *((kind, "single_label") for kind in support.FILES if kind not in support.DECODERS),
    *(("bert", name) for name in TASKS),
    ("modernbert", "token"),  # padding beyond its window sees nothing
]


def small(kind: str, name: str) -> tuple[Answers, Params, Features, HostBatch, dict[str, np.ndarray]]:
    """A small model, a batch of one example a row, and what the task's own function gives for each example."""
    case, hf, seed = EVERY[name], ARCHITECTURES[kind], sum(map(ord, kind + name))
    answers = Answers(case.task, models.build(hf, dropout=0.0))
    features = support.random_features(np.random.default_rng(seed), case, LENGTHS, hf)
    params = jax.tree.map(np.asarray, support.random_params(case.task, answers.model, seed))
    host = support.lay_out(features, case.task, 2 * max(LENGTHS), slots=0)
    own = jax.jit(lambda params, batch: case.task.forward(params, answers.model, batch, nn.Run()))
    outputs = own(params, support.arrays(host))
    wanted = support.by_example(outputs, case.task, host, features)
    count, first = len(features), np.zeros(len(features), np.int64)
    rows = Rows(np.arange(count), first, first)
    shape = BatchShape(count, max(LENGTHS), 1)
    return answers, params, features, assemble(features, np.arange(count), rows, shape, case.task.targets), wanted


@pytest.mark.parametrize(("kind", "name"), support.once(CELLS, *ONCE))
def test_a_graph_and_a_program_give_the_same(kind: str, name: str, tmp_path: Path):
    """Of packed rows by the task's own function; of one example a row, padded, by the graph and by the program."""
    answers, params, features, host, wanted = small(kind, name)
    batch, task = support.arrays(host), answers.task
    runtime = Runtime(graphs.write(tmp_path, answers, params, "random"), answers)
    onnx.checker.check_model(str(tmp_path / "onnx" / "model.onnx"), full_check=True)
    support.assert_close(support.by_example(runtime(batch), task, host, features), wanted, 1e-4)

    # Two questions of three choices each, or six texts; and the shortest alone: other sizes of the same graph.
    lead = (-1, 3) if name == "choices" else (-1,)
    given = {"attention_mask": np.asarray(batch["segment_ids"]), **batch}
    inputs = {name: np.asarray(given[name], np.int32).reshape(*lead, max(LENGTHS)) for name in answers.inputs}
    program, weights = stablehlo.program_of(answers), as_stored(params)
    for rows, length in ((2, max(LENGTHS)), (1, 7)):
        part = {name: x[:rows, ..., :length] for name, x in inputs.items()}
        ran = runtime.run({name: x.astype(np.int64) for name, x in part.items()})
        support.assert_close(ran, dict(program.call(weights, part)), 1e-4)  # pyright: ignore


@pytest.mark.parametrize(("window", "causal"), [(0, False), (2, False), (0, True), (2, True)])
def test_attention_that_is_given_away(window: int, causal: bool):
    """Of tokens it is that of packed rows; in the graphs of all architectures."""
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(2, 6, 1, 4)), "float32") for _ in range(3))
    segments, positions = jnp.asarray([[1] * 6, [1] * 4 + [0] * 2]), jnp.tile(jnp.arange(6), (2, 1))
    see = nn.See(segments, segments, (positions, positions), window, causal)
    found, wanted = (attend(query, key, value, see, None) for attend in (given_away, nn.attention))
    np.testing.assert_allclose(np.asarray(found)[segments > 0], np.asarray(wanted)[segments > 0], atol=1e-5)


def as_stored(params: Params) -> dict[str, np.ndarray]:
    """Parameters as a safetensors file has them."""
    flat = nn.flatten(params)
    return {torch_name(path): x.T if is_transposed(path) else x for path, x in flat.items()}
