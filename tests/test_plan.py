"""Planning: what is read from a compiled program, against arithmetic and XLA's own figures."""

import json
import math
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import support
from runs import ROOT

from jaxft import config, models, program, sharding, tasks
from jaxft.batch import BatchShape
from jaxft.models import nn
from jaxft.plan import build, hlo, planned, reading, search, show, topology

CONFIG = """
from jaxft.config import *

def get_config():
    return Experiment(
        model=Model(path={path!r}),
        task=SequenceClassification(labels=("a", "b")),
        data=Data(max_length=24, cache={cache!r}),
        train=Train(batch_size=16),
    )
"""


@pytest.fixture(scope="module")
def run_plan(tmp_path_factory):
    """`(topology, *flags) -> (plan.json, the terminal's text)`, of a small model that is a config.json alone."""
    room = tmp_path_factory.mktemp("plan")
    (room / "model").mkdir()
    (room / "model" / "config.json").write_text(json.dumps(support.SMALL))
    (room / "experiment.py").write_text(CONFIG.format(path=str(room / "model"), cache=str(room / "cache")))

    def run(topology: str, *flags: str) -> tuple[dict[str, Any], str]:
        own = ["--mode=plan", f"--config={room / 'experiment.py'}", f"--topology={topology}", f"--workdir={room}"]
        environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *own, *flags], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert "Collectives of a step" in (room / "report" / "plan.html").read_text()
        return json.loads((room / "plan.json").read_text()), done.stdout

    return run


def test_a_plan_for_simulated_devices(run_plan):
    """The state's bytes by arithmetic, the collectives of each mesh axis, and nothing is compiled twice."""
    flags = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    facts, text = run_plan("cpu:8", *flags)
    assert facts["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    assert facts["shape"] == {"rows": 16, "length": 24, "slots": 1}
    memory = facts["memory"]
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], abs=16)
    assert memory["padding"] == 0 and memory["outputs"] < 4096  # metrics, and a pointer an array
    kinds = {(c["kind"], *c["axes"]) for c in facts["collectives"]}
    assert {("all-gather", "fsdp"), ("all-reduce", "tensor"), ("all-reduce", "data", "fsdp")} <= kinds
    assert facts["flops"] > 0 and "estimate" not in facts
    for line in ("cpu:8: 8 devices", "how much a cpu has is not known", "all-gather"):
        assert line in text
    again, _ = run_plan("cpu:8", *flags)
    assert again.pop("cached") and not facts.pop("cached")
    assert again == facts


def test_products_are_counted_as_often_as_they_run():
    """By XLA's own count where there is no loop; a loop's body as often as the loop runs."""
    x, weights = jnp.ones((8, 16)), jnp.ones((5, 16, 16))

    def unrolled(x, weights):
        for w in weights:
            x = jnp.tanh(x @ w)
        return x.sum()

    def scanned(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    work = [
        reading.read(hlo.parse(jax.jit(jax.grad(f, 1)).lower(x, weights).compile().as_text() or ""), {"data": 1})
        for f in (unrolled, scanned)
    ]
    forward_and_gradients = 2 * 8 * 16 * 16 * (5 + 5 + 4)  # nobody asks for the gradient of x
    assert work[0].flops == forward_and_gradients
    assert work[0].flops <= work[1].flops <= work[0].flops * 15 / 14
    assert work[0].wide == 1 and work[0].collectives == []


CONVOLUTIONS = {
    "one product": ("bf16[8,32]", "bf16[8,16]", "bf16[16,32]", "dim_labels=bf_io->bf", 2 * 8 * 16 * 32),
    "a batch of them, dilated": (
        "bf16[4,8,32]",
        "bf16[4,8,16]",
        "bf16[4,16,32]",
        "window={size=4 stride=3 pad=0_0 lhs_dilate=4}, dim_labels=0bf_0io->0bf",
        2 * 4 * 8 * 16 * 32,
    ),
    "an image": (
        "f32[1,6,6,4]",
        "f32[1,6,6,3]",
        "f32[3,3,3,4]",
        "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
        2 * 3 * 4 * (6 * 3 - 2) ** 2,
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_products_that_are_convolutions(case: str):
    out, left, right, attributes, flops = CONVOLUTIONS[case]
    text = f"""HloModule m

ENTRY %main (a: {left}, b: {right}) -> {out} {{
  %a = {left}{{1,0:T(8,128)(2,1)}} parameter(0)
  %b = {right}{{1,0}} parameter(1)
  ROOT %c = {out}{{1,0}} convolution(%a, %b), {attributes}
}}
"""
    assert reading.read(hlo.parse(text), {"data": 1}).flops == flops


GROUPS = {
    "{{0,1},{2,3},{4,5},{6,7}}": ("tensor",),
    "{}": ("data", "fsdp", "tensor"),
    "[4,2]<=[8]": ("tensor",),
    "[2,4]<=[4,2]T(1,0)": ("data", "fsdp"),
    "[4,2]<=[2,2,2]T(0,2,1)": ("fsdp",),
    "mesh['x'=4,'y'=2] {'y'}": ("tensor",),
    "mesh['x'=4,'y'=2] {'x'}": ("data", "fsdp"),
    "mesh['x'=4,'y'=2] {'x':(2)2}": ("fsdp",),
    "mesh['x'=2,'y'=4], device_ids=([4,2]T(1,0)) {'x'}": ("tensor",),
    "mesh['x'=8] {}": (),
}


@pytest.mark.parametrize("groups", GROUPS)
def test_the_mesh_axes_of_a_collective(groups: str):
    text = f"""HloModule m

ENTRY %main (a: f32[1024]) -> f32[1024] {{
  %a = f32[1024]{{0}} parameter(0)
  ROOT %r = f32[1024]{{0}} all-reduce(%a), replica_groups={groups}, to_apply=%add
}}
"""
    found = reading.collectives(hlo.parse(text), {"data": 2, "fsdp": 2, "tensor": 2})
    assert [row.axes for row in found] == ([GROUPS[groups]] if GROUPS[groups] else [])
    for row in found:
        n = 2 ** len(row.axes)
        assert (row.count, row.bytes, row.wire) == (1, 4096, 2 * 4096 * (n - 1) // n)


def test_a_tuple_and_the_padding_of_tiles():
    text = """ENTRY %main (a: f32[3,5]) -> (f32[3,5], bf16[4,64]) {
  %a = f32[3,5]{1,0} parameter(0)
  ROOT %t = (f32[3,5]{1,0:T(8,128)}, /*index=1*/bf16[4,64]{1,0:T(8,128)(2,1)S(1)}) custom-call(%a), calls=%f
}
"""
    ((first, second),) = (i.shapes for i in hlo.parse(text).computations["main"].instructions if i.root)
    assert (first.bytes, first.padded, first.space) == (60, 8 * 128 * 4, 0)
    assert (second.bytes, second.padded, second.space) == (512, 8 * 128 * 2, 1)


@pytest.mark.parametrize(
    ("message", "needed", "limit"),
    [
        ("Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded ...", 17.5, 15.75),
        ("the total memory required for HLO temporaries (512.00G) exceeds available HBM (15.25G).", 512, 15.25),
        ("something else", 0, 0),
    ],
)
def test_what_a_program_lacks(message: str, needed: float, limit: float):
    assert build.exhausted(f"RESOURCE_EXHAUSTED: {message}") == (math.floor(needed * 2**30), math.floor(limit * 2**30))


WIDE = support.SMALL | {"vocab_size": 512, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}
"""A body whose kernels outweigh the rest."""


def on_tpu(name: str, rows: int = 64, setting: search.Setting | None = None, **mesh: Any) -> dict[str, Any]:
    """The plan of a bfloat16 step on full rows of 24 tokens."""
    pytest.importorskip("libtpu", reason=topology.MISSING)
    options = config.SequenceClassification(labels=("a", "b"))
    compute = config.Compute(dtype="bfloat16")
    experiment = config.Experiment(task=options, mesh=config.Mesh(**mesh), compute=compute)
    experiment = setting.of(experiment) if setting else experiment
    devices = sharding.make_mesh(experiment.mesh, topology.devices(name))
    composed = program.compose(experiment, models.build(WIDE), tasks.build(options), steps=10, mesh=devices)
    return planned.plan(experiment, composed, BatchShape(rows, 24, 1), [24] * rows)


def parameters(hf: dict[str, Any]) -> dict[str, int]:
    """How many numbers each parameter holds."""
    task = tasks.build(config.SequenceClassification(labels=("a", "b")))
    return {path: math.prod(leaf.shape) for path, leaf in nn.flatten(task.param_spec(models.build(hf))).items()}


def total(facts: dict[str, Any], *kinds: str, axes: tuple[str, ...]) -> int:
    return sum(c["bytes"] for c in facts["collectives"] if c["kind"] in kinds and set(c["axes"]) <= set(axes))


@pytest.mark.parametrize(
    ("name", "devices"), [("v4:2x2x1", 8), ("v5e:8x16", 128), ("v5p:8x8x16", 1024), ("v6e:1x1", 1)]
)
def test_the_devices_of_a_topology(name: str, devices: int):
    pytest.importorskip("libtpu", reason=topology.MISSING)
    found = topology.devices(name)
    assert len(found) == devices and topology.chip(found[0]) == topology.TPUS[name.partition(":")[0]]


@pytest.mark.parametrize("name", ["v5e:2x4", "tpu7x:2x2x1"])
def test_data_parallelism_on_tpu(name: str):
    """Data-parallel: the state by arithmetic to 1%, and each gradient summed once, kernels' in bfloat16."""
    sizes = parameters(WIDE)
    facts = on_tpu(name)
    held = facts["memory"]
    state = sum(held[part] for part in ("parameters", "optimizer", "counters", "batch"))
    assert held["parameters"] == 4 * sum(sizes.values())
    assert state == pytest.approx(12 * sum(sizes.values()), rel=0.02) and held["padding"] < 0.02 * state
    assert held["fits"] and held["outputs"] < 0.01 * state  # donated: the new state takes the place of the old one
    gradients = sum((2 if path.endswith("kernel") else 4) * size for path, size in sizes.items())
    assert total(facts, "all-reduce", axes=("data",)) == pytest.approx(gradients, rel=0.05)
    assert facts["float32_share"] == 0
    assert 0 < facts["estimate"]["utilization"] < 1
    assert show.verdict(facts).startswith("fits: ")


def test_fsdp_on_tpu():
    """Every split parameter is gathered once, its gradient scattered once, and no activation crosses."""
    facts, sizes = on_tpu("v5e:2x4", data=1, fsdp=8), parameters(WIDE)
    whole = ("classifier/bias", "pooler/dense/bias", "intermediate/dense/bias", "query/bias", "key/bias", "value/bias")
    split = {path: size for path, size in sizes.items() if not path.endswith(whole)}
    shares = sum(size / 8 if path in split else size for path, size in sizes.items())
    assert facts["memory"]["parameters"] == pytest.approx(4 * shares, rel=0.01)
    assert total(facts, "all-gather", axes=("fsdp",)) == pytest.approx(4 * sum(split.values()), rel=0.05)
    kernels = sum(size for path, size in sizes.items() if path.endswith("kernel"))
    words = sizes["bert/embeddings/word_embeddings/embedding"]
    assert total(facts, "reduce-scatter", axes=("fsdp",)) == pytest.approx(2 * kernels + 4 * words, rel=0.05)
    assert total(facts, "all-reduce", axes=("fsdp",)) < 0.1 * kernels


def test_tensor_parallelism_on_tpu():
    """Two sums of activations a layer forward, two backward (Shoeybi et al. 2019); one of the embedding, in float32.

    Of the last layer, which is computed for [CLS] alone, the gradient of keys and values is all that is large.
    """
    facts = on_tpu("v5e:2x4", data=2, tensor=4)
    rows, length, size = 64 // 2, 24, WIDE["hidden_size"]
    activations = rows * length * size
    narrow = sum(c["bytes"] for c in facts["collectives"] if c["axes"] == ("tensor",) and c["dtype"] == "bf16")
    wide = sum(c["bytes"] for c in facts["collectives"] if c["axes"] == ("tensor",) and c["dtype"] == "f32")
    assert narrow == pytest.approx(2 * (5 * activations + 4 * rows * size), rel=0.05)
    assert wide == pytest.approx(4 * activations, rel=0.05)
    assert {c["kind"] for c in facts["collectives"]} == {"all-reduce"}


def test_what_does_not_fit_is_told():
    facts = on_tpu("v5e:2x2", rows=2**19)
    assert not facts["memory"]["fits"] and facts["memory"]["short"] > 2**30
    assert "does not fit" in show.text(facts | {"topology": "v5e:2x2"})


def test_a_search_finds_what_fits():
    """The batch does not fit on the default mesh; by arithmetic first, two settings are compiled, and one fits."""
    rows, model, chip = 2**20, models.build(WIDE), topology.TPUS["v5e"]
    shape, count = BatchShape(rows, 24, 1), sum(parameters(WIDE).values())
    start = search.Setting(4, 1, 1, 1, False, False)
    chosen = search.candidates(4, model, count, 1e12, shape, chip, most=2)
    assert len(chosen) == 2 and start not in chosen
    for one in search.settings(4, model, rows):
        assert one.data * one.fsdp * one.tensor == 4 and rows % (one.data * one.fsdp * one.accumulate) == 0
    ranked = search.search(start, chosen, lambda one: on_tpu("v5e:2x2", rows=rows, setting=one), lambda line: None)
    fits = [facts["memory"]["fits"] for _, facts in ranked]
    assert fits == sorted(fits, reverse=True) and fits[0] and not fits[-1] and ranked[-1][0] == start
    assert f"best: {ranked[0][0].flags()}" in show.ranking(ranked, start)
