"""Law 8: a transform at strength zero changes nothing, bit for bit; and laws 2 to 4 for each at its strength."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import support
from runs import bits_equal, experiment, on_eight_devices

from jaxft import config, models, modes, objectives, program, tasks
from jaxft.batch import BatchShape
from jaxft.data.batches import HostBatch
from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.job import prepare
from jaxft.models import nn
from jaxft.objectives import average
from jaxft.objectives.embeddings import added
from jaxft.plan.planned import state_bytes
from jaxft.pretrained import load
from jaxft.program import Program
from jaxft.tasks import Task
from jaxft.train import numbers, optimizer
from jaxft.train.checkpoint import Checkpoints
from jaxft.train.state import State, init
from jaxft.train.step import make_update_step
from jaxft.types import Params

CASE = support.TASKS["single_label"]
SMALL = support.SMALL | {"num_hidden_layers": 1}
MODEL = models.build(SMALL, dropout=0.2)
SHAPE = BatchShape(4, 24, 3)


def composed(keys: Mapping[str, Any], case: support.Case = CASE, parts: program.Parts = program.DEFAULTS) -> Program:
    """The program of ten steps of an experiment with these keys, `SECTION.KEY`."""
    options = config.Optimizer(learning_rate=1e-2, warmup=0.0)
    experiment = config.Experiment(task=dataclasses.replace(case.options), optimizer=options)
    support.set_keys(experiment, keys)
    return program.compose(experiment, MODEL, tasks.build(experiment.task), steps=10, parts=parts)


@functools.cache
def of_transform(name: str) -> Program:
    return composed(TRAINED[name])


@functools.cache
def batches() -> tuple[Features, HostBatch, HostBatch]:
    """Examples, and the batch of them packed and padded."""
    features = support.random_features(np.random.default_rng(0), CASE, [9, 24, 4, 7], support.SMALL)
    packed, padded = (support.lay_out(features, CASE.task, 24, slots, SHAPE) for slots in (0, 1))
    return features, packed, padded


@functools.cache
def params() -> Params:
    return support.random_params(CASE.task, MODEL, seed=0)


def trained(of: Program, steps: int = 3) -> list[State]:
    """The state after each of so many steps on one batch."""
    state, found = of.init(support.copy(params())), []
    for _ in range(steps):
        state, _ = of.train_step(state, support.arrays(batches()[1]))
        found.append(support.copy(state))
    return found


@functools.cache
def plain() -> list[State]:
    return trained(composed({}))


def text(of: Program) -> str:
    """The training step before it is compiled."""
    return of.train_step.lower(of.state, of.abstract_batch(SHAPE)).as_text()  # pyright: ignore


@functools.cache
def plain_text() -> str:
    return text(composed({}))


AVERAGES = {"ema": {"optimizer.ema": 0.6}, "swa": {"optimizer.swa": 0.3}}
"""Of the ten steps that `support.compose` makes a run of, SWA takes the last three."""

LOSSES = {
    "focal": {"task.focal": 2.0},
    "generalized": {"task.generalized": 0.7},
    "symmetric": {"task.symmetric": 0.5},
    "contrastive": {"task.contrastive": 0.4, "task.contrastive_temperature": 0.2},
}

OBJECTIVES: dict[str, dict[str, Any]] = {
    "r_drop": {"objective.r_drop": 1.0},
    "neftune": {"objective.neftune": 5.0},
    "mixup": {"task.mixup": 0.5},
    "sam": {"objective.sam": 0.1},
    **{
        kind: {
            "objective.adversarial": kind,
            "objective.adversarial_weight": 0.5,
            "objective.adversarial_radius": 0.3,
            "objective.adversarial_step": 0.2,
            "objective.adversarial_steps": 2,
        }
        for kind in ("fgm", "pgd", "freelb", "smart", "vat")
    },
}

TEACHER: dict[str, Any] = {"objective.teacher": ("of no run",)}

ELSEWHERE: dict[str, dict[str, Any]] = {
    "uda": {"data.unlabelled": "texts", "objective.uda": 0.7, "objective.uda_confidence": 0.4},
    "distill": TEACHER | {"objective.distill": 0.4},
    "hidden": TEACHER | {"objective.distill": 0.0, "objective.hidden": 0.5, "objective.teacher_hidden": 24},
}
"""Those whose batches have more; the other laws are in test_uda.py, test_distill.py and test_states.py."""

MIXOUT: dict[str, Any] = {"adapt": "mixout", "mixout.rate": 0.4}

COMPOSED: dict[str, dict[str, Any]] = {
    "r_drop, neftune, ema": OBJECTIVES["r_drop"] | OBJECTIVES["neftune"] | AVERAGES["ema"],
    "freelb, r_drop, l2_sp": OBJECTIVES["freelb"] | OBJECTIVES["r_drop"] | {"optimizer.l2_sp": 0.1},
    "fgm, neftune, lion": OBJECTIVES["fgm"] | OBJECTIVES["neftune"] | {"optimizer.name": "lion"},
    "mixout, r_drop, ema": MIXOUT | OBJECTIVES["r_drop"] | AVERAGES["ema"],
    "pgd, neftune, swa": OBJECTIVES["pgd"] | OBJECTIVES["neftune"] | AVERAGES["swa"],
    "smart, r_drop, neftune": OBJECTIVES["smart"] | OBJECTIVES["r_drop"] | OBJECTIVES["neftune"],
    "mixup, vat, ema": {"task.mixup": 0.5} | OBJECTIVES["vat"] | AVERAGES["ema"],
    "sam, neftune, ema": {"objective.sam": 0.1} | OBJECTIVES["neftune"] | AVERAGES["ema"],
    "fgm, r_drop, muon": OBJECTIVES["fgm"] | OBJECTIVES["r_drop"] | {"optimizer.name": "muon"},
}

ON = AVERAGES | LOSSES | OBJECTIVES | {"l2_sp": {"optimizer.l2_sp": 0.1}, "mixout": MIXOUT}
"""Transforms at a strength."""

OPTIMIZERS = {name: {"optimizer.name": name} for name in optimizer.OPTIMIZERS if name != "adamw"}
SCHEDULED = {"muon, restarts, ema": {"optimizer.name": "muon", "optimizer.schedule": "restarts", "optimizer.ema": 0.6}}

TRAINED = ON | OPTIMIZERS | SCHEDULED | COMPOSED
"""What the laws of a run are tested on."""


@pytest.mark.parametrize("name", support.once(ON, "ema", "focal", "freelb"))
def test_at_strength_zero_the_program_is_the_plain_one(name: str):
    """Law 8: the kind of a transform, and its number of steps, make no difference then."""
    off = {key: 0.0 if isinstance(value, float) else value for key, value in ON[name].items()}
    assert text(composed(off)) == plain_text() != text(composed(ON[name]))


@pytest.mark.parametrize("name", support.once(ON | COMPOSED, "freelb, r_drop, l2_sp"))
def test_another_strength_is_the_same_program(name: str):
    keys = (ON | COMPOSED)[name]
    other = {key: value * 0.9 if isinstance(value, float) else value for key, value in keys.items()}
    assert other != keys and text(composed(other)) == text(composed(keys))


@pytest.mark.matrix
@pytest.mark.parametrize("name", ON)
def test_at_strength_zero_parameters_are_the_plain_ones(name: str):
    off = {key: 0.0 if isinstance(value, float) else value for key, value in ON[name].items()}
    assert bits_equal(trained(composed(off))[-1], plain()[-1])


KEPT = program.Parts(optimizer=support.keeper)


def gradients(keys: Mapping[str, Any], case: support.Case, host: HostBatch) -> dict[str, jax.Array]:
    """The gradient of a batch by path, and its loss."""
    of = composed({key: value for key, value in keys.items() if not key.startswith("optimizer.")}, case, KEPT)
    found, metrics = support.gradients(of, support.random_params(case.task, MODEL, seed=1), host)
    return {**found, "loss": metrics["loss"]}


WHOLE = ("contrastive", "mixup", "mixup, vat, ema")
"""What is of the whole batch of a step, and of texts alone."""

TEXTS = ("regression", "multi_label")
"""Tasks that are as single_label is but for their loss, and for what R-Drop compares."""

PAIRS = [("freelb", task) for task in support.TASKS if task not in TEXTS]
PAIRS += [(name, task) for name in ("neftune", "sam", "fgm", "pgd") for task in ("single_label", "token", "embeddings")]
COMPARED = [name for name, case in support.TASKS.items() if type(case.task).divergence is not Task.divergence]
PAIRS += [("r_drop", name) for name in COMPARED] + [("smart", name) for name in COMPARED] + [("vat", "single_label")]
PAIRS += [("mixout", task) for task in ("single_label", "token")]
PAIRS += [("mixup", task) for task in ("single_label", "multi_label", "regression")]
PAIRS += [("contrastive", task) for task in ("single_label", "documents")]
PAIRS += [
    (name, task) for name in COMPOSED for task in ("single_label", "token") if (name, task) != (WHOLE[2], "token")
]


@pytest.mark.parametrize(("name", "task"), support.once(PAIRS, ("freelb, r_drop, l2_sp", "single_label")))
def test_packed_is_padded_and_accumulated_is_whole(name: str, task: str):
    """Law 2, with dropout; of tasks that compare the examples of a batch, parts are batches of their own."""
    case, keys = support.TASKS[task], (ON | COMPOSED)[name]
    features = support.random_features(np.random.default_rng(1), case, [3, 24, 9, 20, 5, 4], support.SMALL)
    padded = gradients(keys, case, support.lay_out(features, case.task, 24, 1))
    needed = support.lay_out(features, case.task, 24, slots=0).shape
    packed = support.lay_out(features, case.task, 24, 0, needed._replace(rows=4, slots=needed.slots + 1))
    support.assert_close(gradients(keys, case, packed), padded, 2e-5, floor=1e-3)
    if not case.coupled and name not in WHOLE:
        support.assert_close(gradients(keys | {"train.accumulate": 2}, case, packed), padded, 2e-5, floor=1e-3)


@pytest.mark.parametrize("kind", support.once(support.FILES, "eurobert"))
def test_the_vectors_that_are_contrasted_are_those_that_the_head_is_applied_to(kind: str):
    """In training alone, beside the same logits."""
    model, batch = models.build(support.ARCHITECTURES[kind], dropout=0.0), support.arrays(batches()[1])
    task = tasks.build(dataclasses.replace(CASE.options, contrastive=0.5))
    weights = support.random_params(task, model, seed=0)
    forward = lambda run: jax.jit(lambda p, b: task.forward(p, model, b, run))(weights, batch)  # noqa: E731
    clean, found = forward(nn.Run()), forward(nn.Run(key=jax.random.key(0)))
    assert clean.keys() == {"logits"}
    np.testing.assert_allclose(found["logits"], clean["logits"], atol=1e-6)
    hidden, pooling = model.encode(weights, batch, nn.Run()), model.head("text", 3).pooling
    if pooling in ("late", "mean"):
        wanted = nn.mean_pool(hidden, batch["segment_ids"], SHAPE.slots)
    else:
        wanted = nn.pick(hidden, batch["starts"] if pooling == "first" else model.ends(batch))
    np.testing.assert_allclose(found["vectors"], wanted, atol=1e-5)


METHODS = [name for name in support.ADAPTATIONS if name not in ("full", "prompt")]


def test_sam_is_the_gradient_at_the_worst_place_nearby():
    """Computed by two plain gradients; the loss is that of where the parameters are."""
    host, weights = batches()[1], params()
    (first, metrics), (found, told) = (
        support.gradients(composed(keys, CASE, KEPT), weights, host) for keys in ({}, {"objective.sam": 0.1})
    )
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in first.values()))
    moved = {path: x + 0.1 * first[path] / norm for path, x in nn.flatten(weights).items()}
    wanted, _ = support.gradients(composed({}, CASE, KEPT), nn.unflatten(moved), host)
    support.assert_close(found, wanted, 1e-5, floor=1e-3)
    assert max(float(np.abs(found[path] - first[path]).max()) for path in found) > 1e-3
    assert told["loss"] == metrics["loss"]


@pytest.mark.matrix
@pytest.mark.parametrize("method", METHODS)
def test_every_method_but_prompts_composes(method: str):
    """Law 2 again, by the loss and the norm of the gradient of what learns."""
    keys = COMPOSED["fgm, neftune, lion"] | OBJECTIVES["r_drop"] | support.ADAPTATIONS[method]
    of, found = composed(keys), []
    for host in batches()[1:]:
        _, metrics = of.train_step(of.init(support.copy(params())), support.arrays(host))
        found.append({name: metrics[name] for name in ("loss", "grad_norm")})
    support.assert_close(found[0], found[1], 2e-5, floor=1e-3)
    clean = composed(support.ADAPTATIONS[method])
    _, alone = clean.train_step(clean.init(support.copy(params())), support.arrays(batches()[1]))
    assert found[0]["loss"] > 1.2 * alone["loss"], "the loss of the attack, at half its weight"


@pytest.mark.parametrize("kind", support.once(support.FILES, "eurobert"))
def test_embeddings_of_every_architecture_can_be_moved(kind: str):
    """The first example of each row is: its outputs change, and no other's."""
    model = models.build(support.ARCHITECTURES[kind], dropout=0.0)
    table = objectives.Transforms.of(config.Experiment(), model, CASE.task, nn.hash_bits).table
    weights, batch = support.random_params(CASE.task, model, seed=0), support.arrays(batches()[1])
    forward = jax.jit(lambda p, b: CASE.task.forward(p, model, b, nn.Run())["logits"])
    by = jnp.where(batch["segment_ids"] == 1, 0.5, 0.0)[..., None] * jnp.linspace(-1, 1, table.width) ** 2
    moved = np.abs(forward(added(weights, table.words, by), batch) - forward(weights, batch)).max(-1)
    counted = np.asarray(batch["weights"]) > 0
    assert (moved[:, 0][counted[:, 0]] > 1e-4).all() and (moved[:, 1:][counted[:, 1:]] < 1e-6).all()


@pytest.mark.parametrize("name", support.once(TRAINED, "ema", "freelb, r_drop, l2_sp"))
def test_resuming_is_exact(name: str, tmp_path):
    """Law 4: four steps, or two, a checkpoint and two."""
    of = of_transform(name)
    steps = trained(of, 4)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(steps[1], {"step": 2, "best_step": None}, None)
    checkpoints.wait()
    frozen = of.split(support.copy(params()))[1]
    restored = checkpoints.restore(of.state, frozen, of.placed_numbers())
    checkpoints.close()
    assert restored
    state, _ = restored
    for _ in range(2):
        state, _ = of.train_step(state, support.arrays(batches()[1]))
    assert bits_equal(state, steps[-1])


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_the_equation(name: str):
    """By optax.ema, and the mean of what was visited; of a run of ten steps SWA takes the last three."""
    share = {"ema": average.exponential, "swa": average.uniform}[name]
    values = numbers.of(config.Optimizer(), 10, strengths={"ema": 0.6, "swa": 0.3})
    params: Any = {"x": jnp.asarray([1.0, -2.0])}
    sgd = optax.sgd(0.1)
    update = jax.jit(average.averaged(make_update_step(sgd, lambda count, numbers: jnp.asarray(0.1)), share))
    state = average.begun(init(params, {}, sgd, values, seed=0))
    ema, visited = optax.ema(0.6, debias=True), []
    memory = ema.init(params)
    for step in range(10):
        left_out, _ = update(state, jnp.asarray(jnp.nan), {"x": jnp.asarray([jnp.nan, 1.0])})
        assert bits_equal(left_out.opt_state, state.opt_state)
        state, _ = update(state, jnp.asarray(1.0), {"x": jnp.asarray([step, 1.0])})
        visited.append(np.asarray(state.trainable["x"], np.float64))
        wanted: Any
        wanted, memory = ema.update(state.trainable, memory)
        last = np.mean(visited[max(min(step, 7), 0) :], axis=0)
        np.testing.assert_allclose(state.opt_state.mean["x"], wanted["x"] if name == "ema" else last, rtol=1e-5)


@pytest.mark.parametrize("name", support.once(AVERAGES, "ema"))
def test_an_average_is_that_of_the_parameters_after_each_step(name: str):
    """Of a program's; the parameters themselves are trained as without it."""
    of = of_transform(name)
    steps = trained(of, 10)
    assert bits_equal([s.trainable for s in steps[:3]], [s.trainable for s in plain()])
    visited = [nn.flatten(jax.tree.map(np.asarray, state.trainable)) for state in steps]
    if name == "ema":
        ema = optax.ema(0.6, debias=True)
        memory = ema.init(steps[0].trainable)
        for state in steps:
            mean: Any
            mean, memory = ema.update(state.trainable, memory)
            support.assert_close(nn.flatten(program.weights(state)[0]), nn.flatten(mean), 1e-6)
    else:
        for state, last in zip(steps, visited, strict=True):
            first = max(min(int(state.step) - 1, 7), 0)
            wanted = {path: np.mean([v[path] for v in visited[first : int(state.step)]], axis=0) for path in last}
            support.assert_close(nn.flatten(program.weights(state)[0]), wanted, 1e-6)


def test_an_average_costs_one_copy_of_what_learns():
    size = lambda tree: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))  # noqa: E731
    state, plain_state = composed(AVERAGES["ema"]).state, composed({}).state
    assert size(state.opt_state) == size(plain_state.opt_state) + size(plain_state.trainable) + 4


COPIES = {"adamw": 2, "lion": 1, "lamb": 2, "sgd": 1, "muon": (1, 2), "adafactor": (0, 1)}
"""Of what learns, in the optimizer's state."""


@pytest.mark.parametrize("name", COPIES)
def test_the_plan_counts_the_state_of_an_optimizer(name: str):
    of = composed({"optimizer.name": name})
    found = state_bytes(of, SHAPE)
    low, high = np.broadcast_to(COPIES[name], 2) * found["parameters"]
    assert low <= found["optimizer"] <= high + 64 + 4 * len(jax.tree.leaves(of.state.opt_state))
    assert found["optimizer"] < 2 * found["parameters"] or name in ("adamw", "lamb")


def test_factored_moments_lie_on_every_device():
    """Of AdaFactor: rows and columns are of other shapes than the matrix that they are of."""
    wide = models.build(support.SMALL | {"hidden_size": 128, "intermediate_size": 160})
    options = config.Experiment(task=CASE.options, optimizer=config.Optimizer(name="adafactor"))
    state = program.compose(options, wide, CASE.task, steps=10).state
    moments = state.opt_state[1][0][0]
    path = "bert/encoder/layer/0/intermediate/dense/kernel"
    sizes = [nn.flatten(tree)[path].shape for tree in (moments.v_row, moments.v_col, moments.v)]
    assert sizes == [(128,), (160,), (1,)]
    assert nn.flatten(moments.v_row)[path].sharding.is_fully_replicated


COSTS = {"ema": (1.0, 1.05), "neftune": (1.0, 1.05), "r_drop": (1.9, 2.1), "fgm": (1.9, 2.1)}
"""FLOPs of a step, in those of the plain one, as XLA counts them before it optimizes; docs/objectives.md says so."""


@pytest.mark.parametrize("name", support.once(COSTS, "r_drop"))
def test_what_a_transform_costs(name: str):
    wide = models.build(SMALL | {"hidden_size": 64, "intermediate_size": 256}, dropout=0.1)

    def flops(keys: Mapping[str, Any]) -> float:
        experiment = config.Experiment(task=CASE.options)
        support.set_keys(experiment, keys)
        of = program.compose(experiment, wide, CASE.task, steps=10)
        step = of.train_step.lower(of.state, of.abstract_batch(BatchShape(32, 24, 3)))  # pyright: ignore
        return step.cost_analysis()["flops"]

    low, high = COSTS[name]
    assert low * flops({}) <= flops(ON[name]) <= high * flops({})


@pytest.mark.matrix
def test_answers_need_no_dropout():
    """Of a run whose R-Drop had dropout that its model's config.json does not name."""
    still = models.build(SMALL, dropout=0.0)
    experiment = config.Experiment(task=CASE.options, objective=config.Objective(r_drop=1.0))
    of, batch = program.compose(experiment, still, CASE.task, steps=10), support.arrays(batches()[1])
    inputs = {name: batch[name] for name in of.abstract_inputs(SHAPE)}
    assert np.isfinite(of.outputs((params(), {}), inputs)["logits"]).all()


@pytest.mark.matrix
def test_a_run_exports_its_average(tiny_model, cache, tmp_path):
    asked = experiment(tiny_model, cache, optimizer={"ema": 0.8})
    modes.train(asked, str(tmp_path / "run"))
    job = prepare(config.check(asked))
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=None)
    last = checkpoints.restore(job.program.state, {}, job.program.placed_numbers()) or pytest.fail("not read")
    state, _ = checkpoints.best(job.program.state, last)
    checkpoints.close()
    exported = load(tmp_path / "run" / "export", job.program)[0]
    assert bits_equal(exported, state.opt_state.mean) and not bits_equal(exported, state.trainable)


@pytest.mark.matrix
@pytest.mark.parametrize("part", range(4))
def test_a_mesh_changes_nothing(part):
    """Law 3: five steps on one device and on eight, with dropout; a fourth of the transforms at a time."""
    asked = dict(list((TRAINED | ELSEWHERE).items())[part::4])
    for name, runs in on_eight_devices("transforms", json.dumps(asked)).items():
        alone = np.asarray(runs["1"])
        assert len(set(alone)) == 5
        np.testing.assert_allclose(runs["2 x 2 x 2"], alone, rtol=1e-5, err_msg=name)


REFUSED = {
    "two averages": ({"optimizer.ema": 0.9, "optimizer.swa": 0.5}, "optimizer.ema and config.optimizer.swa are both"),
    "a start of what does not learn": ({"optimizer.l2_sp": 0.1, "adapt": "lora"}, "with adapt=lora none learns"),
    "noise among virtual tokens": (OBJECTIVES["neftune"] | {"adapt": "prompt"}, "objective.neftune changes the embed"),
    "an attack among virtual tokens": (OBJECTIVES["fgm"] | {"adapt": "prompt"}, "objective.adversarial changes the"),
    "a contrast of parts": (LOSSES["contrastive"] | {"train.accumulate": 2}, "task.contrastive compares all texts of"),
    "mixtures of parts": (OBJECTIVES["mixup"] | {"train.accumulate": 2}, "task.mixup mixes the texts of a batch, but"),
    "mixtures of windows": (OBJECTIVES["mixup"] | {"task.windows": "mean"}, "task.mixup mixes texts that are one exam"),
    "passes that mix others": (OBJECTIVES["mixup"] | OBJECTIVES["r_drop"], "r_drop compares two passes, which would"),
    "a contrast of mixtures": (OBJECTIVES["mixup"] | LOSSES["contrastive"], "task.contrastive compares one; unset one"),
    "a teacher of mixtures": (
        OBJECTIVES["mixup"] | {"objective.teacher": ("of no run",)},
        "objective.teacher has answered texts, not their mixtures",
    ),
    "an attack that does not move": (OBJECTIVES["pgd"] | {"objective.adversarial_step": 0.0}, "so that nothing moves"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_compose_is_refused(name: str):
    keys, said = REFUSED[name]
    with pytest.raises(UserError, match=said) as caught:
        text(composed(keys))
    assert "\n" not in str(caught.value)


def test_mixup_of_tokens_is_refused():
    task = tasks.build(dataclasses.replace(CASE.options, mixup=0.5))
    with pytest.raises(UserError, match="but EuroBert applies its head to each token; unset it"):
        task.param_spec(models.build(support.ARCHITECTURES["eurobert"]))


@pytest.mark.parametrize("kind", ["smart", "vat"])
def test_smoothness_of_what_is_no_distribution_is_refused(kind: str):
    with pytest.raises(UserError, match=f"adversarial={kind} compares distributions, but the outputs of SentenceEmb"):
        text(composed(OBJECTIVES[kind], support.TASKS["embeddings"]))


@pytest.mark.parametrize("task", ["masked_lm", "next_sentence", "embeddings"])
def test_r_drop_of_what_is_no_distribution_is_refused(task: str):
    case = support.TASKS[task]
    with pytest.raises(UserError, match=f"but the outputs of {type(case.options).__name__} are none"):
        text(composed(OBJECTIVES["r_drop"], case))


def test_r_drop_without_dropout_is_refused():
    still = models.build(support.SMALL, dropout=0.0)
    options = config.Experiment(task=CASE.options, objective=config.Objective(r_drop=1.0))
    with pytest.raises(UserError, match=r"no dropout rate is above zero; set config\.model\.dropout"):
        text(program.compose(options, still, CASE.task, steps=10))
