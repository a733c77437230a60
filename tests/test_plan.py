"""Planning: what is read from a compiled program, against arithmetic and XLA's own figures."""

import dataclasses
import json
import math
import sys
from typing import Any

import arithmetic
import chats
import jax
import jax.numpy as jnp
import pytest
import support
from runs import command, on_eight_devices

from jaxft import config, models, program, sharding, tables, tasks
from jaxft.batch import BatchShape
from jaxft.plan import apart, build, hlo, mode, reading, search, show, topology

CONFIG = """
from jaxft.config import *

def get_config():
    return Experiment(
        model=Model(path={path!r}), data=Data(max_length=24, cache={cache!r}), train=Train(batch_size=16)
    )
"""


def test_a_plan_without_data(tmp_path):
    """A config.json is enough, and what only data would tell is assumed and said."""
    (tmp_path / "config.json").write_text(json.dumps(support.SMALL | {"num_hidden_layers": 1}))
    (tmp_path / "experiment.py").write_text(CONFIG.format(path=str(tmp_path), cache=str(tmp_path / "cache")))
    own = ["--mode=plan", f"--config={tmp_path}/experiment.py", "--topology=cpu:2", f"--workdir={tmp_path}"]
    done = command(*own)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "plan.json").read_text())
    assert facts["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}
    assert facts["shape"] == {"rows": 16, "length": 24, "slots": 1}
    assert facts["experiment"]["task"]["labels"] == ["0", "1"] and "estimate" not in facts
    for line in (
        "cpu:2: 2 devices",
        "assumed   config.task.problem=single_label, config.task.labels=('0', '1')",
        "how much a cpu has is not known",
        "all-reduce",
    ):
        assert line in done.stdout
    assert "Collectives of a step" in (tmp_path / "report" / "plan.html").read_text()


@pytest.mark.parametrize("name", support.TASKS)
def test_what_only_data_would_tell(name: str):
    """Every task can be planned without data; what its options say is left as it is."""
    told = support.TASKS[name].options
    assert {"problem", "labels"}.isdisjoint(tables.build(told).assume())
    bare = dataclasses.replace(told, labels=(), problem="auto") if hasattr(told, "labels") else told
    assumed = dataclasses.replace(bare, **tables.build(bare).assume())
    model, task = models.build(support.SMALL), tasks.build(assumed)
    composed = program.compose(config.Experiment(task=assumed), model, task, steps=1)
    state, metrics = jax.eval_shape(composed.train_step, composed.state, composed.abstract_batch(BatchShape(4, 24, 1)))
    assert jax.tree.structure(state) == jax.tree.structure(composed.state) and metrics["loss"].shape == ()


TOGETHER: list[tuple[config.Task, int]] = [
    (config.Preference(), 2),
    (config.MultipleChoice(), 4),
    (config.MultipleChoice(choices=("a", "b", "c")), 3),
    (config.SentenceEmbedding(texts=("a", "b", "c")), 3),
    (config.Chat(), 1),
    (config.SequenceClassification(labels=("a", "b"), problem="single_label"), 1),
]


@pytest.mark.parametrize(("options", "count"), TOGETHER, ids=lambda value: type(value).__name__)
def test_rows_of_a_table_that_become_several_examples(options: config.Task, count: int):
    """They lie side by side, each as long as may be; so many are said to be assumed."""
    data, train = config.Data(max_length=8), config.Train(batch_size=6)
    mesh = sharding.make_mesh(config.Mesh(), jax.devices()[:1])
    given = config.Experiment(task=options, model=config.Model(path="unread"), data=data, train=train)
    about = mode.subject(given, mesh)
    assert about.shape(4) == BatchShape(8, 8 * count, count) and about.shape(3).rows == 6
    assert about.lengths.tolist() == [8] * 6 * count
    assert (f"{count} examples a row of the table" in about.assumed) == (count > 1)


def test_data_tell_how_long_examples_are(tmp_path):
    """Of each by itself, where several lie side by side."""
    rows = [{"prompt": "after one", "chosen": "two", "rejected": "one " * n} for n in range(1, 9)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = str(chats.save_decoder(tmp_path / "model"))
    data = config.Data(source=str(tmp_path / "pairs.jsonl"), max_length=32, cache="")
    train = config.Train(batch_size=3)
    e = config.Experiment(task=config.Preference(), model=config.Model(path=path), data=data, train=train)
    about = mode.subject(e, sharding.make_mesh(config.Mesh(), jax.devices()[:1]))
    assert len(about.lengths) == 6 and about.lengths.max() <= 32 < about.shape(1).length
    assert about.shape(1).slots % 2 == 0 and about.assumed == ()


def test_a_plan_is_what_the_run_compiles(tiny_model, cache):
    """On eight devices, of a run that has made a step: the same memory as its own executable's, and real arrays'."""
    found = on_eight_devices("plan", str(tiny_model), str(cache))
    facts, memory = found["plan"], found["plan"]["memory"]
    assert math.isfinite(found["loss"]) and facts["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2}
    assert memory["parameters"] + memory["optimizer"] + memory["counters"] == found["state"]
    assert memory["batch"] == found["batch"] and memory["padding"] == 0
    assert memory["batch"] + found["state"] == found["arguments"]
    assert memory["temporaries"] == found["temporaries"] and memory["outputs"] == found["outputs"] < 4096
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], abs=16)
    kinds = {(c["kind"], *c["axes"]) for c in facts["collectives"]}
    assert {("all-gather", "fsdp"), ("all-reduce", "tensor"), ("all-reduce", "data", "fsdp")} <= kinds
    assert facts["flops"] > 0


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


def test_whole_collectives_may_share_a_channel():
    """As XLA writes them for TPUs where it has combined several; one that is spread over fusions counts once."""
    fused = "kind=kCustom, calls=%"
    text = f"""HloModule m

%all-reduce-scatter.1 (a: f32[1024]) -> f32[128] {{
  %a = f32[1024]{{0}} parameter(0)
  %r.1 = f32[1024]{{0}} all-reduce(%a), channel_id=1, replica_groups={{}}, to_apply=%add
  ROOT %s.1 = f32[128]{{0}} dynamic-slice(%r.1, %i), dynamic_slice_sizes={{128}}
}}

%all-reduce-scatter.2 (b: f32[1024]) -> f32[128] {{
  %b = f32[1024]{{0}} parameter(0)
  %r.2 = f32[1024]{{0}} all-reduce(%b), channel_id=1, replica_groups={{}}, to_apply=%add
  ROOT %s.2 = f32[128]{{0}} dynamic-slice(%r.2, %i), dynamic_slice_sizes={{128}}
}}

%part.1 (c: f32[128]) -> f32[1024] {{
  %c = f32[128]{{0}} parameter(0)
  ROOT %g.1 = f32[1024]{{0}} all-gather(%c), channel_id=2, replica_groups={{}}, dimensions={{0}}
}}

%part.2 (d: f32[128]) -> f32[1024] {{
  %d = f32[128]{{0}} parameter(0)
  ROOT %g.2 = f32[1024]{{0}} all-gather(%d), channel_id=2, replica_groups={{}}, dimensions={{0}}
}}

ENTRY %main (x: f32[1024]) -> f32[1024] {{
  %x = f32[1024]{{0}} parameter(0)
  %one = f32[128]{{0}} fusion(%x), {fused}all-reduce-scatter.1
  %two = f32[128]{{0}} fusion(%x), {fused}all-reduce-scatter.2
  %whole = f32[1024]{{0}} all-reduce(%x), channel_id=1, replica_groups={{}}, to_apply=%add
  %begun = f32[1024]{{0}} fusion(%one), {fused}part.1
  ROOT %done = f32[1024]{{0}} fusion(%one), {fused}part.2
}}
"""
    found = reading.collectives(hlo.parse(text), {"data": 8})
    assert {row.kind: (row.count, row.bytes) for row in found} == {
        "reduce-scatter": (2, 8192),
        "all-reduce": (1, 4096),
        "all-gather": (1, 4096),
    }


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


@pytest.fixture(scope="module", autouse=True)
def as_users_compile():
    """A plan is about programs as a run compiles them, not as tests do; see conftest.py."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):
            patch.delenv(name, raising=False)
        jax.config.update("jax_disable_most_optimizations", False)
        yield
        jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def compiler():
    pytest.importorskip("libtpu", reason=topology.MISSING)


def agree(found: dict[str, tuple[float, float]]) -> None:
    """Bytes of the state to 1%, of collectives to 5%."""
    for what, (planned, expected) in found.items():
        near = 0.01 if what in ("parameters", "optimizer") else 0.05
        assert planned == pytest.approx(expected, rel=near), what


@pytest.mark.parametrize(
    ("name", "devices"), [("v4:2x2x1", 8), ("v5e:8x16", 128), ("v5p:8x8x16", 1024), ("v6e:1x1", 1)]
)
def test_the_devices_of_a_topology(name: str, devices: int):
    pytest.importorskip("libtpu", reason=topology.MISSING)
    found = topology.devices(name)
    assert len(found) == devices and topology.chip(found[0]) == topology.TPUS[name.partition(":")[0]]


def test_links():
    """A slice smaller than a cube is no torus, nor is a side of v5e below 16; cores of a chip share its links."""
    pytest.importorskip("libtpu", reason=topology.MISSING)
    gigabytes = {"v5e:4x4": 100, "v5e:8x16": 150, "v5p:2x2x4": 300, "v5p:4x4x4": 600, "tpu7x:4x4x4": 300}
    for name, wanted in gigabytes.items():
        devices = topology.devices(name)
        assert topology.bandwidth(topology.TPUS[name.partition(":")[0]], devices, devices) == wanted * 1e9


@pytest.mark.matrix
def test_data_parallelism_on_tpu(compiler, tmp_path):
    """The state is donated; what has been compiled once is read the next time."""
    facts = arithmetic.on_tpu(WIDE, "v5e:2x4", 64, 24, str(tmp_path))
    agree(arithmetic.data_parallel(WIDE, facts))
    held = facts["memory"]
    state = held["parameters"] + held["optimizer"]
    assert held["fits"] and held["padding"] < 0.02 * state
    assert held["outputs"] < 0.01 * state  # donated: the new state takes the place of the old one
    assert {c["kind"] for c in facts["collectives"]} == {"all-reduce"}
    assert facts["float32_share"] == 0
    assert 8 * facts["model_flops"] == arithmetic.model_flops(WIDE, 64, 24)
    assert 0 < facts["estimate"]["utilization"] < 1
    assert show.verdict(facts).startswith("fits: ")
    again = arithmetic.on_tpu(WIDE, "v5e:2x4", 64, 24, str(tmp_path))
    assert again.pop("cached") and not facts.pop("cached") and again == facts


def test_fsdp_on_tpu(compiler):
    """No activation crosses: what is gathered are parameters, what is summed is small."""
    facts = arithmetic.on_tpu(WIDE, "v5e:2x4", 64, 24, mesh=config.Mesh(data=1, fsdp=8))
    agree(arithmetic.fsdp(WIDE, facts))
    assert arithmetic.sent(facts, "all-reduce") < 0.05 * arithmetic.sent(facts, "reduce-scatter")
    assert {c["kind"] for c in facts["collectives"]} == {"all-gather", "reduce-scatter", "all-reduce"}


@pytest.mark.matrix
def test_tensor_parallelism_on_tpu(compiler):
    facts = arithmetic.on_tpu(WIDE, "v5e:2x4", 64, 24, mesh=config.Mesh(data=2, tensor=4))
    agree(arithmetic.tensor_parallel(WIDE, facts, 64, 24))
    assert {c["kind"] for c in facts["collectives"]} == {"all-reduce"}


def test_what_does_not_fit_is_told(compiler):
    facts = arithmetic.on_tpu(WIDE, "v5e:2x2", 2**20, 24)
    assert not facts["memory"]["fits"] and facts["memory"]["short"] > 2**30
    assert "does not fit" in show.text(facts | {"topology": "v5e:2x2"})


@pytest.mark.matrix
def test_a_search_proposes_what_compiles_and_fits(compiler, monkeypatch):
    """As it is the batch does not fit, and another setting does not compile; a best that fails at last is none."""
    rows, chip, hf = 2**21, topology.TPUS["v5e"], WIDE | {"num_hidden_layers": 1}
    shape = BatchShape(rows, 24, 1)
    work = search.Work(models.build(hf), sum(arithmetic.parameters(hf).values()), 1e12, shape)
    start = search.Setting(4, 1, 1, 1, False, False)
    for one in search.settings(4, work.model, rows):
        assert one.data * one.fsdp * one.tensor == 4 and rows % (one.data * one.fsdp * one.accumulate) == 0
    chosen = search.candidates(4, work, chip)
    fitting, broken = search.Setting(4, 1, 1, 16, False, False), search.Setting(1, 4, 1, 16, False, False)
    assert len(chosen) == 12 and fitting in chosen

    def plan(one: search.Setting) -> dict[str, Any]:
        compute = config.Compute(dtype="bfloat16", attention="xla")
        experiment = one.of(config.Experiment(task=arithmetic.OPTIONS, compute=compute))
        with monkeypatch.context() as patch:
            if one == broken:
                patch.setattr(build, "QUICK", {"no_such_option": 1})
            sections = {"mesh": experiment.mesh, "compute": experiment.compute, "train": experiment.train}
            return arithmetic.on_tpu(hf, "v5e:2x2", rows, 24, **sections)

    notes: list[str] = []
    ranked = search.search(start, [broken, fitting], plan, notes.append)
    assert [one for one, _ in ranked] == [fitting, start, broken] and len(notes) == 3
    assert [facts["memory"]["fits"] for _, facts in ranked] == [True, False, False]
    assert show.verdict(ranked[2][1]).startswith("does not compile: INVALID_ARGUMENT")
    assert search.confirm(ranked, dict(ranked).__getitem__, notes.append) == ranked
    assert f"best: {fitting.flags()}" in show.ranking(ranked, start)
    none = search.confirm(ranked, lambda one: dict(ranked)[start], notes.append)
    assert not none[0][1]["memory"]["fits"]
    assert "none of these fits" in show.ranking(none, start)


def test_a_crash_of_the_compiler_is_a_verdict(tmp_path, monkeypatch):
    """Settings are planned in processes of their own: one that is killed, or that ends in an error, is told so."""
    pytest.importorskip("libtpu", reason=topology.MISSING)
    experiment = config.Experiment(model=config.Model(path=str(tmp_path)), task=arithmetic.OPTIONS)
    asked = (experiment, "v5e:1x1", BatchShape(2, 8, 1), [8, 8])
    assert "config.json" in apart.plan(*asked)["message"]
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    facts = apart.plan(*asked)
    assert show.verdict(facts) == "does not compile: the compiler crashed (SIGSEGV)" and search.rank(facts) == (2, 0)
