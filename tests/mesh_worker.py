"""What happens on meshes of up to eight simulated devices, as JSON on standard output.

  python tests/mesh_worker.py curves TASK...
  python tests/mesh_worker.py methods
  python tests/mesh_worker.py transforms {NAME: {SECTION.KEY: VALUE}}
  python tests/mesh_worker.py facts
  python tests/mesh_worker.py plan MODEL CACHE

Simulated devices must be asked for before JAX starts, hence the process of its own: see `runs.on_eight_devices`.
"""

import contextlib
import dataclasses
import io
import json
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import runs
import support

from jaxft import config, hub, job, models, objectives, pretrained, program, sharding
from jaxft.batch import BatchShape
from jaxft.data import packing
from jaxft.data.batches import Feed
from jaxft.data.order import Order
from jaxft.kernels import tpu
from jaxft.models import nn
from jaxft.plan import hlo, mode, reading
from jaxft.tasks import causal_lm
from jaxft.train.compiled import Compiled

STEPS, BATCH, EXAMPLES = 20, 13, 57  # five batches an epoch, the last of 5; rows are filled up to multiples of 8 and 16

Meshes = dict[str, tuple[tuple[int, int, int], int, tuple[str, ...]]]
"""Sizes of data, fsdp and tensor; into how many parts a batch is split; and a user's own rules."""

MESHES: Meshes = {
    "1": ((1, 1, 1), 1, ()),
    "8 data": ((8, 1, 1), 1, ()),
    "4 data x 2 fsdp": ((4, 2, 1), 1, ()),
    "2 x 2 x 2": ((2, 2, 2), 1, ()),
    "8 fsdp": ((1, 8, 1), 1, ()),
}

PARTS: Meshes = {"1 in 3 parts": ((1, 1, 1), 3, ()), "4 data x 2 fsdp in 2 parts": ((4, 2, 1), 2, ())}

RULED: Meshes = {
    "hidden units over fsdp": (
        (4, 2, 1),
        1,
        ("embed=none", "mlp=fsdp", "heads=fsdp", ".*/word_embeddings/.*=none|fsdp"),
    ),
    "rows over all": (
        (2, 2, 2),
        1,
        ("rows=data+fsdp+tensor", "embed=fsdp+tensor", "heads=none", "mlp=none", "vocab=none"),
    ),
}

APART: Meshes = {"2 data x 4 tensor": ((2, 1, 4), 1, ())}
"""More parts than a decoder has heads of keys and values."""

RUNS = MESHES | PARTS | RULED | APART

DROPOUT = {
    "off": (0.0, "hash", "full"),
    "hash": (0.2, "hash", "full"),
    "threefry": (0.2, "threefry", "full"),
}
"""Rate, generator, and which parameters learn."""

CHOSEN = {
    "off": MESHES | RULED,
    "hash": MESHES | PARTS,
    "threefry": ("1", "2 x 2 x 2", "8 fsdp"),
}
"""The runs of the first task. Threefry takes long to compile."""

OTHERS = {"off": ("1",), "hash": tuple(MESHES)}
"""The runs of tasks after the first, which differ in the head alone. Without dropout one, to tell that it shows."""

FEW = {"off": ("1",), "hash": ("1", "2 x 2 x 2", "8 fsdp")}
"""The runs of architectures after the first, which differ in what is laid out over the axes."""

GROUPED = FEW | {"hash": (*FEW["hash"], *APART)}
"""The runs of decoders."""


def make_mesh(sizes: tuple[int, int, int]) -> jax.sharding.Mesh:
    data, fsdp, tensor = sizes
    return sharding.make_mesh(config.Mesh(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: int(np.prod(sizes))])


def curve(
    case: support.Case,
    rate: float,
    generator: str,
    method: str,
    sizes: tuple[int, int, int],
    parts: int,
    rules: tuple[str, ...],
    steps: int = STEPS,
    hf: Mapping[str, Any] = support.SMALL,
    seed: int = 0,
    keys: Mapping[str, Any] = MappingProxyType({}),
) -> list[float]:
    """The loss of each step, of a run with as much padding and as many shapes as the mesh asks for."""
    mesh = make_mesh(sizes)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 25, EXAMPLES)
    experiment = config.Experiment(
        task=dataclasses.replace(case.options),
        train=config.Train(accumulate=parts, batch_size=BATCH),
        optimizer=config.Optimizer(learning_rate=3e-3),
        compute=config.Compute(dropout=generator),
        mesh=config.Mesh(rules=rules),
        **support.ADAPTATIONS[method],
    )
    support.set_keys(experiment, keys)
    case = dataclasses.replace(case, options=experiment.task)
    features = support.random_features(rng, case, lengths.tolist(), hf)
    if experiment.data.unlabelled:
        features = support.with_unlabelled(features, lengths[:20].tolist(), hf)
    together = case.task.together or objectives.copied(experiment)
    items = features.items(together)
    order = Order(items.lengths, BATCH, seed=0)
    shapes = packing.plan(
        [order.lengths[order[i]] for i in range(steps)],
        longest=int(items.lengths.max()),
        packing=True,
        rows_multiple=sharding.row_shards(mesh, sharding.read_rules(rules)) * parts,
        count=1,
        cost=packing.Cost(lambda rows, length: rows * length),
        most=items.most,
    )
    model = models.build(hf, dropout=rate)
    composed = program.compose(experiment, model, case.task, steps, mesh=mesh)
    state = composed.init(jax.device_put(support.random_params(case.task, model, seed), composed.param_shardings))
    losses = []
    features = support.told(features, composed.taught)
    feed = Feed(features, composed.targets, shapes, composed.batch_sharding, together=together)
    for _, batch in feed.train(order, 0, steps):
        state, metrics = composed.train_step(state, batch)
        losses.append(metrics["loss"])
    return [float(loss) for loss in losses]


def curves(name: str, architecture: str) -> dict[str, dict[str, list[float]]]:
    """Dropout -> run -> loss of each step of a task, of one layer; of two for the first task without dropout."""
    case, first = support.EVERY[name], name == next(iter(support.TASKS))
    hf = support.ARCHITECTURES[architecture]

    def layers(kind: str) -> dict[str, Any]:
        return support.with_layers(hf, 2) if first and kind == "off" else support.shallow(architecture)

    seed = 0 if hf is support.SMALL else sum(map(ord, architecture))
    one = GROUPED if architecture in support.DECODERS else FEW
    cells = one if hf is not support.SMALL else CHOSEN if first else OTHERS
    return {
        kind: {run: curve(case, *DROPOUT[kind], *RUNS[run], hf=layers(kind), seed=seed) for run in chosen}
        for kind, chosen in cells.items()
    }


def methods() -> dict[str, dict[str, list[float]]]:
    """Method -> run -> loss of each step; of one also in each form that frozen parameters may have."""
    case, hf = support.TASKS["single_label"], support.SMALL | {"num_hidden_layers": 1, "intermediate_size": 32}
    cells = {name: (name, {}) for name in support.ADAPTATIONS if name != "full"}
    cells |= {f"dora, {form}": ("dora", {"compute.frozen": form}) for form in ("bfloat16", "int8", "nf4")}
    return {
        cell: {run: curve(case, 0.2, "hash", name, *RUNS[run], 5, hf, keys=keys) for run in ("1", "2 x 2 x 2")}
        for cell, (name, keys) in cells.items()
    }


def transforms(written: str) -> dict[str, dict[str, list[float]]]:
    """Transform -> run -> loss of each step; `written` are the keys of each, as JSON."""
    jax.config.update("jax_disable_most_optimizations", True)  # XLA splits programs over devices as ever
    case, small = support.TASKS["single_label"], support.SMALL | {"num_hidden_layers": 1}
    wide = small | {"hidden_size": 128, "intermediate_size": 160}  # what AdaFactor factors
    return {
        name: {
            run: curve(case, 0.2, "hash", "full", *RUNS[run], 5, wide if name == "adafactor" else small, keys=keys)
            for run in ("1", "2 x 2 x 2")
        }
        for name, keys in json.loads(written).items()
    }


WIDE = support.SMALL | {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "max_position_embeddings": 56}
"""Sizes that eight devices divide, none of them one of an activation."""


def facts() -> dict[str, Any]:
    """Bytes on the first device of the initial state of a small model, and collectives of its training step, by mesh.

    Bytes also of MiniLM's state, as it is declared; nothing of it is computed.
    """
    case, model = support.TASKS["single_label"], models.build(WIDE, dropout=0.1)
    minilm = models.build(hub.read_config(hub.locate(support.MINILM, "main")))
    experiment = config.Experiment(task=case.options)
    found: dict[str, Any] = {}
    for name in ("1", "4 data x 2 fsdp", "8 fsdp"):
        mesh = make_mesh(RUNS[name][0])
        composed = program.compose(experiment, model, case.task, STEPS, mesh=mesh)
        params = jax.device_put(support.random_params(case.task, model, seed=0), composed.param_shardings)
        state = composed.init(params)
        declared = program.compose(experiment, minilm, case.task, STEPS, mesh=mesh).state
        found[name] = {"small": on_first_device(state, mesh), "minilm": declared_bytes(declared)}
        shape = BatchShape(24, 40, 3)
        step = composed.train_step.lower(composed.state, composed.abstract_batch(shape))  # pyright: ignore
        found[name]["collectives"] = collectives(step.compile().as_text())
    flat = nn.flatten(composed.state.trainable)
    for whole in (True, False):
        shapes = [x.shape for x in flat.values() if x.sharding.is_fully_replicated == whole]
        found["whole" if whole else "split"] = shapes
    return found | {"kernel": kernel_error(), "decoder": decoder_sums()}


def decoder_sums() -> dict[str, int]:
    """Bytes of all float32 arrays that a decoder's step sums over data-parallel devices, and of its parameters.

    Words are scored in four blocks of each row.
    """
    hf = support.ARCHITECTURES["llama"] | {"vocab_size": 512, "tie_word_embeddings": False}
    model, mesh, shape = models.build(hf), make_mesh(RUNS["8 data"][0]), BatchShape(24, 40, 3)
    task = causal_lm.CausalLM(config.CausalLM(), scores=shape.rows // 8 * 512 * 10)
    composed = program.compose(config.Experiment(task=task.options), model, task, STEPS, mesh=mesh)
    step = composed.train_step.lower(composed.state, composed.abstract_batch(shape))  # pyright: ignore
    sums = reading.collectives(hlo.parse(step.compile().as_text()), dict(mesh.shape))
    return {
        "summed": sum(one.bytes for one in sums if (one.kind, one.dtype) == ("all-reduce", "f32")),
        "parameters": sum(4 * int(np.prod(x.shape)) for x in nn.flatten(composed.state.trainable).values()),
    }


def plan(model: str, cache: str) -> dict[str, Any]:
    """The plan of a run, and the memory of its own executable, which has made a step on real data, on one device."""
    jax.config.update("jax_disable_most_optimizations", True)  # of both, to compile in half the time
    experiment = runs.experiment(Path(model), Path(cache), mesh={"data": 2, "fsdp": 2, "tensor": 2}, data={"shapes": 1})
    prepared = job.prepare(config.check(experiment))
    composed = prepared.program
    step = Compiled(composed.train_step, composed.state, composed.abstract_batch, prepared.shapes)
    state = composed.init(pretrained.load(prepared.body.directory, composed)[0])
    _, batch = next(iter(prepared.feed("train").train(prepared.order, 0, 1)))
    state, metrics = step(state, batch)
    (compiled,) = step._compiled.values()
    with contextlib.redirect_stdout(io.StringIO()):
        facts = mode.plan(experiment, "cpu:8")
    memory = compiled.result().memory_analysis()
    return {
        "plan": facts,
        "state": on_first_device(state, composed.mesh),
        "batch": on_first_device(batch, composed.mesh),
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "loss": float(metrics["loss"]),
    }


def kernel_error() -> float:
    """How far attention by the kernel, each device computing its own rows and heads, is off plain attention."""
    rng = np.random.default_rng(0)
    query, key, value = (jnp.asarray(rng.normal(size=(8, 16, 8, 32)), jnp.float32) for _ in range(3))
    numbers, keys = jnp.arange(128).reshape(8, 16), jnp.broadcast_to(jnp.arange(16) % 5, (8, 16))
    segments = jnp.broadcast_to(jnp.arange(16) // 5, (8, 16))
    drop = nn.PairDropout(nn.Rate.of(0.3), jax.random.key(1), nn.hash_bits, numbers, keys, 16)
    spread = sharding.spread(partial(tpu.attention, interpret=True), make_mesh((2, 2, 2)))
    found, wanted = (
        jax.jit(lambda *args, attend=attend: attend(*args, drop))(query, key, value, nn.See(segments, segments))
        for attend in (spread, nn.attention)
    )
    return float(jnp.abs(found - wanted).max())


def on_first_device(tree: Any, mesh: jax.sharding.Mesh) -> int:
    device = mesh.devices.flat[0]
    shards = [shard for x in jax.tree.leaves(tree) for shard in x.addressable_shards if shard.device == device]
    return sum(shard.data.nbytes for shard in shards)


def declared_bytes(tree: Any) -> int:
    sizes = [np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)]
    return int(sum(sizes))


def collectives(text: str) -> list[tuple[str, list[int]]]:
    """Kind and dimensions of each array that crosses devices."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute|ragged-all-to-all|collective-broadcast"
    calls = re.findall(rf"= (\S.*?) ({kinds})(?:-start)?\(", text)
    return [
        (kind, [int(n) for n in dims.split(",") if n])
        for result, kind in calls
        for dims in re.findall(r"\w+\[([\d,]*)\]", result)
    ]


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    modes = {"curves": curves, "methods": methods, "transforms": transforms, "facts": facts, "plan": plan}
    print(json.dumps(modes[command](*arguments)))
