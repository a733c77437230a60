"""A real Prometheus, Debian's package of that name, reads a service and a run that trains, by the files of deploy/."""

import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from runs import ROOT, experiment, free_port, start, write_config
from test_serve_process import serving

from jaxft.modes.serving import KEY

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus (of Debian) is not installed"),
]

DEPLOY = ROOT / "deploy"

SILENT = re.compile(r'status=~?"(5..|429)"|offset 1[dw]|^up\{job="jaxft"\} == 0$|> [\d.]+|!= jaxft_train_loss')
"""In expressions that find nothing where all is well, and nothing that is a day old."""


class Prometheus:
    """One that runs, at an address."""

    def __init__(self, url: str, process: subprocess.Popen):
        self.url, self.process = url, process

    def get(self, path: str, **params: str) -> Any:
        found = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=30).json()
        assert found["status"] == "success", (params, found)
        return found["data"]

    def value(self, expression: str) -> float | None:
        """Of the one series that an expression finds; None: it finds none."""
        found = self.get("query", query=expression)["result"]
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None

    def until(self, expression: str, wanted: float, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while (found := self.value(expression)) != wanted:
            assert self.process.poll() is None and time.monotonic() < end, (expression, found)
            time.sleep(0.2)


@contextmanager
def prometheus(folder: Path, targets: dict[str, str], key: str):
    """Prometheus with our config and rules, of other targets, ten times as often."""
    (folder / "key").write_text(key)
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(folder / "key")
    for group in rules["groups"]:
        group["interval"] = "1s"
    for name, content in (("prometheus.yml", config), ("rules.yml", rules)):
        (folder / name).write_text(yaml.safe_dump(content))
    checked = subprocess.run(["promtool", "check", "config", folder / "prometheus.yml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    port = free_port()
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None and time.monotonic() < end, (folder / "prometheus.log").read_text()
            time.sleep(0.1)
        yield Prometheus(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def training(folder: Path, model: Path, cache: Path):
    """A run that trains until it is stopped, and the address of its metrics."""
    config = write_config(folder / "mine.py", experiment(model, cache, train={"epochs": 10_000}))
    port = free_port()
    flags = [f"--config={config}", f"--workdir={folder / 'run'}", f"--metrics_port={port}"]
    process = start(*flags, log=folder / "train.log")
    try:
        yield f"127.0.0.1:{port}"
        process.terminate()
        assert process.wait(timeout=60) == 75, (folder / "train.log").read_text()
    finally:
        process.kill()
        process.wait()


def expressions() -> list[str]:
    """All of the dashboard and of the rules, with the dashboard's variables filled in."""
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    found = [re.sub(r"\$(job|model|run)", ".*", one).replace("$__rate_interval", "30s") for one in found]
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    return found + [rule["expr"] for group in groups for rule in group["rules"]]


def test_prometheus_reads_a_service_and_a_run(finished, tiny_model, cache, tmp_path, monkeypatch):
    """Every expression is answered; where the service and the run have said something, by numbers, which are theirs."""
    monkeypatch.setenv(KEY, "a secret")
    with (
        training(tmp_path, tiny_model, cache) as trains,
        serving(finished, tmp_path / "serve.log") as (_, url),
        prometheus(tmp_path, {"jaxft": url.removeprefix("http://"), "jaxft_train": trains}, "a secret") as asked,
    ):
        asked.until('up{job="jaxft"}', 1)
        asked.until('up{job="jaxft_train"}', 1)
        for texts in (["a day", "no"], ["what a lovely day " * 3]):
            found = httpx.post(
                f"{url}/v1/predict", json={"texts": texts}, headers={"Authorization": "Bearer a secret"}, timeout=60
            )
            assert found.status_code == 200
        asked.until('jaxft_requests_total{route="/v1/predict", status="200"}', 2)
        asked.until("count(jaxft_train_evaluation{metric='accuracy'})", 1)
        assert asked.value("jaxft_texts_total") == asked.value("sum(jaxft_predictions_total)") == 3
        assert asked.value("jaxft_queue_limit_texts") == 1024 and asked.value("jaxft_train_steps") == 100_000
        assert 0 < (asked.value("jaxft_train_step / jaxft_train_steps") or 0) < 1
        time.sleep(5)  # so that rates have two points, and recorded rules one
        empty = [one for one in expressions() if not asked.get("query", query=one)["result"]]
        assert [one for one in empty if not SILENT.search(one)] == []
        groups = asked.get("rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
        assert {rule["state"] for group in groups for rule in group["rules"] if rule["type"] == "alerting"} == {
            "inactive"
        }
