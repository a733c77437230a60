"""The training step: its optimizer against one written by hand, steps left out, and what a seed decides."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxft import config, models
from jaxft.errors import UserError
from jaxft.models import nn
from jaxft.program import Program
from jaxft.train import numbers, optimizer, state, step
from jaxft.train.gradient import gradient_of

STEPS = 5


def linear(params: Any, batch: Any, key: Any):
    """A loss whose gradient is what the batch says: `batch[path] / batch["weight"]`."""
    total = sum((x * batch[path]).sum() for path, x in nn.flatten(params).items())
    return (total + batch.get("offset", 0), batch["weight"]), {}


def train_linear(options: config.Optimizer, start: dict[str, np.ndarray], batches: Sequence[Mapping[str, Any]]):
    """The states and the metrics of one step a batch, in a run of `STEPS` steps."""
    schedule = optimizer.make_schedule(options.schedule)
    transform = optimizer.make_optimizer(options, schedule, depth=lambda path: 0)
    gradient = gradient_of(linear, lambda trainable, frozen: trainable)
    halves = step.make_gradient_step(lambda values: gradient), step.make_update_step(transform, schedule)
    train_step = jax.jit(step.make_train_step(*halves))
    params, values = jax.tree.map(jnp.asarray, nn.unflatten(start)), numbers.of(options, STEPS)
    now = state.init(params, {}, transform, values, seed=0)
    states, metrics = [now], []
    for batch in batches:
        now, found = train_step(now, batch)
        states.append(now)
        metrics.append(found)
    return states, metrics


def adamw(options: config.Optimizer, start: dict[str, np.ndarray], grads: list[dict[str, np.ndarray]]):
    """The parameters after each step, in float64: Loshchilov and Hutter 2019, algorithm 2, with clipping before it."""
    params = {path: x.astype(np.float64) for path, x in start.items()}
    m, v = ({path: np.zeros_like(x) for path, x in params.items()} for _ in range(2))
    warmup = round(options.warmup * STEPS) if options.warmup < 1 else round(options.warmup)
    after, norms = [], []
    for t, grad in enumerate(grads):
        norm = np.sqrt(sum(np.square(g.astype(np.float64)).sum() for g in grad.values()))
        left = (STEPS - t) / (STEPS - warmup) if t >= warmup else None
        decay = {"constant": lambda _: 1, "linear": lambda x: x, "cosine": lambda x: (1 - np.cos(np.pi * x)) / 2}
        rate = options.learning_rate * (t / warmup if left is None else decay[options.schedule](left))
        for path, g in grad.items():
            g = g.astype(np.float64) * (min(1, options.clip_norm / norm) if options.clip_norm else 1)
            m[path] = options.b1 * m[path] + (1 - options.b1) * g
            v[path] = options.b2 * v[path] + (1 - options.b2) * g * g
            m_hat, v_hat = m[path] / (1 - options.b1 ** (t + 1)), v[path] / (1 - options.b2 ** (t + 1))
            shrink = options.weight_decay * params[path] if path.endswith(("kernel", "embedding")) else 0
            params[path] = params[path] - rate * (m_hat / (np.sqrt(v_hat) + options.eps) + shrink)
        after.append(dict(params))
        norms.append(norm)
    return after, norms


SHAPES = {
    "bert/embeddings/embedding": (5, 3),
    "bert/norm/scale": (3,),
    "bert/norm/bias": (3,),
    "classifier/kernel": (3, 2),
    "classifier/bias": (2,),
}


def normal(rng: np.random.Generator, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {path: rng.normal(0, scale, shape).astype(np.float32) for path, shape in SHAPES.items()}


@settings(max_examples=15, phases=support.NO_SHRINKING)
@given(
    st.builds(
        config.Optimizer,
        learning_rate=st.floats(0.01, 0.1),
        schedule=st.sampled_from(["linear", "cosine", "constant"]),
        warmup=st.sampled_from([0.0, 0.1, 0.4, 0.6, 1.0, 3.0, 4.0]),
        weight_decay=st.sampled_from([0.0, 0.01, 0.3]),
        b1=st.sampled_from([0.0, 0.9, 0.95]),
        b2=st.sampled_from([0.9, 0.999]),
        eps=st.sampled_from([1e-8, 1e-3]),
        clip_norm=st.sampled_from([0.0, 0.5, 5.0]),
    ),
    st.integers(0, 2**16),
)
def test_optimizer_is_adamw(options: config.Optimizer, seed: int):
    rng = np.random.default_rng(seed)
    start = normal(rng)
    grads = [normal(rng, scale) for scale in rng.choice([0.05, 1, 30], STEPS)]  # below and above the clipping norm
    weights = rng.integers(1, 9, STEPS).astype(np.float32)
    batches = [{p: g * w for p, g in grad.items()} | {"weight": w} for grad, w in zip(grads, weights, strict=True)]
    states, metrics = train_linear(options, start, batches)
    wanted, norms = adamw(options, start, grads)
    for found, params in zip(states[1:], wanted, strict=True):
        support.assert_close(nn.flatten(found.trainable), params, 1e-5)
    np.testing.assert_allclose([found["grad_norm"] for found in metrics], norms, rtol=1e-5)
    assert [int(found.step) for found in states] == list(range(STEPS + 1))


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@settings(max_examples=25)
@given(st.integers(1, 60).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps))))
def test_schedules_are_those_of_transformers(torch, name: str, drawn: tuple[int, int]):
    from transformers import optimization

    steps, warmup = drawn
    values = numbers.of(config.Optimizer(learning_rate=0.5, warmup=warmup), steps)
    sizes = {"num_warmup_steps": warmup} | ({} if name == "constant" else {"num_training_steps": steps})
    any_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = getattr(optimization, f"get_{name}_schedule_with_warmup")(any_optimizer, **sizes).lr_lambdas[0]
    found = np.broadcast_to(optimizer.make_schedule(name)(jnp.arange(60), values), 60)
    np.testing.assert_allclose(found[:steps], [0.5 * theirs(t) for t in range(steps)], rtol=1e-5, atol=1e-6)


def test_warmup_below_one_is_a_share():
    assert numbers.of(config.Optimizer(warmup=0.2), 40) == numbers.of(config.Optimizer(warmup=8.0), 40)


def test_warmup_beyond_the_run_is_refused():
    with pytest.raises(UserError, match=r"config\.optimizer\.warmup is 11 steps, but the run has only 10"):
        numbers.of(config.Optimizer(warmup=11), 10)


BAD = {
    "an infinite loss": {"offset": np.float32(np.inf)},
    "a gradient that is no number": {"classifier/bias": np.asarray([np.nan, 1], np.float32)},
    "a norm that overflows": {"classifier/bias": np.asarray([1e25, 1], np.float32)},
    "no examples": {"weight": np.float32(0)},
}


@pytest.mark.parametrize("what", BAD)
def test_non_finite_steps_leave_no_trace(what: str):
    """Good, bad, bad, good: as good, good."""
    rng = np.random.default_rng(0)
    start = normal(rng)
    good = [normal(rng) | {"weight": np.float32(2)} for _ in range(2)]
    bad = good[0] | BAD[what]
    options = config.Optimizer(warmup=0.0, learning_rate=0.1)
    (_, first, second, third, last), metrics = train_linear(options, start, [good[0], bad, bad, good[1]])
    (_, _, wanted), wanted_metrics = train_linear(options, start, good)
    for skipped in (second, third):
        assert_identical((skipped.trainable, skipped.opt_state), (first.trainable, first.opt_state))
    assert_identical((last.trainable, last.opt_state), (wanted.trainable, wanted.opt_state))
    assert [int(found["skipped"]) for found in metrics] == [0, 1, 2, 2] and int(last.skipped) == 2
    assert [int(found["skipped_in_a_row"]) for found in metrics] == [0, 1, 2, 0] and int(last.skipped_in_a_row) == 0
    assert int(last.step) == 4
    assert metrics[3]["learning_rate"] == wanted_metrics[1]["learning_rate"] > 0


def assert_identical(a: Any, b: Any) -> None:
    """Bit for bit."""
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def differs(a: Any, b: Any) -> bool:
    return any((x != y).any() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.matrix
def test_a_seed_decides_everything():
    case, model = support.TASKS["single_label"], models.build(support.SMALL, dropout=0.3)
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    batch = support.arrays(support.lay_out(features, case.task, 24, slots=0))

    def program(seed: int) -> Program:
        options = config.Optimizer(learning_rate=1e-2, schedule="constant", warmup=0.0)
        return support.compose(case.task, model, seed, optimizer=options)

    def run(composed: Program, seed: int) -> tuple[Any, list[float]]:
        now, losses = program(seed).init(support.random_params(case.task, model, seed=0)), []
        for _ in range(3):
            now, metrics = composed.train_step(now, batch)
            losses.append(float(metrics["loss"]))
        return now.trainable, losses

    first = program(1)
    params, losses = run(first, seed=1)
    assert_identical((params, losses), run(first, seed=1))
    assert_identical((params, losses), run(program(1), seed=1))
    others, other_losses = run(first, seed=2)
    assert differs(params, others) and losses[0] != other_losses[0]
    start = first.init(support.random_params(case.task, model, seed=0))
    at_steps = [first.train_step(support.copy(start).replace(step=jnp.int32(n)), batch)[1]["loss"] for n in range(4)]
    assert len({float(loss) for loss in at_steps}) == 4  # equal parameters and batches, other dropout masks
    assert at_steps[0] == losses[0]


def test_its_halves_compiled_apart_are_the_step(recwarn):
    case, model = support.TASKS["single_label"], models.build(support.SMALL, dropout=0.3)
    features = support.random_features(np.random.default_rng(0), case, [9, 24, 4, 7], support.SMALL)
    host = support.lay_out(features, case.task, 24, slots=0)
    options = config.Optimizer(learning_rate=1e-2, schedule="constant", warmup=0.0)
    composed, batch = support.compose(case.task, model, optimizer=options), support.arrays(host)
    whole = halves = composed.init(support.random_params(case.task, model, seed=0))
    halves, abstract = support.copy(halves), (composed.state, *composed.abstract_gradient())
    gradient = composed.gradient_step.lower(composed.state, composed.abstract_batch(host.shape)).compile()  # pyright: ignore
    update = composed.update_step.lower(*abstract).compile()  # pyright: ignore
    for _ in range(3):
        whole, expected = composed.train_step(whole, batch)
        loss, grads = gradient(halves, batch)
        before = jax.tree.leaves(halves.trainable)
        halves, metrics = update(halves, loss, grads)
        assert all(x.is_deleted() for x in before) and not any(x.is_deleted() for x in jax.tree.leaves(grads))
        support.assert_close(metrics, expected, 1e-5, floor=0)
    assert not [warning for warning in recwarn if "donated" in str(warning.message)]
