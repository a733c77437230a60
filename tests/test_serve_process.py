"""A service in a process of its own, over loopback: half requests, overload, and its end by SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from runs import ROOT, command, environment, free_port, start, until
from test_predictor import close

from jaxft.predict.predictor import Predictor


@contextmanager
def serving(run: Path, log: Path, *flags: str):
    """A service of a run: its process and its address, once it is ready."""
    port = free_port()
    process = start("--mode=serve", f"--workdir={run}", f"--port={port}", "--serve.tokens=128", *flags, log=log)
    try:
        assert until(lambda: b"serving " in log.read_bytes(), process), log.read_text()
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def logged(log: Path) -> list[dict]:
    """The lines that the service wrote of its requests."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def served(finished, tmp_path_factory):
    log = tmp_path_factory.mktemp("served") / "log"
    with serving(finished, log) as (process, url):
        yield url, log, process


def test_sixteen_clients_get_the_answers_of_a_predictor(served, finished):
    url, _, _ = served
    sent = [[f"{'a day ' * (i * 7 % 12)}{i} {j}" for j in range(i % 5 + 1)] for i in range(64)]
    predictor = Predictor.open(str(finished))
    wanted = [predictor(texts) for texts in sent]

    def send(texts: list[str]) -> list[dict]:
        found = httpx.post(f"{url}/v1/predict", json={"texts": texts}, timeout=60).json()["answers"]
        return [{name: value for name, value in answer.items() if name != "cut"} for answer in found]

    with ThreadPoolExecutor(16) as pool:
        for found, answers in zip(pool.map(send, sent), wanted, strict=True):
            close(found, answers)


def test_half_requests_and_clients_that_go_harm_nobody(served):
    url, log, process = served
    host, port = url.removeprefix("http://").split(":")
    head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    for sent in (b"", b"POST /v1/pre", head, head + b'{"texts": ["a', b"\x16\x03\x01 no HTTP\r\n\r\n"):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(sent)
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(head + b'{"texts"')
        began = time.monotonic()
        assert httpx.post(f"{url}/v1/predict", json={"texts": ["a"]}, timeout=60).status_code == 200
        assert time.monotonic() - began < 10, "it waits for the slow one"
    assert process.poll() is None and not [line for line in logged(log) if line["status"] == 500]


def test_texts_are_not_logged(served):
    url, log, _ = served
    assert httpx.post(f"{url}/v1/predict", json={"texts": ["a secret"]}, timeout=60).status_code == 200
    assert "secret" not in log.read_text()
    last = [line for line in logged(log) if line["path"] == "/v1/predict"][-1]
    assert last["texts"] == 1 and last["tokens"] > 2 and last["model"] and last["seconds"] > 0


def test_at_sigterm_under_load_every_accepted_request_is_answered(finished, tmp_path):
    log, counts = tmp_path / "log", Counter()
    with serving(finished, log, "--serve.queue=8") as (process, url), ThreadPoolExecutor(12) as pool:

        def client(_: int) -> None:
            with httpx.Client(timeout=60) as connection:
                while True:
                    try:
                        found = connection.post(f"{url}/v1/predict", json={"texts": ["a day"] * 2})
                    except (httpx.NetworkError, httpx.RemoteProtocolError):
                        return  # it listens no more, or closed the connection before it read the request
                    counts[found.status_code] += 1
                    assert found.status_code == 429 or len(found.json()["answers"]) == 2

        clients = [pool.submit(client, number) for number in range(12)]
        assert until(lambda: counts[200] > 50, process)
        process.send_signal(signal.SIGTERM)
        for one in clients:
            one.result(timeout=60)
        assert process.wait(timeout=60) == 0
    assert counts.keys() == {200, 429}
    written = Counter(line["status"] for line in logged(log))
    assert written == counts, "each request that it took was answered"
    assert log.read_text().rstrip().endswith("stopped: every accepted request is answered")


def test_a_port_that_is_taken(finished):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = command("--mode=serve", f"--workdir={finished}", f"--port={port}")
    assert done.returncode == 2 and f"error: --port={port} on --host=127.0.0.1: Address already in use" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_extra_is_not_installed(finished, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('not here', name='uvicorn')\n")
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    run = [sys.executable, str(ROOT / "run.py"), "--mode=serve", f"--workdir={finished}"]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, env=env)
    said = "error: --mode=serve needs uvicorn, which is not installed: pip install 'jaxft[serve]'\n"
    assert (done.returncode, done.stderr) == (2, said)
