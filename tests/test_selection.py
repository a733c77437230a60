"""Which checkpoint is the best one, and what it is used with."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import pytest
import support
from runs import experiment

from jaxft import config, models, modes, tables
from jaxft.modes import exporting
from jaxft.tables.sequence_classification import SequenceClassification as Table
from jaxft.tasks.sequence_classification import SequenceClassification
from jaxft.train import loop


@pytest.mark.parametrize(
    ("lower", "best"), support.once([(frozenset({"wer"}), 10), (frozenset(), 5)], (frozenset({"wer"}), 10))
)
def test_a_task_of_ones_own_says_whether_less_is_better(lower, best, tiny_model, cache, tmp_path, monkeypatch):
    rates = iter([0.9, 0.2, 0.5])  # at steps 5, 10 and 15; then of the test split

    @dataclasses.dataclass(frozen=True)
    class Own(Table):
        metric = "wer"  # pyright: ignore

        def metrics(self, outputs, features, split):
            return {"wer": next(rates, 0.0)}

    monkeypatch.setattr(tables, "build", lambda options: Own(options, lower=lower))
    e = experiment(tiny_model, cache, train={"epochs": 1.5})
    results = modes.train(e, str(tmp_path / "run"))
    assert results["best_step"] == best and results["validation/wer"] == {5: 0.9, 10: 0.2}[best]


@pytest.mark.parametrize(
    ("name", "lower"),
    [("regression", {"mse"}), ("single_label", {"ece"}), ("token", {"ece"}), ("masked_lm", {"perplexity"})],
)
def test_which_metrics_of_the_tasks_less_is_better_of(name, lower):
    table = support.TASKS[name].table
    assert lower <= table.lower and table.metric not in lower - {"perplexity"}


def test_an_output_may_be_called_loss():
    """The sums over a batch are beside the task's outputs, not among them."""

    @dataclasses.dataclass(frozen=True)
    class Named(SequenceClassification):
        outputs = {"loss": "example", "weight": "example"}  # noqa: RUF012  # pyright: ignore

        def forward(self, params, model, batch, run):
            found = super().forward(params, model, batch, run)["logits"]
            return {"loss": found, "weight": found + 1}

        def loss(self, outputs, batch):
            return super().loss({"logits": outputs["loss"]}, batch)

    case, model = support.TASKS["single_label"], models.build(support.SMALL)
    task = Named(case.options)  # pyright: ignore
    features = support.random_features(np.random.default_rng(0), case, [5, 9], support.SMALL)
    host = support.lay_out(features, task, 12)
    composed = support.compose(task, model)
    found = composed.eval_step(composed.split(support.random_params(task, model, 0)), support.arrays(host))
    assert found.outputs["loss"].shape == found.outputs["weight"].shape and found.weight == 2
    assert found.total.shape == ()


class Seen(NamedTuple):
    """What evaluations find: the metric, the loss; and what is then known: the best of them, and the patience used."""

    found: tuple[tuple[float, float], ...]
    best: int
    used: int


UNKNOWN = math.nan
EVALUATIONS = {
    "the last is best": Seen(((0.5, 2.0), (0.6, 3.0)), 2, 0),
    "the first is best": Seen(((0.6, 2.0), (0.5, 1.0), (0.6, 1.0)), 1, 2),
    "never known: the loss decides, no patience is used": Seen(((UNKNOWN, 2.0), (UNKNOWN, 1.0), (UNKNOWN, 3.0)), 2, 0),
    "known at last": Seen(((UNKNOWN, 1.0), (-0.9, 5.0), (UNKNOWN, 0.5)), 2, 0),
    "unknown in between": Seen(((0.5, 1.0), (UNKNOWN, 0.1), (0.4, 1.0)), 1, 1),
    "nothing is known": Seen(((UNKNOWN, UNKNOWN), (UNKNOWN, UNKNOWN)), 1, 0),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_the_best_so_far(name):
    wanted, position = EVALUATIONS[name], loop.Position()
    for position.step, (metric, loss) in enumerate(wanted.found, 1):
        loop._select(position, {"pearson": metric, "loss": loss}, lambda values: values["pearson"])
    assert (position.best_step, position.bad_evals) == (wanted.best, wanted.used)
    assert position.validated["loss"] == pytest.approx(wanted.found[-1][1], nan_ok=True)


def test_an_export_holds_its_own_decisions_alone():
    base = {"model_type": "bert", "thresholds": {"news": 0.3}, "problem_type": "multi_label_classification"}
    assert exporting.settings(base, {"id2label": {"0": "a"}}, {}) == {"model_type": "bert", "id2label": {"0": "a"}}
    assert exporting.settings(base, {}, {"a": 0.5})["thresholds"] == {"a": 0.5}
    options = config.SequenceClassification(labels=("a", "b"), problem="multi_label")
    table = tables.build(options)
    assert table.decide({"news": 0.3}).options.thresholds == () and table.decide({"a": 0.1}).options.thresholds == ()
    assert table.decide({"b": 0.2, "a": 0.1, "news": 0.3}).options.thresholds == (0.1, 0.2)
