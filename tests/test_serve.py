"""A service answers what --mode=predict does, within its limits, and compiles nothing once it is ready."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from runs import MINILM, TINY, count_compilations
from support import random_params
from test_predictor import CASES, close

from jaxft import config, models, tables, tasks
from jaxft.data.features import Features
from jaxft.hub import export
from jaxft.predict.predictor import Predictor
from jaxft.serve import app
from jaxft.serve.batcher import Batcher, Work
from jaxft.serve.limits import Limits
from jaxft.serve.measures import Measures
from jaxft.serve.service import Service

COLUMNS: dict[str, config.Task] = {
    "pairs": config.SequenceClassification(text="one", text_pair="two"),
    "answers": config.QuestionAnswering(stride=8),
}
"""Cases whose directories do not say which columns are read."""


def opened(name: str, folder: Path) -> Predictor:
    """A small random model of a case, as a run exports it."""
    assert MINILM
    options, model = CASES[name][0], models.build(TINY)
    task, published = tasks.build(options), tables.build(options).published(model, 64)
    extra = {"thresholds": dict.fromkeys("xyz", 0.25)} if name == "several" else {}
    hf, kind = TINY | {**published.settings} | extra, f"Bert{task.hf_class or 'Model'}"
    export.export(folder, random_params(task, model, seed=0), hf, kind, MINILM, "A test.", files=published.files)
    return Predictor.open(folder, task=COLUMNS.get(name))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Of a classifier and of embeddings."""
    folder = tmp_path_factory.mktemp("served")
    found = Service({name: opened(name, folder / name) for name in ("classes", "embeddings")}, Limits(tokens=256))
    yield found
    found.close()


def asked(service: Service, *requests: tuple[str, str, Any], key: str = "", **options: Any) -> list[httpx.Response]:
    """The answers to requests (method, path, body), all sent at once."""
    log: list[str] = []

    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app.build(service, key, log.append))  # pyright: ignore[reportArgumentType]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            def send(method: str, path: str, body: Any) -> Any:
                raw = not isinstance(body, dict)
                return client.request(method, path, **({"content": body} if raw else {"json": body}), **options)

            return await asyncio.gather(*(send(*one) for one in requests))

    found = asyncio.run(run())
    lines = [json.loads(line) for line in log]
    asked_often = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics")
    told = [
        (path, one.status_code)
        for one, (_, path, _) in zip(found, requests, strict=True)
        if path not in asked_often or one.status_code >= 400
    ]
    assert sorted((line["path"], line["status"]) for line in lines) == sorted(told)
    assert not [line for line in lines if line["status"] >= 500 and "error" in line]
    return found


def ask(service: Service, path: str, body: Any, **options: Any) -> Any:
    (found,) = asked(service, ("POST", path, body), **options)
    return found.json() | {"status": found.status_code}


@pytest.mark.parametrize("name", ["several", "entities", "answers", "choices", "masked"])
def test_answers_are_those_of_a_predictor(tmp_path, name):
    predictor = opened(name, tmp_path / name)
    inputs = CASES[name][1]
    wanted = predictor(inputs)
    served = Service({"m": predictor}, Limits(tokens=128))
    try:
        field = "texts" if isinstance(inputs[0], str) else "rows"
        found = ask(served, "/v1/predict", {field: inputs})
        assert found["status"] == 200, found
        assert all(answer.pop("cut") in (True, False) for answer in found["answers"])
        close(found["answers"], wanted)
    finally:
        served.close()


def test_many_ragged_requests_at_once_are_each_answered_by_its_own(service):
    rng = np.random.default_rng(0)
    sent = [[f"{'word ' * int(rng.integers(1, 60))}{i} {j}" for j in range(rng.integers(1, 9))] for i in range(24)]
    predictor = service.models["classes"].predictor
    wanted = [predictor(texts) for texts in sent]
    requests = [("POST", "/v1/predict", {"texts": texts}) for texts in sent]
    found: list[httpx.Response] = []
    assert count_compilations(lambda: found.extend(asked(service, *requests))) == 0
    for one, answers in zip(found, wanted, strict=True):
        close([{k: v for k, v in answer.items() if k != "cut"} for answer in one.json()["answers"]], answers)


def test_a_batch_has_as_many_requests_as_it_has_tokens(service):
    """The oldest first, with what fits beside it of the same model; what is larger than a batch is computed alone."""

    def work(tokens: int, name: str = "classes") -> Work:
        return Work(service.models[name].predictor, Features(np.array([0, tokens]), {}, {}))

    works = [work(60), work(30), work(20), work(5, "embeddings"), work(10), work(500), work(1)]
    numbers = {id(one): number for number, one in enumerate(works)}
    batcher = Batcher(100, Measures())
    batcher.close()  # its thread has gone: what waits is taken here
    batcher._waiting.extend(works)
    taken = [batcher._next() for _ in range(5)]
    assert [[numbers[id(one)] for one in batch] for batch in taken] == [[0, 1, 4], [2, 6], [3], [5], []]


def test_a_body_that_comes_in_parts_is_counted(service):
    """As without a Content-Length: the limit is of the bytes that came."""

    async def parts(size: int):
        body = json.dumps({"texts": ["a"]}).encode()
        yield body + b" " * (size - len(body) - 1)
        yield b" "

    def status(size: int) -> int:
        head = {"content-type": "application/json"}
        return ask(service, "/v1/predict", parts(size), headers=head)["status"]

    most = service.limits.body
    assert (status(most), status(most + 1)) == (200, 413)


def test_what_is_cut_is_said(service):
    long = "word " * 100
    found = ask(service, "/v1/predict", {"texts": ["short", long, "word " * 62]})
    assert [answer["cut"] for answer in found["answers"]] == [False, True, False]
    assert found["usage"]["tokens"] == 3 + 64 + 64
    most = service.limits.characters  # one word of so many becomes one unknown token
    found = ask(service, "/v1/predict", {"texts": ["w" * most, "w" * (most + 1)]})
    assert [answer["cut"] for answer in found["answers"]] == [False, True]


def test_embeddings_as_openai_has_them(service):
    plain = ask(service, "/v1/embeddings", {"input": "a", "model": "embeddings"})
    coded = ask(service, "/v1/embeddings", {"input": ["a"], "model": "embeddings", "encoding_format": "base64"})
    vector = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, plain["data"][0]["embedding"], rtol=1e-5)
    assert vector.shape == (32,) and plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert ask(service, "/v1/embeddings", {"input": "a"})["status"] == 400


def test_the_open_inference_protocol(service):
    described, ready = asked(service, ("GET", "/v2/models/classes", None), ("GET", "/v2/models/classes/ready", None))
    assert described.json()["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert ready.status_code == 200
    body = {"id": "7", "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b c"]}]}
    found = ask(service, "/v2/models/classes/infer", body)
    tensors = {one["name"]: one for one in found["outputs"]}
    assert found["id"] == "7" and tensors["probabilities"]["shape"] == [2, 2]
    assert len(tensors["probabilities"]["data"]) == 4 and set(tensors["prediction"]["data"]) <= {"no", "yes"}
    body["inputs"][0]["shape"] = [3]
    assert ask(service, "/v2/models/classes/infer", body)["status"] == 400


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 422, "JSON decode error"),
        (b"\xff", 400, ""),
        (b"[" * 100_000, 400, ""),
        ({}, 422, 'give either "texts" or "rows"'),
        ({"texts": []}, 422, "there is no text and no row"),
        ({"texts": [1]}, 422, "body.texts.0: Input should be a valid string"),
        ({"texts": ["a"], "txt": 1}, 422, "Extra inputs are not permitted"),
        ({"texts": ["a", " "]}, 422, "texts, row 2: column 'text' holds empty text"),
        (b'{"texts": ["\\ud800"]}', 422, "texts, row 1: '\\ud800' holds half a character"),
        ({"rows": [{"sentence": "a"}]}, 422, "rows have no column 'text', which the model reads; they have 'sentence'"),
        ({"rows": [{"text": {"a": ["b"]}}]}, 422, "column 'text'"),
        ({"rows": [{"text": 10**30}]}, 422, "Arrow cannot store"),
        ({"texts": ["a"] * 300}, 413, "300 texts are more than the 256"),
        ({"texts": ["a"], "model": "clases"}, 404, "there is no model 'clases'; did you mean 'classes'?"),
        (b'{"texts": ["' + b"a" * (1 << 20) + b'"]}', 413, "more than 1,048,576 bytes"),
    ],
)
def test_a_wrong_body_is_told(service, body, status, said):
    (found,) = asked(service, ("POST", "/v1/predict", body), headers={"content-type": "application/json"})
    error = found.json()["error"]
    assert (found.status_code, error["code"]) == (status, status) and said in error["message"]
    assert "\n" not in error["message"]


def test_overload_is_refused_and_nothing_is_lost(tmp_path):
    small = Service({"m": opened("classes", tmp_path / "m")}, Limits(tokens=64, queue=8))
    try:
        found = asked(small, *[("POST", "/v1/predict", {"texts": ["a", "b"]})] * 30)
        by_status = {status: [one for one in found if one.status_code == status] for status in (200, 429)}
        assert len(by_status[200]) + len(by_status[429]) == 30 and by_status[200] and by_status[429]
        assert all(one.headers["retry-after"] == "1" for one in by_status[429])
        assert small.busy == 0 and ask(small, "/v1/predict", {"texts": ["a"]})["status"] == 200
        small.drain()
        state, answered = asked(small, ("GET", "/health/ready", None), ("POST", "/v1/predict", {"texts": ["a"]}))
        assert (state.status_code, answered.status_code) == (503, 200) and answered.headers["connection"] == "close"
    finally:
        small.close()


def test_a_key(service):
    paths = ["/health/live", "/health/ready", "/v2/health/ready", "/", "/info", "/metrics", "/v2", "/openapi.json"]
    requests = [("GET", path, None) for path in paths]
    codes = [one.status_code for one in asked(service, *requests, key="secret")]
    assert codes == [200] * 4 + [401] * 4
    wrong = asked(service, *requests, key="secret", headers={"Authorization": "Bearer secre"})
    assert [one.status_code for one in wrong] == codes
    right = asked(service, *requests, key="secret", headers={"Authorization": "Bearer secret"})
    assert [one.status_code for one in right] == [200] * 8


def test_metrics(service):
    ask(service, "/v1/predict", {"texts": ["a"]})
    (page,) = asked(service, ("GET", "/metrics", None))
    samples = {s.name: s for family in text_string_to_metric_families(page.text) for s in family.samples}
    assert samples["jaxft_queue_texts"].value == 0 and samples["jaxft_ready"].value == 1
    assert samples["jaxft_queue_limit_texts"].value == service.limits.queue
    assert {"jaxft_requests_total", "jaxft_batch_fill_count", "jaxft_predictions_total"} <= samples.keys()


def test_pages_need_nothing_from_elsewhere(service):
    for page in asked(service, ("GET", "/", None), ("GET", "/docs", None)):
        assert page.status_code == 200 and "http://" not in page.text and "https://" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
