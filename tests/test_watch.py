"""What Prometheus reads of a run while it trains: what the run logs, at a port that it listens at before it begins."""

import gc
import json
import math
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from itertools import pairwise

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from runs import experiment, free_port, start, until, write_config

from jaxft import cli
from jaxft.errors import UserError
from jaxft.modes.watching import watch, watched
from jaxft.report.exporter import Exporter
from jaxft.report.watch import Watch

Samples = dict[tuple[str, ...], float]
"""Name, and the values of the labels in the order of the labels' names -> value."""


def by_name(families: Iterable[Metric]) -> Samples:
    """Raises an error where two are of one name and labels."""
    found = [sample for family in families for sample in family.samples]
    samples = {(one.name, *(one.labels[name] for name in sorted(one.labels))): one.value for one in found}
    assert len(samples) == len(found)
    return samples


def scraped(port: int) -> Samples:
    """What is read at a port of this machine; nothing where nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            text = page.read().decode()
    except urllib.error.URLError:
        return {}
    return by_name(text_string_to_metric_families(text))


def test_a_run_that_trains_is_read(tmp_path, tiny_model, cache):
    """Each number that is read stands in the run's own log, and SIGTERM ends it as it does any other."""
    e = experiment(tiny_model, cache, train={"epochs": 1000})
    config, log, port = write_config(tmp_path / "mine.py", e), tmp_path / "log", free_port()
    found: list[Samples] = [{}]

    def trained() -> bool:
        found.append(scraped(port))
        return ("jaxft_train_evaluation", "accuracy", "validation") in found[-1]

    process = start(f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--metrics_port={port}", log=log)
    try:
        assert until(trained, process), log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert f"metrics at http://127.0.0.1:{port}/metrics\n" in log.read_text()
    samples, lines = found[-1], [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    logged = {(line["split"], name, value) for line in lines for name, value in line.items() if name != "split"}
    for name in ("loss", "grad_norm", "learning_rate", "examples_per_second", "real_tokens_per_second"):
        assert ("train", name, samples[f"jaxft_train_{name}",]) in logged
    evaluated = {key[1:]: value for key, value in samples.items() if key[0] == "jaxft_train_evaluation"}
    assert {("loss", "validation"), ("accuracy", "validation")} <= evaluated.keys()
    assert {(split, name, value) for (name, split), value in evaluated.items()} <= logged
    assert samples["jaxft_train_info", str(tiny_model), "tiny", "sequence_classification", "0.1.0"] == 1
    assert samples["jaxft_train_steps",] == 10_000 and samples["jaxft_train_skipped_total",] == 0
    step = samples["jaxft_train_step",]
    assert 5 <= step < 10_000 and samples["jaxft_train_epoch",] == step / 10
    since = [one["jaxft_train_seconds_since_step",] for one in found if ("jaxft_train_step",) in one]
    assert min(since) >= 0 and any(later < sooner for sooner, later in pairwise(since)), "each step begins it anew"


def page(watching: Watch) -> Samples:
    return by_name(Exporter(watching).collect())


def test_what_is_not_known_is_not_said(monkeypatch):
    """Nothing before the run begins; then what there is, of a run that goes on too; then the newest of each."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    seen, step = Watch(), 40
    assert page(seen) == {}
    seen.begin({"run": "r", "model": "m", "task": "t", "version": "1"}, 90, 20, lambda: step)
    now += 3
    known = {("jaxft_train_info", "m", "r", "t", "1"): 1, ("jaxft_train_step",): 40, ("jaxft_train_steps",): 90}
    assert page(seen) == {**known, ("jaxft_train_epoch",): 2, ("jaxft_train_seconds_since_step",): 3}
    step = 41
    seen.note_step()
    now += 0.5
    seen.note("train", {"loss": 2.0, "skipped": 4, "skipped_in_a_row": 1})
    seen.note("train", {"loss": math.nan, "skipped": 5, "skipped_in_a_row": 2})
    for split, value in (("validation", 0.5), ("test", 0.25), ("validation", 0.75)):
        seen.note(split, {"loss": 1.0, "f1": value})
    found = page(seen)
    assert math.isnan(found.pop(("jaxft_train_loss",)))
    evaluated = {("jaxft_train_evaluation", "loss", split): 1.0 for split in ("validation", "test")}
    evaluated |= {("jaxft_train_evaluation", "f1", split): f1 for split, f1 in (("validation", 0.75), ("test", 0.25))}
    moved = {("jaxft_train_step",): 41, ("jaxft_train_epoch",): 2.05, ("jaxft_train_seconds_since_step",): 0.5}
    assert found == {**known, **moved, **evaluated, ("jaxft_train_skipped_total",): 5}
    seen.begin({"run": "r", "model": "m", "task": "t", "version": "1"}, 90, 0, lambda: 40)
    assert page(seen) == {**known, ("jaxft_train_seconds_since_step",): 0}


def test_it_listens_as_long_as_the_run(capsys, recwarn):
    port = free_port()
    with watch(port):
        assert capsys.readouterr().err == f"metrics at http://127.0.0.1:{port}/metrics\n"
        seen = watched.get()
        assert seen and scraped(port) == {}
        seen.begin({"run": "r"}, 7, 1, lambda: 3)
        assert scraped(port)["jaxft_train_info", "", "r", "", ""] == 1 and scraped(port)["jaxft_train_steps",] == 7
    assert watched.get() is None
    gc.collect()
    assert not [one for one in recwarn if issubclass(one.category, ResourceWarning)], "it is closed, not forgotten"
    with socket.socket() as free:  # nobody has it any more
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
    with watch(0):
        assert watched.get() is None


def test_a_port_that_is_taken(tmp_path, capsys):
    """It is said before anything is read or written."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        argv = ["--config=quickstart", f"--workdir={tmp_path / 'run'}", f"--metrics_port={port}"]
        assert cli.main(["run.py", *argv], None) == 2
    said = f"error: --metrics_port={port} on --host=127.0.0.1: Address already in use; choose another port or host\n"
    assert capsys.readouterr().err == said and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("port", "host", "said"),
    [
        (0, "0.0.0.0", "--host=0.0.0.0 is for --metrics_port, which is not given; give both or neither"),
        (70000, "127.0.0.1", "--metrics_port=70000 on --host=127.0.0.1: "),
        (8001, "192.0.2.1", "--metrics_port=8001 on --host=192.0.2.1: Cannot assign requested address; choose"),
    ],
)
def test_where_it_cannot_listen(port, host, said):
    with pytest.raises(UserError) as found, watch(port, host):
        raise AssertionError("it must not begin")
    assert str(found.value).startswith(said) and "\n" not in str(found.value)


def test_the_extra_is_not_installed(monkeypatch):
    monkeypatch.delitem(sys.modules, "jaxft.report.exporter", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    said = r"--metrics_port needs prometheus_client, which is not installed: pip install 'jaxft\[serve\]'"
    with pytest.raises(UserError, match=said), watch(8001):
        raise AssertionError("it must not begin")
