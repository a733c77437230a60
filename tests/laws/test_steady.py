"""Law 7: one step, few shapes. No silent recompilation, no host sync in the hot loop, no implicit transfer."""

import json
from functools import partial

import jax
import pytest
from runs import count_compilations, experiment, lines

from jaxft import modes
from jaxft.config import check
from jaxft.data.batches import Feed
from jaxft.job import prepare
from jaxft.modes import training
from jaxft.train import loop


def test_a_longer_run_compiles_nothing_more(tiny_model, cache, tmp_path):
    counts = []
    for epochs in (1, 1, 3):  # the first one also compiles what all runs of a process share
        e = experiment(tiny_model, cache, train={"epochs": epochs, "eval_every": 10})
        workdir = str(tmp_path / str(len(counts)))
        counts.append(count_compilations(partial(modes.train, e, workdir)))
    assert counts[1] == counts[2] > 0
    assert len(lines(tmp_path / "2")) > len(lines(tmp_path / "1"))


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize("batch_size", [7, 32])
def test_shapes_are_few_and_hold_every_batch(tiny_model, cache, packing, batch_size):
    job = prepare(check(experiment(tiny_model, cache, data={"packing": packing}, train={"batch_size": batch_size})))
    assert 1 <= len(job.shapes) <= job.experiment.data.shapes
    seen = [
        host.examples for host, batch in job.feed("train").train(job.order, 0, job.steps) if _fits(job, host, batch)
    ]
    assert len(seen) == job.steps and sorted(i for part in seen for i in part) == list(range(160))


def _fits(job, host, batch) -> bool:
    shape = host.shape
    assert shape in job.shapes and batch["input_ids"].shape == (shape.rows, shape.length)
    assert int(batch["weights"].sum()) == len(host.examples) <= job.order.batch_size
    return True


def test_an_implicit_transfer_stops_the_run(tiny_model, cache, tmp_path, monkeypatch):
    plain = Feed._put

    def careless(self, host):
        batch = plain(self, host)
        return batch | {"weights": batch["weights"] * host.arrays["weights"]}  # a host array among the device's

    monkeypatch.setattr(Feed, "_put", careless)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        modes.train(experiment(tiny_model, cache), str(tmp_path / "run"))


def test_metrics_arrive_one_interval_late_and_nothing_else_is_fetched(tiny_model, cache, tmp_path, monkeypatch):
    happened: list[tuple[str, int]] = []
    plain_fit, plain_get = loop.fit, jax.device_get

    def fit(step, *args, **kwargs):
        def spied(state, batch):
            happened.append(("step", sum(kind == "step" for kind, _ in happened) + 1))
            return step(state, batch)

        def fetch(x):
            happened.append(("fetch", len(x) if isinstance(x, list) else 0))
            return plain_get(x)

        monkeypatch.setattr(jax, "device_get", fetch)
        return plain_fit(spied, *args, **kwargs)

    monkeypatch.setattr(training, "fit", fit)
    e = experiment(tiny_model, cache, train={"log_every": 3, "eval_every": 10, "epochs": 1})
    modes.train(e, str(tmp_path / "run"))
    before_eval = happened[: happened.index(("step", 10))]
    # Steps 1 to 3 are read after step 6 was dispatched, 4 to 6 after step 9; in between nothing is.
    wanted = [("step", i) for i in range(1, 10)]
    wanted.insert(6, ("fetch", 3))
    wanted.append(("fetch", 3))
    assert before_eval == wanted


def test_a_run_says_how_busy_its_devices_are(finished):
    results = json.loads((finished / "results.json").read_text())
    logged = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    found = [line["model_flops_utilization"] for line in logged if line["split"] == "train"]
    assert all(0 < x < 1 for x in [*found, results["train/model_flops_utilization"]])
    assert 0 <= results["train/input_wait_fraction"] < 1
