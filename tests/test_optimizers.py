"""Optimizers by name against optax's own, schedules against transformers'; and that numbers are no constants."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import support

from jaxft import config, models
from jaxft.models import nn
from jaxft.train import numbers
from jaxft.train.optimizer import OPTIMIZERS, decayed, make_optimizer, make_schedule

SHAPES = {
    "bert/embeddings/word_embeddings/embedding": (7, 4),
    "bert/encoder/layer/0/output/dense/kernel": (130, 140),
    "bert/encoder/layer/0/output/dense/bias": (140,),
    "bert/encoder/layer/1/output/LayerNorm/scale": (3,),
    "bert/encoder/layer/1/output/dense/kernel": (6, 3),
    "classifier/kernel": (3, 2),
}
MATRICES = [path for path in SHAPES if path.endswith("dense/kernel")]
MODEL = models.build(support.SMALL)
RATE, DECAY, STEPS = 0.02, 0.1, 6


def options(name: str = "adamw", **keys: Any) -> config.Optimizer:
    given = {"learning_rate": RATE, "weight_decay": DECAY, "clip_norm": 0.0, "schedule": "constant", "warmup": 0.0}
    return config.Optimizer(name=name, **(given | keys))


def normal(seed: int, scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return nn.unflatten({path: jnp.asarray(rng.normal(0, scale, s), jnp.float32) for path, s in SHAPES.items()})


def run(transform: optax.GradientTransformation, **extra: Any) -> dict[str, Any]:
    """The parameters after steps by random gradients of several sizes."""
    update = jax.jit(optax.with_extra_args_support(transform).update)
    params: Any = normal(0)
    state = transform.init(params)
    for step in range(4):
        changes, state = update(normal(step + 1, 10.0 ** (step - 2)), state, params, **extra)
        params = optax.apply_updates(params, changes)
    return nn.flatten(params)


def ours(given: config.Optimizer) -> dict[str, Any]:
    made = make_optimizer(given, make_schedule(given.schedule), MODEL.depth)
    return run(made, numbers=numbers.of(given, STEPS))


def muon(rate: float, decay: float) -> optax.GradientTransformation:
    """optax's for matrices of the body; AdamW as everywhere for the rest."""
    labels = nn.unflatten({path: "muon" if path in MATRICES else "rest" for path in SHAPES})
    of_matrices = optax.contrib.muon(rate, weight_decay=decay, consistent_rms=0.2)
    return optax.partition({"muon": of_matrices, "rest": optax.adamw(rate, weight_decay=decay, mask=decayed)}, labels)


REFERENCES = {
    "adamw": optax.adamw(RATE, weight_decay=DECAY, mask=decayed),
    "lion": optax.lion(RATE, b1=0.9, b2=0.999, weight_decay=DECAY, mask=decayed),
    "lamb": optax.lamb(RATE, eps=1e-8, weight_decay=DECAY, mask=decayed),
    "muon": muon(RATE, DECAY),
    "sgd": optax.chain(optax.trace(0.9), optax.add_decayed_weights(DECAY, decayed), optax.scale_by_learning_rate(RATE)),
    # optax adds a decay that the learning rate does not scale, and ours does.
    "adafactor": optax.adafactor(
        RATE, multiply_by_parameter_scale=False, weight_decay_rate=RATE * DECAY, weight_decay_mask=decayed
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_that_of_optax(name: str):
    support.assert_close(ours(options(name)), run(REFERENCES[name]), 1e-5)


def test_sgd_without_momentum_and_decay():
    given = options("sgd", b1=0.0, weight_decay=0.0)
    support.assert_close(ours(given), run(optax.sgd(RATE)), 1e-6)


@pytest.mark.parametrize("name", support.once(OPTIMIZERS, "adafactor", "muon"))
def test_numbers_are_no_constants(name: str):
    """Another learning rate, decay or length is another argument of the same program, and it counts."""
    found, texts = [], set()
    for keys in ({}, {"learning_rate": 0.5}, {"weight_decay": 0.3}, {"warmup": 3.0}):
        given = options(name, **keys)
        made = optax.with_extra_args_support(make_optimizer(given, make_schedule("linear"), MODEL.depth))
        params: Any = normal(0)
        update = lambda grads, state, params, values, made=made: made.update(grads, state, params, numbers=values)  # noqa: E731
        state = made.init(params)
        texts.add(jax.jit(update).lower(normal(1), state, params, numbers.of(given, STEPS)).as_text())
        found.append(update(normal(1), state, params, numbers.of(given, STEPS))[0])
    assert len(texts) == 1
    plain, *others = [nn.flatten(one)["bert/encoder/layer/1/output/dense/kernel"] for one in found]
    assert all(np.abs(plain - other).max() > 1e-6 for other in others)


def test_layers_learn_at_rates_of_their_own_with_any_optimizer():
    slower = ours(options("lion", layer_decay=0.5, weight_decay=0.0))
    plain = ours(options("lion", weight_decay=0.0))
    start = nn.flatten(normal(0))
    for path, depth in (("classifier/kernel", 0), (MATRICES[1], 1), (MATRICES[0], 2)):
        moved, whole = (np.abs(params[path] - start[path]).sum() for params in (slower, plain))
        assert moved == pytest.approx(whole * 0.5**depth, rel=1e-4), path


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_l2_sp_draws_the_body_to_where_it_began(decay: float):
    """Li et al. 2018, eq. 3, with the decay of the head alone; by plain steps, in float64."""
    given = options("sgd", b1=0.0, weight_decay=decay, l2_sp=0.3)
    transform = make_optimizer(given, make_schedule("constant"), MODEL.depth)
    found = run(transform, numbers=numbers.of(given, STEPS, strengths={"l2_sp": 0.3}))
    start = {path: np.asarray(x, np.float64) for path, x in nn.flatten(normal(0)).items()}
    now = dict(start)
    for step in range(4):
        for path, g in nn.flatten(normal(step + 1, 10.0 ** (step - 2))).items():
            matrix = path.endswith(("kernel", "embedding"))
            pull = 0.3 * (now[path] - start[path]) if matrix and "bert" in path else decay * matrix * now[path]
            now[path] = now[path] - RATE * (np.asarray(g, np.float64) + pull)
    support.assert_close(found, now, 1e-6)
    state: Any = transform.init(normal(0))
    copied = sum(x.size for x in jax.tree.leaves(state[1][1]))
    matrices = [x.size for path, x in start.items() if "bert" in path and path.endswith(("kernel", "embedding"))]
    assert copied == sum(matrices)


THEIRS = {
    "wsd": ("get_wsd_schedule", {"decay_type": "linear"}),
    "inverse_sqrt": ("get_inverse_sqrt_schedule", {}),
    "polynomial": ("get_polynomial_decay_schedule_with_warmup", {"power": 3.0, "lr_end": 0.0}),
    "restarts": ("get_cosine_with_hard_restarts_schedule_with_warmup", {"num_cycles": 3}),
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize(("steps", "warmup"), [(50, 10), (50, 0), (1, 0), (20, 20)])
def test_a_schedule_is_that_of_transformers(torch, name: str, steps: int, warmup: int):
    from transformers import optimization

    given = options(schedule=name, learning_rate=0.5, warmup=float(warmup), wsd_decay=0.4, power=3.0, cycles=3)
    function, keys = THEIRS[name]
    sizes: dict[str, Any] = {"num_warmup_steps": warmup, **keys}
    sizes |= {} if name == "inverse_sqrt" else {"num_training_steps": steps}
    sizes |= {"num_decay_steps": round(0.4 * (steps - warmup))} if name == "wsd" else {}
    any_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = getattr(optimization, function)(any_optimizer, **sizes).lr_lambdas[0]
    values = numbers.of(dataclasses.replace(given, warmup=float(warmup)), steps)
    found = make_schedule(name, given)(jnp.arange(steps), values)
    if (name, steps) == ("wsd", 1):  # without a whole step of decay they never begin it
        return
    np.testing.assert_allclose(found, [0.5 * theirs(t) for t in range(steps)], rtol=1e-5, atol=1e-6)
