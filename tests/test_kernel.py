"""The attention kernels compute what plain attention computes, and one that does not is found out."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft import config, kernels, models, program, sharding, tasks
from jaxft.batch import BatchShape
from jaxft.job import with_trusted_attention
from jaxft.kernels import cudnn, tpu, tpu_long
from jaxft.models import nn
from jaxft.plan import hlo, reading, topology


def arguments(
    rng: np.random.Generator, heads: int, dim: int, queries: int, length: int, dtype, causal: bool = False
) -> tuple[Any, ...]:
    """Three rows of examples of random lengths, with padding at the end; the queries are the first positions."""
    draw = lambda n: jnp.asarray(rng.normal(size=(3, n, heads, dim)), dtype)  # noqa: E731
    segments, keys = np.zeros((3, length), np.int32), np.zeros((3, length), np.int32)
    for row in range(3):
        at = 0
        for number, size in enumerate(rng.integers(1, length // 3, 3)):
            segments[row, at : at + size], keys[row, at : at + size] = number + 1, np.arange(size)
            at += size
    marks, places = ((jnp.asarray(x[:, :queries]), jnp.asarray(x)) for x in (segments, keys))
    see = nn.See(*marks, places if causal else None, causal=causal)
    return draw(queries), draw(length), draw(length), see, jnp.asarray(keys)


@pytest.mark.parametrize(
    ("kernel", "heads", "dim", "queries", "length", "dtype", "rate", "causal", "window"),
    [
        (tpu, 4, 32, 24, 24, jnp.float32, 0.0, True, 0),
        (tpu, 4, 64, 24, 24, jnp.float32, 0.3, False, 0),
        (tpu, 8, 32, 8, 24, jnp.float32, 0.3, True, 0),
        (tpu, 2, 64, 24, 24, jnp.bfloat16, 0.3, False, 0),
        (tpu_long, 4, 32, 72, 72, jnp.float32, 0.0, False, 0),
        (tpu_long, 4, 64, 72, 72, jnp.float32, 0.3, True, 0),
        (tpu_long, 1, 128, 70, 70, jnp.float32, 0.3, False, 5),
        (tpu_long, 8, 32, 8, 72, jnp.float32, 0.3, False, 0),
        (tpu_long, 1, 256, 72, 72, jnp.bfloat16, 0.3, True, 9),
    ],
)
def test_kernel_is_attention(kernel, heads, dim, queries, length, dtype, rate, causal, window, monkeypatch):
    """Of long rows in blocks of 16 tokens here."""
    monkeypatch.setattr(tpu_long, "BLOCKS", (16,))
    rng = np.random.default_rng(0)
    *inputs, see, keys = arguments(rng, heads, dim, queries, length, dtype, causal or window > 0)
    see = see.replace(causal=causal, window=window)
    numbers = jnp.asarray(rng.integers(0, 2**20, (3, queries)), jnp.int32)
    drop = nn.PairDropout(nn.Rate.of(rate), jax.random.key(1), nn.hash_bits, numbers, keys, length) if rate else None
    weights = jnp.asarray(rng.normal(size=inputs[0].shape), dtype)

    def run(attend: Callable, **options: bool) -> dict[str, jax.Array]:
        def total(query, key, value):
            out = attend(query, key, value, see, drop, **options)
            return (out * weights).astype(jnp.float32).sum(), out

        grads, out = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(*inputs)
        return {"out": out} | dict(zip(("query", "key", "value"), grads, strict=True))

    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    support.assert_close(run(kernel.attention, interpret=True), run(nn.attention), tolerance)


@pytest.mark.parametrize(("causal", "window"), [(False, 0), (True, 0), (False, 6), (True, 6)])
def test_blocks_that_see_nothing_of_each_other_are_left_out(causal, window):
    """All of them in rows whose examples lie side by side, and in any others none that a token sees."""
    _, _, _, see, keys = arguments(np.random.default_rng(0), 1, 1, 64, 64, jnp.float32, True)
    see = see.replace(causal=causal, window=window)
    shuffled = np.random.default_rng(1).permutation(64)
    mixed = see.replace(asking=see.asking[:, shuffled], positions=(keys[:, shuffled], keys))

    def seen(see: nn.See) -> np.ndarray:
        return np.logical_or.reduce(np.asarray(see.mask()).reshape(3, 8, 8, 16, 4), axis=(2, 4))

    found = np.asarray(tpu_long._meeting(see, (8, 4)))
    assert (found == seen(see)).all() and not found.all()
    assert (np.asarray(tpu_long._meeting(mixed, (8, 4))) >= seen(mixed)).all()

    first, count = (np.asarray(x).reshape(3, 8) for x in tpu_long._spans(jnp.asarray(found)))
    for row, block in np.ndindex(3, 8):
        blocks = np.flatnonzero(found[row, block])
        assert (first[row, block], count[row, block]) == (blocks[0], blocks[-1] - blocks[0] + 1)


@pytest.mark.parametrize(
    ("queries", "dtype", "causal"), [(24, jnp.float32, True), (24, jnp.float32, False), (8, jnp.bfloat16, True)]
)
def test_the_masks_for_cudnn_are_those_of_attention(queries, dtype, causal):
    """By XLA's operations in place of cuDNN's, which no CPU can run."""
    query, key, value, see, _ = arguments(np.random.default_rng(0), 4, 32, queries, 24, dtype, causal)
    found = cudnn.attention(query, key, value, see, None, implementation="xla")
    plain = nn.attention(query, key, value, see, None)
    support.assert_close({"out": found}, {"out": plain}, 1e-5 if dtype == jnp.float32 else 2e-2)


def test_cudnn_is_asked_for_what_it_has():
    zeros = jnp.zeros((2, 8), int)
    drop, see = nn.PairDropout(nn.Rate.of(0.1), jax.random.key(0), nn.hash_bits, zeros, zeros, 8), nn.See(zeros, zeros)
    assert cudnn.supports((2, 8, 4, 64), 8, jnp.bfloat16, see, None)
    for shape, dtype, dropping in [
        ((2, 8, 4, 64), jnp.bfloat16, drop),
        ((2, 8, 4, 64), jnp.float32, None),
        ((2, 7, 4, 64), jnp.bfloat16, None),
        ((2, 8, 4, 36), jnp.bfloat16, None),
        ((2, 8, 4, 256), jnp.bfloat16, None),
    ]:
        assert not cudnn.supports(shape, 8, dtype, see, dropping)


def without_masks(query, key, value, see, drop):
    return nn.attention(query, key, value, jax.tree.map(jnp.zeros_like, see), drop)


def seeing_what_follows(query, key, value, see, drop):
    return nn.attention(query, key, value, see.replace(causal=False), drop)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_kernel_is_tried_before_it_is_used(dtype, monkeypatch):
    def trial(kernel: Any, dim: int, causal: bool = False, attention: Callable | None = None) -> str:
        changed: Any = SimpleNamespace(supports=kernel.supports, attention=attention or kernel.attention)
        return kernels.disagreement(changed, dtype, heads=4, dim=dim, length=24, causal=causal)

    interpreted = partial(tpu.attention, interpret=True)
    assert trial(tpu, 32, attention=interpreted) == ""
    assert "differs from plain attention by" in trial(tpu, 32, attention=without_masks)
    assert trial(tpu, 32, causal=True, attention=interpreted) == ""
    assert "differs from plain attention by" in trial(tpu, 32, causal=True, attention=seeing_what_follows)
    assert trial(tpu, 36, attention=without_masks) == ""  # it will not be asked to
    assert trial(tpu_long, 32, attention=without_masks) == ""
    monkeypatch.setattr(tpu_long, "LONGEST", 16)
    assert trial(tpu_long, 32, attention=partial(tpu_long.attention, interpret=True)) == ""
    assert "differs from plain attention by" in trial(tpu_long, 32, attention=without_masks)
    assert (trial(cudnn, 32) == "") == (dtype == jnp.float32)  # no CPU runs cuDNN


@pytest.mark.parametrize(
    ("length", "calls", "products"), [(24, 2, 2 + 5), pytest.param(896, 3, 2 + 3 + 4, marks=pytest.mark.matrix)]
)
def test_tpu_compiler_takes_it(length, calls, products):
    """Forward and backward, each device its own rows and heads, in the step of an experiment."""
    pytest.importorskip("libtpu", reason=topology.MISSING)
    hf = support.SMALL | {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 1}
    hf |= {"max_position_embeddings": length}
    options = config.SequenceClassification(labels=("a", "b"))
    experiment = config.Experiment(task=options, compute=config.Compute(attention="auto"))
    mesh = sharding.make_mesh(config.Mesh(data=2, tensor=2), topology.devices("v5e:2x2"))
    composed = program.compose(experiment, models.build(hf), tasks.build(options), steps=10, mesh=mesh)
    step = composed.train_step.lower(composed.state, composed.abstract_batch(BatchShape(4, length, 3)))  # pyright: ignore
    text = step.compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == calls
    module = hlo.parse(text)
    kernels = [reading.kernel_flops(i) for c in module.computations.values() for i in c.instructions]
    # Of two rows and two heads of 64, for three queries, or the least block of them, 16.
    queries = 3 if length == 24 else 16
    assert sum(kernels) == products * 2 * 2 * queries * length * 128


@pytest.mark.parametrize(("kind", "notes"), [("deberta-v2", 1), ("mpnet", 1), ("bert", 0)])
def test_a_model_that_no_kernel_computes_is_said_to_be_one(kind, notes, monkeypatch):
    """Where the device has a kernel: its attention is then the plain one, as `supports` says of each layer."""
    monkeypatch.setitem(kernels.KERNELS, "cpu", ("jaxft.kernels.tpu",))
    monkeypatch.setattr(kernels, "disagreement", lambda *of: "")
    model, experiment = models.build(support.ARCHITECTURES[kind]), config.Experiment()
    mesh = sharding.make_mesh(experiment.mesh)
    found, lines = with_trusted_attention(experiment, mesh, model, 32)
    assert found is experiment and len(lines) == notes
    assert all(f"scores of {model.cfg.hf_name} depend on distances" in line for line in lines)
