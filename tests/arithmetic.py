"""What a step of BERT needs and sends by arithmetic, to hold plans against; as a command, those of a real model:

python tests/arithmetic.py DIRECTORY_WITH_CONFIG_JSON TOPOLOGY ROWS LENGTH
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxft import config, models, program, sharding, tasks
from jaxft.batch import BatchShape
from jaxft.models import nn
from jaxft.plan import planned, topology

OPTIONS = config.SequenceClassification(labels=("a", "b"), problem="single_label")

WHOLE = ("classifier/bias", "pooler/dense/bias", "intermediate/dense/bias", "query/bias", "key/bias", "value/bias")
"""Endings of the parameters that FSDP leaves whole: no axis of theirs is `embed`."""


def on_tpu(hf: dict[str, Any], name: str, rows: int, length: int, cache: str = "", **sections: Any) -> dict[str, Any]:
    """The plan of a bfloat16 step on full rows; `sections` are the experiment's.

    Attention is plain unless they say otherwise: each layer's kernels take seconds to compile.
    """
    given: dict[str, Any] = {"task": OPTIONS, "compute": config.Compute(dtype="bfloat16", attention="xla")} | sections
    experiment = config.Experiment(**given)
    mesh = sharding.make_mesh(experiment.mesh, topology.devices(name))
    composed = program.compose(experiment, models.build(hf), tasks.build(OPTIONS), steps=10, mesh=mesh)
    return planned.plan(experiment, composed, BatchShape(rows, length, 1), [length] * rows, cache)


def parameters(hf: dict[str, Any]) -> dict[str, int]:
    """How many numbers each parameter holds."""
    spec = tasks.build(OPTIONS).param_spec(models.build(hf))
    return {path: math.prod(leaf.shape) for path, leaf in nn.flatten(spec).items()}


def sent(facts: dict[str, Any], *kinds: str) -> int:
    """Bytes of the whole arrays that collectives of these kinds (none: of any) move."""
    return sum(c["bytes"] for c in facts["collectives"] if c["kind"] in kinds or not kinds)


def model_flops(hf: dict[str, Any], rows: int, length: int) -> int:
    """6 FLOPs a weight and token (Kaplan et al. 2020), those of attention (Chowdhery et al. 2022); of all devices."""
    size, inner, layers = hf["hidden_size"], hf["intermediate_size"], hf["num_hidden_layers"]
    tokens = 6 * layers * (4 * size * size + 2 * size * inner) + 12 * layers * length * size
    return rows * (length * tokens + 6 * (size * size + 2 * size))


def data_parallel(hf: dict[str, Any], facts: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Each gradient is summed once, kernels' in bfloat16: name -> (planned, by arithmetic)."""
    sizes = parameters(hf)
    gradients = sum((2 if path.endswith("kernel") else 4) * size for path, size in sizes.items())
    return {
        "parameters": (facts["memory"]["parameters"], 4 * sum(sizes.values())),
        "optimizer": (facts["memory"]["optimizer"], 8 * sum(sizes.values())),
        "all-reduce": (sent(facts), gradients),
    }


def fsdp(hf: dict[str, Any], facts: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Each split parameter is gathered once, in float32 (a quick plan); each gradient is summed once.

    Those of kernels are scattered; of the others large ones may be summed whole, see docs/plan.md.
    """
    sizes, n = parameters(hf), facts["mesh"]["fsdp"]
    split = {path: size for path, size in sizes.items() if not path.endswith(WHOLE)}
    share = sum(size / n if path in split else size for path, size in sizes.items())
    kernels = sum(size for path, size in sizes.items() if path.endswith("kernel"))
    reduced = [c for c in facts["collectives"] if c["kind"] == "reduce-scatter"]
    scattered = sum(c["bytes"] for c in reduced if c["dtype"] == "bf16")
    return {
        "parameters": (facts["memory"]["parameters"], 4 * share),
        "optimizer": (facts["memory"]["optimizer"], 8 * share),
        "all-gather": (sent(facts, "all-gather"), 4 * sum(split.values())),
        "reduce-scatter, bfloat16": (scattered, 2 * kernels),
        "gradients": (sent(facts, "reduce-scatter", "all-reduce"), 4 * sum(sizes.values()) - 2 * kernels),
    }


def tensor_parallel(
    hf: dict[str, Any], facts: dict[str, Any], rows: int, length: int
) -> dict[str, tuple[float, float]]:
    """Two sums of activations a layer forward, two backward (Shoeybi et al. 2019).

    One of the embedding, in float32, where the vocabulary can be split.
    Of the last layer, which is computed for [CLS] alone, the gradient of keys and values is all that is large.
    """
    size, here = hf["hidden_size"], rows // facts["mesh"]["data"]
    full = 4 * (hf["num_hidden_layers"] - 1) + 1
    found = {
        dtype: sum(c["bytes"] for c in facts["collectives"] if c["axes"] == ("tensor",) and c["dtype"] == dtype)
        for dtype in ("bf16", "f32")
    }
    sums: dict[str, tuple[float, float]] = {
        "all-reduce, bfloat16": (found["bf16"], 2 * here * size * (full * length + 4))
    }
    if hf["vocab_size"] % facts["mesh"]["tensor"] == 0:
        sums["all-reduce, float32"] = (found["f32"], 4 * here * size * length)
    return sums


def main(directory: str, name: str, rows: int, length: int) -> None:
    hf = json.loads((Path(directory) / "config.json").read_text())
    n = len(topology.devices(name))
    meshes = {
        "data": config.Mesh(),
        "fsdp": config.Mesh(data=1, fsdp=n),
        "tensor": config.Mesh(data=n // 4, tensor=4),
    }
    for way, mesh in meshes.items():
        facts = on_tpu(hf, name, rows, length, mesh=mesh)
        rest = (rows, length) if way == "tensor" else ()
        found = {"data": data_parallel, "fsdp": fsdp, "tensor": tensor_parallel}[way](hf, facts, *rest)
        found["model FLOPs"] = (facts["model_flops"] * n, model_flops(hf, rows, length))
        for what, (planned_, expected) in found.items():
            print(
                f"| {way} | {what} | {planned_:,.0f} | {expected:,.0f} | {planned_ / expected - 1:+.2%} |", flush=True
            )
        whole = sorted({c["kind"] for c in facts["collectives"] if c["bytes"] > 0.01 * sent(facts)})
        print(f"| {way} | kinds | {', '.join(whole)} | | matrix products in float32: {facts['float32_share']:.1%} |")


if __name__ == "__main__":
    directory, name, rows, length = sys.argv[1:]
    topology.start(name)
    main(directory, name, int(rows), int(length))
