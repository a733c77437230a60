"""A teacher's answers are learned as the equation has them, however a batch is laid out; law 8 at weight zero."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support

from jaxft import config, models, objectives, program, tasks
from jaxft.batch import IGNORED
from jaxft.errors import UserError
from jaxft.objectives.distill import PREFIX, distilled
from jaxft.program import Program
from jaxft.tasks import Task

MODEL = models.build(support.SMALL | {"num_hidden_layers": 1}, dropout=0.2)
WEIGHT, TEMPERATURE = 0.3, 2.5
KEYS = {"objective.teacher": ("of no run",), "objective.distill": WEIGHT, "objective.temperature": TEMPERATURE}
TAUGHT = [name for name, case in support.TASKS.items() if type(case.task).divergence is not Task.divergence]


def composed(case: support.Case, keys: dict) -> Program:
    options = config.Optimizer(learning_rate=1e-2, warmup=0.0)
    experiment = config.Experiment(task=dataclasses.replace(case.options), optimizer=options)
    support.set_keys(experiment, keys)
    parts = program.Parts(optimizer=support.keeper)
    return program.compose(experiment, MODEL, tasks.build(experiment.task), steps=10, parts=parts)


@pytest.mark.parametrize("name", support.once(TAUGHT, "single_label", "token"))
def test_packed_is_padded_and_accumulated_is_whole(name: str):
    case = support.TASKS[name]
    of = composed(case, KEYS)
    assert of.taught.keys() == {f"{PREFIX}{output}" for output in case.task.outputs}
    features = support.random_features(np.random.default_rng(1), case, [3, 24, 9, 20, 5, 4], support.SMALL)
    features = support.told(features, of.taught)
    params = support.random_params(case.task, MODEL, seed=1)

    def gradients(of: Program, slots: int, rows: int = 0) -> dict:
        host = support.lay_out(features, case.task, 24, slots, targets=of.targets)
        if rows:
            shape = host.shape._replace(rows=rows, slots=host.shape.slots + 1)
            host = support.lay_out(features, case.task, 24, slots, shape, of.targets)
        found, metrics = support.gradients(of, params, host)
        return {**found, "loss": metrics["loss"]}

    padded = gradients(of, 1)
    support.assert_close(gradients(of, 0, rows=4), padded, 2e-5, floor=1e-3)
    if not case.coupled:
        parts = composed(case, KEYS | {"train.accumulate": 2})
        support.assert_close(gradients(parts, 0, rows=4), padded, 2e-5, floor=1e-3)


@pytest.mark.parametrize("off", [{"objective.distill": 0.0}, {"objective.teacher": ()}])
def test_without_weight_or_teacher_the_program_is_the_plain_one(off: dict):
    case = support.TASKS["single_label"]
    shape = support.lay_out(support.random_features(np.random.default_rng(0), case, [4], support.SMALL), case.task, 8)
    texts = []
    for keys in (KEYS | off, {}):
        of = composed(case, keys)
        texts.append(of.train_step.lower(of.state, of.abstract_batch(shape.shape)).as_text())  # pyright: ignore
    assert texts[0] == texts[1] and not composed(case, KEYS | off).taught


def reference(torch, name: str, logits, teacher, labels, weights):
    """What code on PyTorch has of the logits of model and teacher, and labels."""
    functional, T = torch.nn.functional, TEMPERATURE
    if name == "regression":
        counts = weights.sum()
        own = (weights * (logits[..., 0] - labels) ** 2).sum()
        return ((1 - WEIGHT) * own + WEIGHT * (weights * (logits[..., 0] - teacher[..., 0]) ** 2).sum() / 2) / counts
    if name == "multi_label":
        own = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        own = (weights * own.sum(-1)).sum()
        p, q = torch.sigmoid(teacher / T), torch.sigmoid(logits / T)
        each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        return ((1 - WEIGHT) * own + WEIGHT * T**2 * (weights * each.sum(-1)).sum()) / (weights.sum() * 3)
    kept = labels != IGNORED if name == "token" else weights > 0
    own = functional.cross_entropy(logits[kept], labels[kept].long(), reduction="sum")
    soft = functional.log_softmax(logits[kept] / T, -1), functional.log_softmax(teacher[kept] / T, -1)
    apart = functional.kl_div(*soft, reduction="sum", log_target=True) * T**2
    return ((1 - WEIGHT) * own + WEIGHT * apart) / kept.sum()


@pytest.mark.parametrize("name", ["single_label", "regression", "multi_label", "token"])
def test_loss_and_gradient_are_those_of_pytorch_on_the_same_logits(torch, name: str):
    case, rng = support.TASKS[name], np.random.default_rng(3)
    features = support.random_features(rng, case, [5, 3, 4], support.SMALL)
    host = support.lay_out(features, case.task, 8, slots=0)
    labels, weights = (np.asarray(host.arrays[key]) for key in ("labels", "weights"))
    shape = (*labels.shape[:2], max(len(case.options.labels), 1))  # pyright: ignore[reportAttributeAccessIssue]
    logits, teacher = (rng.normal(size=shape).astype(np.float32) * 3 for _ in range(2))
    batch = {**support.arrays(host), f"{PREFIX}logits": jnp.asarray(teacher)}

    def inner(params, batch, key):
        outputs = {"logits": params["logits"]}
        return case.task.loss(outputs, batch), outputs

    made = distilled(jnp.float32(WEIGHT), jnp.float32(TEMPERATURE), case.task)(inner)

    def loss(params):
        (total, weight), _ = made(params, batch, jax.random.key(0))
        return total / weight

    value, grads = jax.value_and_grad(loss)({"logits": jnp.asarray(logits)})
    own = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    given = (torch.tensor(x, dtype=torch.float64) for x in (teacher, labels, weights))
    wanted = reference(torch, name, own, *given)
    wanted.backward()
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
    np.testing.assert_allclose(grads["logits"], own.grad.numpy(), atol=1e-5)
    (total, weight), _ = made({"logits": jnp.asarray(logits)}, batch, None)
    plain = case.task.loss({"logits": jnp.asarray(logits)}, batch)
    assert (total, weight) == plain, "evaluation is of the labels alone"


def test_what_does_not_compose_is_refused():
    def check(name: str, adapt: str = "full") -> None:
        case = support.TASKS[name]
        experiment = config.Experiment(task=case.options, adapt=adapt)
        support.set_keys(experiment, KEYS)
        objectives.check(experiment, case.task, {})

    for name in ("masked_lm", "embeddings"):
        with pytest.raises(UserError, match=r"config\.objective\.teacher is set, but the outputs of \w+ are no dist"):
            check(name)
    with pytest.raises(UserError, match="among which adapt=prompt puts others"):
        check("token", adapt="prompt")
    check("single_label", adapt="prompt")
