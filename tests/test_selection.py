"""Which checkpoint is the best one, and what it is used with."""

import dataclasses

import numpy as np
import pytest
import support
from runs import experiment

from jaxft import models, modes, tables
from jaxft.tables.sequence_classification import SequenceClassification as Table
from jaxft.tasks.sequence_classification import SequenceClassification


@pytest.mark.parametrize(("lower", "best"), [(frozenset({"wer"}), 10), (frozenset(), 5)])
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
