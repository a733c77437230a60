"""Texts without labels: what UDA makes of them is the equation, and the same however a batch is laid out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import support
from runs import bits_equal

from jaxft import config, models, objectives, program, tasks
from jaxft.batch import COPY, UNLABELLED, BatchShape
from jaxft.data.features import Features
from jaxft.errors import UserError
from jaxft.objectives.distill import PREFIX, distilled
from jaxft.objectives.uda import counting, uda
from jaxft.program import Parts, Program
from jaxft.train.checkpoint import Checkpoints

HF = support.SMALL | {"num_hidden_layers": 1}
MODEL = models.build(HF, dropout=0.2)
CASE = support.TASKS["single_label"]
STRENGTHS = {"uda": 0.7, "uda_confidence": 0.45, "uda_temperature": 0.5}
KEYS: dict[str, Any] = {"data.unlabelled": "texts.txt"} | {f"objective.{key}": x for key, x in STRENGTHS.items()}
TAUGHT = {"objective.teacher": ("of no run",), "objective.distill": 0.3}
FGM = {"objective.adversarial": "fgm", "objective.adversarial_radius": 0.3}
CELLS: dict[str, dict[str, Any]] = {
    "uda": KEYS,
    "uda, fgm, ema": KEYS | FGM | {"optimizer.ema": 0.6},
    "uda, r_drop, teacher": KEYS | {"objective.r_drop": 1.0} | TAUGHT,
    "unlabelled, teacher": {"data.unlabelled": "texts.txt"} | TAUGHT,
}


def composed(keys: dict[str, Any], parts: Parts = program.DEFAULTS, case: support.Case = CASE) -> Program:
    experiment = config.Experiment(task=dataclasses.replace(case.options))
    experiment.optimizer = config.Optimizer(learning_rate=1e-2, warmup=0.0)
    support.set_keys(experiment, keys)
    return program.compose(experiment, MODEL, tasks.build(experiment.task), steps=10, parts=parts)


def examples(of: Program) -> Features:
    """Three with labels and three without, and what a teacher says of all at random."""
    labelled = support.random_features(np.random.default_rng(1), CASE, [3, 24, 9], HF)
    return support.told(support.with_unlabelled(labelled, [11, 5, 8], HF), of.taught)


@pytest.mark.parametrize("name", support.once(CELLS, "uda"))
def test_packed_is_padded_and_accumulated_is_whole(name: str):
    """Law 2, with dropout; padded is a row for each text, and for its copy."""
    keys = {key: x for key, x in CELLS[name].items() if not key.startswith("optimizer.")}
    of, keep = composed(keys), Parts(optimizer=support.keeper)
    features, params = examples(of), support.random_params(CASE.task, MODEL, seed=1)

    def gradients(keys: dict[str, Any], slots: int, rows: int = 0) -> dict[str, Any]:
        host = support.lay_out(features, CASE.task, 24, slots, targets=of.targets, together=True)
        if rows:
            shape = host.shape._replace(rows=rows, slots=host.shape.slots + 2)
            host = support.lay_out(features, CASE.task, 24, slots, shape, of.targets, together=True)
        found, metrics = support.gradients(composed(keys, keep), params, host)
        return {**found, "loss": metrics["loss"]}

    padded = gradients(keys, 1)
    support.assert_close(gradients(keys, 0, rows=4), padded, 2e-5, floor=1e-3)
    support.assert_close(gradients(keys | {"train.accumulate": 2}, 0, rows=4), padded, 2e-5, floor=1e-3)


@pytest.mark.matrix
@pytest.mark.parametrize("name", CELLS)
def test_resuming_is_exact(name: str, tmp_path):
    """Law 4: two steps, or one, a checkpoint and one."""
    of = composed(CELLS[name])
    host = support.lay_out(examples(of), CASE.task, 24, 0, targets=of.targets, together=True)
    params, batch = support.random_params(CASE.task, MODEL, seed=1), support.arrays(host)
    first, _ = of.train_step(of.init(support.copy(params)), batch)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(first, {"step": 1, "best_step": None}, None)
    checkpoints.wait()
    restored = checkpoints.restore(of.state, of.split(params)[1], of.placed_numbers())
    checkpoints.close()
    assert restored
    states = [of.train_step(state, batch)[0] for state in (first, restored[0])]
    assert bits_equal(*states)


def test_at_strength_zero_the_program_is_the_plain_one():
    """Law 8; another strength is the same program."""
    shape = BatchShape(2, 8, 2)

    def text(of: Program) -> str:
        return of.train_step.lower(of.state, of.abstract_batch(shape)).as_text()  # pyright: ignore

    assert text(composed(KEYS | {"objective.uda": 0.0, "data.unlabelled": ""})) == text(composed({}))
    other = KEYS | {"objective.uda": 0.2, "objective.uda_confidence": 0.9, "objective.uda_temperature": 1.5}
    assert text(composed(other)) == text(composed(KEYS))


def test_loss_and_gradient_are_the_equation_in_float64(torch):
    """Xie et al. 2020, eq. 1, with masking and sharpening, by PyTorch on the same logits; beside a teacher's part."""
    rng, functional = np.random.default_rng(5), torch.nn.functional
    logits, said = (rng.normal(size=(2, 5, 3)).astype(np.float32) * 2 for _ in range(2))
    # A labelled one, a text and its copy, a text and its copy; of the second row the last two slots are empty.
    text, copy = np.asarray([[0, 1, 0, 1, 0], [0, 1, 0, 0, 0]]), np.asarray([[0, 0, 1, 0, 1], [0, 0, 1, 0, 0]])
    labels, weights = np.asarray([[2, 0, 0, 0, 0], [1, 0, 0, 0, 0]]), np.asarray([[1, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    batch = {"labels": labels, "weights": weights.astype(np.float32), UNLABELLED: text.astype(np.float32)}
    batch |= {COPY: copy.astype(np.float32), f"{PREFIX}logits": said}
    batch = {name: jnp.asarray(x) for name, x in batch.items()}

    def inner(params, batch, key):
        outputs = {"logits": params["logits"]}
        return CASE.task.loss(outputs, batch), outputs

    strengths = {key: jnp.float32(x) for key, x in STRENGTHS.items()}
    made = distilled(jnp.float32(0.3), jnp.float32(2.0), CASE.task)(uda(strengths)(counting(inner)))

    def loss(params):
        (total, weight), _ = made(params, batch, jax.random.key(0))
        return total / weight

    value, grads = jax.value_and_grad(loss)({"logits": jnp.asarray(logits)})
    own = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(said, dtype=torch.float64)
    labelled = functional.cross_entropy(own[[0, 1], 0], torch.tensor([2, 1]), reduction="sum")
    compared, masked = 0.0, []
    for row, at in ((0, 1), (0, 3), (1, 1)):
        told = own[row, at].detach()
        masked.append(bool(told.softmax(-1).max() < STRENGTHS["uda_confidence"]))
        p, q = (told / STRENGTHS["uda_temperature"]).softmax(-1), own[row, at + 1].log_softmax(-1)
        compared += (not masked[-1]) * (p * (p.log() - q)).sum()
    apart = 0.0
    for row, at in ((0, 0), (0, 1), (0, 3), (1, 0), (1, 1)):
        p, q = ((x[row, at] / 2).log_softmax(-1) for x in (teacher, own))
        apart += 4 * (p.exp() * (p - q)).sum()
    wanted = (0.7 * (labelled + STRENGTHS["uda"] * compared) + 0.3 * apart) / (2 + 3)
    wanted.backward()
    assert 0 < sum(masked) < 3
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
    np.testing.assert_allclose(grads["logits"], own.grad.numpy(), atol=1e-5)
    plain = CASE.task.loss({"logits": jnp.asarray(logits)}, batch)
    assert made({"logits": jnp.asarray(logits)}, batch, None)[0] == plain, "evaluation is of the labels alone"


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no texts": ({"objective.uda": 1.0}, "single_label", "name a file of them in data.unlabelled"),
    "nothing to learn": ({"data.unlabelled": "a.txt"}, "single_label", "nothing is learned from texts without labels"),
    "other tasks": (KEYS, "token", "is for SequenceClassification without windows; this is TokenClassification"),
    "windows": (KEYS, "documents", "without windows; this is SequenceClassification single_label in windows"),
    "several labels": (KEYS, "multi_label", r"one a text \(problem single_label\); this is SequenceClassification mul"),
    "class weights": (KEYS | {"task.class_weights": (1.0, 2.0, 3.0)}, "single_label", "asks for the label of each"),
    "mixtures": (KEYS | {"task.mixup": 0.5}, "single_label", r"config\.task\.mixup asks for the label of each text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_compose_is_refused(name: str):
    keys, task, said = REFUSED[name]
    experiment = config.Experiment(task=dataclasses.replace(support.TASKS[task].options))
    support.set_keys(experiment, keys)
    with pytest.raises(UserError, match=said) as caught:
        objectives.check(experiment, tasks.build(experiment.task), {})
    assert "\n" not in str(caught.value)
